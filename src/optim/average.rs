//! Averages of weights over the steps of training.

use std::collections::BTreeMap;

use dfdx::tensor_ops::{TryAdd, TryMul};
use rayon::prelude::*;

use crate::nn::variables::{self, Named, Shared, View};
use crate::nn::{Network, Parameter, Part, PartMut, Visitor, VisitorMut};
use crate::{Device, Error, ErrorKind, ModelError, ModelResult, Result};

/// Values in one piece of work: large enough that handing it to another thread pays.
const CHUNK: usize = 1 << 15;

/// Weights averaged over training, which often generalise better than the last ones: exponentially (Polyak and Juditsky 1992),
/// or all alike (stochastic weight averaging, Izmailov et al. 2018). The estimator has one with
/// [`Builder::ema`](crate::Builder::ema); make your own in a loop by hand, and [swap](Self::swap) it in to evaluate.
///
/// It holds copies by name, on the network's device. Parameters that are frozen are followed too, so that running statistics
/// are averaged.
#[derive(Debug)]
pub struct WeightAverage<D: Device> {
    decay: Option<f64>,
    count: u64,
    values: BTreeMap<String, Parameter<D>>,
}

impl<D: Device> WeightAverage<D> {
    /// An exponential average that begins at the first weights it sees: `average = decay * average + (1 - decay) * w`, with a
    /// decay such as 0.999.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the decay is not within 0 and 1.
    pub fn exponential(decay: f64) -> Result<Self> {
        if (0.0..=1.0).contains(&decay) {
            return Ok(Self { decay: Some(decay), count: 0, values: BTreeMap::new() });
        }
        Err(Error::new(ErrorKind::InvalidArgument, format!("decay of averages: found {decay}, expected 0 to 1")))
    }

    /// The plain mean of the weights at every [`update`](Self::update): call it at the end of every cycle or epoch.
    pub fn uniform() -> Self {
        Self { decay: None, count: 0, values: BTreeMap::new() }
    }

    /// How many times weights were taken in.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes in the network's weights as they are now. Nothing is read from the device after the first time.
    ///
    /// # Errors
    /// When the network is another one than before, and those of the device.
    pub fn update<N: Network<D>>(&mut self, net: &N) -> ModelResult<()> {
        let share = match self.decay {
            Some(decay) => 1.0 - decay,
            None => 1.0 / (self.count as f64 + 1.0),
        } as f32;
        let (values, is_first) = (&mut self.values, self.count == 0);
        net.visit(&mut Visitor::new(&mut |name, part| {
            let Part::Parameter(parameter) = part else { return Ok(()) };
            if is_first {
                let device = parameter.identity().device().clone();
                values.insert(name.to_owned(), Parameter::from_vec(&device, parameter.dims(), parameter.values())?);
                return Ok(());
            }
            let average = values.get_mut(name).ok_or_else(|| ModelError::from(unknown(name)))?;
            match (average.host_mut(), parameter.host()) {
                (Some(average), Some(weights)) => {
                    average.par_chunks_mut(CHUNK).zip(weights.par_chunks(CHUNK)).for_each(|(average, weights)| {
                        average.iter_mut().zip(weights).for_each(|(average, w)| *average += share * (w - *average));
                    });
                    Ok(())
                }
                _ => {
                    let weights = parameter.flat().try_mul(share)?;
                    average.update(|average| {
                        *average = average.clone().try_mul(1.0 - share)?.try_add(weights)?;
                        Ok(())
                    })
                }
            }
        }))?;
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Exchanges the network's weights with the averages; a second call exchanges them back. Train in between, and you train
    /// the averages.
    ///
    /// # Errors
    /// [`ErrorKind::WrongOrder`] before the first [`update`](Self::update), [`ErrorKind::Mismatch`] when the network is
    /// another one, in both cases with nothing changed; and those of the device.
    pub fn swap<N: Network<D>>(&mut self, net: &mut N) -> Result<()> {
        if self.count == 0 {
            return Err(Error::new(ErrorKind::WrongOrder, "no weights have been averaged yet: train first"));
        }
        let values = &mut self.values;
        net.visit(&mut Visitor::new(&mut |name, part| match part {
            Part::Parameter(parameter) if values.get(name).is_none_or(|value| value.len() != parameter.len()) => {
                Err(unknown(name).into())
            }
            _ => Ok(()),
        }))
        .map_err(ModelError::into_error)?;
        net.visit_mut(&mut VisitorMut::new(&mut |name, part| {
            if let (PartMut::Parameter(parameter), Some(average)) = (part, values.get_mut(name)) {
                let (ours, theirs) = (average.values(), parameter.values());
                parameter.set_values(&ours)?;
                average.set_values(&theirs)?;
            }
            Ok(())
        }))
        .map_err(ModelError::into_error)
    }

    /// The averages, to be saved: name, dimensions, values.
    pub fn tensors(&self) -> Vec<Named> {
        let named = |(name, value): (&String, &Parameter<D>)| (name.clone(), value.dims().to_vec(), value.values());
        self.values.iter().map(named).collect()
    }

    /// The same without a copy of what is on the host.
    pub(crate) fn shared_tensors(&self) -> Vec<Shared> {
        let shared =
            |(name, value): (&String, &Parameter<D>)| (name.clone(), value.dims().to_vec(), value.shared_values());
        self.values.iter().map(shared).collect()
    }

    /// Takes over what [`tensors`](Self::tensors) and [`count`](Self::count) gave; an empty list begins anew.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] when they are not those of this network, with nothing changed; those of the device.
    pub fn restore<N: Network<D>>(&mut self, net: &N, tensors: &[Named], count: u64) -> Result<()> {
        self.restore_views(net, tensors.iter().map(variables::view), count)
    }

    /// [`restore`](Self::restore) from where the values are.
    pub(crate) fn restore_views<'v, N: Network<D>>(
        &mut self,
        net: &N,
        tensors: impl Iterator<Item = View<'v>>,
        count: u64,
    ) -> Result<()> {
        let mut found: BTreeMap<&str, View<'_>> = tensors.map(|tensor| (tensor.0, tensor)).collect();
        if found.is_empty() {
            (self.values, self.count) = (BTreeMap::new(), 0);
            return Ok(());
        }
        let mut values = BTreeMap::new();
        net.visit(&mut Visitor::new(&mut |name, part| {
            let Part::Parameter(parameter) = part else { return Ok(()) };
            let (_, _, saved) = found
                .remove(name)
                .filter(|(_, dims, _)| *dims == parameter.dims())
                .ok_or_else(|| ModelError::from(unknown(name)))?;
            let device = parameter.identity().device().clone();
            values.insert(name.to_owned(), Parameter::from_vec(&device, parameter.dims(), saved.to_vec())?);
            Ok(())
        }))
        .map_err(ModelError::into_error)?;
        if let Some(name) = found.keys().next() {
            return Err(unknown(name));
        }
        (self.values, self.count) = (values, count.max(1));
        Ok(())
    }
}

fn unknown(name: &str) -> Error {
    let message = format!("the averages of weights do not fit the network at {name:?}: missing, or of another shape");
    Error::new(ErrorKind::Mismatch, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Cpu, DeviceSpec};

    fn net(values: [f32; 2]) -> Parameter<Cpu> {
        Parameter::from_vec(&Cpu::open(DeviceSpec::Cpu, 0).unwrap(), &[2], values.to_vec()).unwrap()
    }

    #[test]
    fn averages_follow_their_formulas_and_swap() {
        let mut weights = net([0.0, 8.0]);
        let (mut ema, mut swa) = (WeightAverage::exponential(0.75).unwrap(), WeightAverage::uniform());
        assert_eq!(swa.swap(&mut weights).unwrap_err().kind(), ErrorKind::WrongOrder);
        for values in [[0.0, 8.0], [4.0, 4.0], [8.0, 0.0]] {
            weights.set_values(&values).unwrap();
            ema.update(&weights).unwrap();
            swa.update(&weights).unwrap();
        }
        // 0, then 1, then 0.75 + 2.
        assert_eq!(ema.tensors()[0].2, [2.75, 5.25]);
        swa.swap(&mut weights).unwrap();
        assert_eq!(weights.values(), [4.0, 4.0]);
        assert_eq!(weights.flat().as_vec(), [4.0, 4.0]);
        swa.swap(&mut weights).unwrap();
        assert_eq!(weights.values(), [8.0, 0.0]);
    }

    #[test]
    fn averages_come_back_and_refuse_another_network() {
        let mut ema = WeightAverage::exponential(0.5).unwrap();
        ema.update(&net([1.0, 2.0])).unwrap();
        let mut back = WeightAverage::exponential(0.5).unwrap();
        back.restore(&net([0.0, 0.0]), &ema.tensors(), ema.count()).unwrap();
        back.update(&net([3.0, 4.0])).unwrap();
        assert_eq!(back.tensors()[0].2, [2.0, 3.0]);
        let error = back.restore(&(net([0.0; 2]), net([0.0; 2])), &ema.tensors(), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(WeightAverage::<Cpu>::exponential(1.5).is_err());
    }
}
