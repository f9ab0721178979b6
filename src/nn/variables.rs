//! Networks as lists of named values: the way between a network and a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::nn::{Network, Part, PartMut, Visitor, VisitorMut};
use crate::{Device, Error, ErrorKind, ModelResult, Result};

/// A tensor on its way to or from a file: name, dimensions, values in row-major order.
pub(crate) type Named = (String, Vec<usize>, Vec<f32>);

/// The same, its values shared with whom they are of.
pub(crate) type Shared = (String, Vec<usize>, Arc<Vec<f32>>);

/// The same, borrowed.
pub(crate) type View<'v> = (&'v str, &'v [usize], &'v [f32]);

/// Borrows a tensor.
pub(crate) fn view((name, dims, values): &Named) -> View<'_> {
    (name, dims, values)
}

/// Counts of calls of the random streams, by name.
pub(crate) type Counters = Vec<(String, u64)>;

/// All parameters and the calls of all random streams.
pub(crate) fn read<D: Device, N: Network<D>>(net: &N) -> ModelResult<(Vec<Shared>, Counters)> {
    let (mut tensors, mut counters) = (Vec::new(), Vec::new());
    net.visit(&mut Visitor::new(&mut |name, part| {
        match part {
            Part::Parameter(parameter) => {
                tensors.push((name.to_owned(), parameter.dims().to_vec(), parameter.shared_values()));
            }
            Part::Random(stream) => counters.push((name.to_owned(), stream.calls())),
        }
        Ok(())
    }))?;
    Ok((tensors, counters))
}

/// Keys every random stream from the run's seed, and refuses two parts of one name.
pub(crate) fn prepare<D: Device, N: Network<D>>(net: &N, seed: u64) -> ModelResult<()> {
    let mut names = BTreeSet::new();
    net.visit(&mut Visitor::new(&mut |name, part| {
        if !names.insert(name.to_owned()) {
            let message =
                format!("two parts of the network are named {name:?}; names must differ, since they are those on disk");
            return Err(Error::new(ErrorKind::InvalidArgument, message).into());
        }
        if let Part::Random(stream) = part {
            stream.set_key(seed, name);
        }
        Ok(())
    }))
}

/// Whether these tensors are exactly those of the network: every name, every shape.
pub(crate) fn check<'v, D: Device, N: Network<D>>(
    net: &N,
    tensors: impl Iterator<Item = View<'v>>,
    counters: &Counters,
) -> Result<()> {
    let mut found: BTreeMap<&str, &[usize]> = tensors.map(|(name, dims, _)| (name, dims)).collect();
    let mut counted: BTreeSet<&str> = counters.iter().map(|(name, _)| name.as_str()).collect();
    let mut wrong = Vec::new();
    net.visit(&mut Visitor::new(&mut |name, part| {
        match part {
            Part::Parameter(parameter) => match found.remove(name) {
                None => wrong.push(format!("{name:?} is missing")),
                Some(dims) if dims != parameter.dims() => {
                    wrong.push(format!("{name:?} has shape {dims:?}, expected {:?}", parameter.dims()));
                }
                Some(_) => {}
            },
            Part::Random(_) if !counted.remove(name) => wrong.push(format!("the random state {name:?} is missing")),
            Part::Random(_) => {}
        }
        Ok(())
    }))
    .map_err(crate::ModelError::into_error)?;
    wrong.extend(found.keys().map(|name| format!("{name:?} is not in the network")));
    wrong.extend(counted.iter().map(|name| format!("the random state {name:?} is not in the network")));
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Mismatch, format!("the tensors do not fit the network: {}", wrong.join(", "))))
}

/// Writes tensors that were [checked](check) into the network.
pub(crate) fn write<'v, D: Device, N: Network<D>>(
    net: &mut N,
    tensors: impl Iterator<Item = View<'v>>,
    counters: &Counters,
) -> ModelResult<()> {
    let values: BTreeMap<&str, &[f32]> = tensors.map(|(name, _, values)| (name, values)).collect();
    net.visit_mut(&mut VisitorMut::new(&mut |name, part| {
        match part {
            PartMut::Parameter(parameter) => {
                if let Some(values) = values.get(name) {
                    parameter.set_values(values)?;
                }
            }
            PartMut::Random(stream) => {
                if let Some((_, calls)) = counters.iter().find(|(known, _)| known == name) {
                    stream.set_calls(*calls);
                }
            }
        }
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Cpu, DeviceSpec};
    use crate::nn::{Dropout, Linear};

    type Net = (Linear<Cpu>, Dropout, Linear<Cpu>);

    fn net() -> Net {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let linear = |inputs, outputs| Linear::new(&device, inputs, outputs).unwrap();
        (linear(2, 3), Dropout::new(0.5), linear(3, 1))
    }

    #[test]
    fn tensors_that_are_missing_or_too_many_or_of_another_name_or_shape_are_named() {
        let net = net();
        let (good, counters) = read(&net).unwrap();
        let checked = |tensors: &[Shared], counters: &Counters| {
            check(&net, tensors.iter().map(|(name, dims, values)| (&**name, &**dims, &***values)), counters)
        };
        checked(&good, &counters).unwrap();
        let refused = |tensors: &[Shared], counters: &Counters, expected: &[&str]| {
            let error = checked(tensors, counters).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
            let message = error.to_string();
            assert!(expected.iter().all(|part| message.contains(part)), "{expected:?}: {message}");
        };
        for place in 0..good.len() {
            let name = good[place].0.as_str();
            let mut tensors = good.clone();
            tensors.remove(place);
            refused(&tensors, &counters, &[&format!("{name:?} is missing")]);
            tensors = good.clone();
            tensors[place].0 = "other".into();
            refused(&tensors, &counters, &[&format!("{name:?} is missing"), "\"other\" is not in the network"]);
            // As many values as before.
            tensors = good.clone();
            tensors[place].1.push(1);
            refused(&tensors, &counters, &[&format!("{name:?} has shape"), "expected"]);
            tensors = good.clone();
            tensors.push(("other".into(), vec![1], Arc::new(vec![0.0])));
            refused(&tensors, &counters, &["\"other\" is not in the network"]);
        }
        assert_eq!(counters.len(), 1);
        refused(&good, &Counters::new(), &["the random state", "is missing"]);
        refused(
            &good,
            &vec![counters[0].clone(), ("other".into(), 0)],
            &["the random state \"other\" is not in the network"],
        );
    }
}
