//! The losses of the steps, read from the device in blocks.

use dfdx::shapes::HasShape;
use dfdx::tensor_ops::TryStack;

use crate::gauges::MACHINE;
use crate::nn::{Tensor, read};
use crate::{Device, Error, ErrorKind, ModelError, Result};

/// One step's values, read.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct StepValues {
    pub(crate) step: u64,
    pub(crate) learning_rate: f64,
    pub(crate) loss: f64,
    /// Further losses, then the named values.
    pub(crate) scalars: Vec<(String, f64)>,
    pub(crate) further_losses: usize,
    /// Those of the host, for steps that are logged.
    pub(crate) gauges: Vec<(&'static str, f64)>,
}

/// How many steps may wait on the device before they are read: bounds the memory they hold, at a read in 1024 steps.
const BLOCK: usize = 1024;

/// Collects the losses and the named values of steps while they are still on the device. On the CPU they are read at once.
#[derive(Debug)]
pub(crate) struct TrainingLog<D: Device> {
    waiting: Vec<StepValues>,
    on_device: Vec<Tensor<(), D>>,
    last_loss: f64,
}

impl<D: Device> Default for TrainingLog<D> {
    fn default() -> Self {
        Self { waiting: Vec::new(), on_device: Vec::new(), last_loss: f64::NAN }
    }
}

impl<D: Device> TrainingLog<D> {
    /// Takes the values of a step: its losses, of which the first goes by that name, then the scalars.
    pub(crate) fn record(
        &mut self,
        step: u64,
        learning_rate: f64,
        gauges: Vec<(&'static str, f64)>,
        losses: Vec<Tensor<(), D>>,
        scalars: Vec<(String, Tensor<(), D>)>,
    ) {
        let (mut names, count) = (Vec::new(), losses.len());
        for (index, loss) in losses.into_iter().enumerate() {
            self.on_device.push(loss);
            if index > 0 {
                names.push((numbered("loss", index), f64::NAN));
            }
        }
        for (name, value) in scalars {
            self.on_device.push(value);
            names.push((name, f64::NAN));
        }
        if count > 0 {
            let further_losses = count - 1;
            self.waiting.push(StepValues {
                step,
                learning_rate,
                loss: f64::NAN,
                scalars: names,
                further_losses,
                gauges,
            });
        }
    }

    /// Whether a block has to be read now whatever the progress bar says.
    pub(crate) fn is_full(&self) -> bool {
        D::READS_ARE_FREE || self.waiting.len() >= BLOCK
    }

    /// Reads what waits, in one transfer, and hands it out.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn flush(&mut self) -> Result<Vec<StepValues>> {
        if self.waiting.is_empty() {
            return Ok(Vec::new());
        }
        // Both at once, so that they belong together also after an error.
        let (tensors, mut steps) = (std::mem::take(&mut self.on_device), std::mem::take(&mut self.waiting));
        let values = if let [only] = tensors.as_slice() {
            read(only)
        } else if D::READS_ARE_FREE {
            tensors.iter().flat_map(|tensor| read(tensor)).collect()
        } else {
            let stacked = tensors.try_stack().map_err(|error| ModelError::from(error).into_error())?;
            debug_assert_eq!(stacked.shape().0, steps.iter().map(|step| 1 + step.scalars.len()).sum::<usize>());
            read(&stacked)
        };
        let mut values = values.into_iter().map(f64::from);
        let mut next = || values.next().unwrap_or(f64::NAN);
        for step in &mut steps {
            step.loss = next();
            step.scalars.iter_mut().for_each(|(_, value)| *value = next());
        }
        self.last_loss = steps.last().map_or(self.last_loss, |step| step.loss);
        Ok(steps)
    }

    /// The loss that was read last: NaN before the first.
    pub(crate) fn last_loss(&self) -> f64 {
        self.last_loss
    }
}

/// The error of the first loss of a step that is not a number, if there is one.
pub(crate) fn not_finite(values: &StepValues) -> Option<Error> {
    let further = values.scalars.iter().take(values.further_losses).map(|(name, loss)| (name.as_str(), *loss));
    let (name, loss) = std::iter::once(("the loss", values.loss)).chain(further).find(|(_, loss)| !loss.is_finite())?;
    let message = format!("step {}: {name} is {loss}, expected a finite number", values.step);
    Some(Error::new(ErrorKind::NotFinite, message))
}

/// `loss`, `loss_2` and so on, from 0.
pub(crate) fn numbered(name: &str, index: usize) -> String {
    if index == 0 { name.to_owned() } else { format!("{name}_{}", index + 1) }
}

/// A name that is there more than once.
pub(crate) fn twice<'n>(names: &mut [&'n str]) -> Option<&'n str> {
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// Refuses named values that would be logged by the names of others: curves of two things are of none.
///
/// # Errors
/// [`ErrorKind::Model`] with the name.
pub(crate) fn check_names<V>(losses: usize, scalars: &[(String, V)]) -> Result<()> {
    if scalars.is_empty() {
        return Ok(());
    }
    let own: Vec<String> =
        (0..losses.max(1)).flat_map(|index| ["loss", "gradient_norm"].map(|name| numbered(name, index))).collect();
    let mut names: Vec<&str> = scalars.iter().map(|(name, _)| name.as_str()).collect();
    names.extend(own.iter().map(String::as_str).chain(MACHINE).chain(["learning_rate"]));
    let Some(name) = twice(&mut names) else { return Ok(()) };
    let message = format!("named values: found {name:?} twice, or as what the run itself logs by that name");
    Err(Error::new(ErrorKind::Model, message))
}

#[cfg(test)]
mod tests {
    use dfdx::tensor::TensorFrom;

    use super::*;
    use crate::device::{Cpu, DeviceSpec};

    #[test]
    fn values_come_back_with_their_steps_and_names() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let mut log = TrainingLog::default();
        log.record(
            1,
            0.1,
            vec![("data_wait", 0.5)],
            vec![device.tensor(0.5)],
            vec![("norm".into(), device.tensor(3.0))],
        );
        log.record(2, 0.1, vec![], vec![device.tensor(0.25)], vec![]);
        let steps = log.flush().unwrap();
        assert_eq!(steps[0].loss, 0.5);
        assert_eq!(steps[0].scalars, [("norm".to_owned(), 3.0)]);
        assert_eq!(steps[0].gauges, [("data_wait", 0.5)]);
        assert_eq!((steps[1].step, steps[1].loss), (2, 0.25));
        assert_eq!(log.last_loss(), 0.25);
        assert!(log.flush().unwrap().is_empty());
    }
}
