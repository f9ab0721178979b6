//! Arithmetic on one parameter's gradient: clipping, norms, sums over micro-batches.
//!
//! dfdx keeps the storage of gradients private, so on devices other than the CPU new values get in as the gradient of
//! `Σ w · values`, which is `values`.

use dfdx::tensor::{Cpu, NoneTape, TensorFrom, Trace};
use dfdx::tensor_ops::{Backward, BroadcastTo, ChooseFrom, SumTo, TryAdd, TryGt, TryMul};
use rayon::prelude::*;

use crate::nn::{Gradients, Parameter, Tensor};
use crate::{Device, ModelResult};

/// Values in one piece of a sum: fixed, so that the result does not depend on the threads.
const CHUNK: usize = 1 << 15;

pub(super) type Flat<D> = Tensor<(usize,), D, NoneTape>;

/// The gradient as a tensor of its own.
pub(super) fn read<D: Device>(parameter: &Parameter<D>, gradients: &mut Gradients<D>) -> ModelResult<Flat<D>> {
    parameter.gradient(gradients)
}

pub(super) fn write<D: Device>(
    parameter: &Parameter<D>,
    gradients: &mut Gradients<D>,
    values: Flat<D>,
) -> ModelResult<()> {
    let identity = parameter.identity();
    let mut fresh = identity.clone().trace(Gradients::leaky()).try_mul(values)?.try_sum::<(), _>()?.try_backward()?;
    std::mem::swap(gradients.get_or_alloc_mut(&identity)?, fresh.get_or_alloc_mut(&identity)?);
    Ok(())
}

pub(super) fn clip_value<D: Device>(
    parameter: &Parameter<D>,
    gradients: &mut Gradients<D>,
    limit: f32,
) -> ModelResult<()> {
    let clipped = read(parameter, gradients)?.try_clamp(-limit, limit)?;
    write(parameter, gradients, clipped)
}

pub(super) fn square_sum<D: Device>(
    parameter: &Parameter<D>,
    gradients: &mut Gradients<D>,
) -> ModelResult<Tensor<(), D>> {
    Ok(read(parameter, gradients)?.try_square()?.try_sum()?)
}

pub(super) fn scale<D: Device>(
    parameter: &Parameter<D>,
    gradients: &mut Gradients<D>,
    factor: &Tensor<(), D>,
) -> ModelResult<()> {
    let gradient = read(parameter, gradients)?;
    let factor = factor.clone().try_broadcast_like(&(parameter.len(),))?;
    let scaled = gradient.try_mul(factor)?;
    write(parameter, gradients, scaled)
}

pub(super) fn add<D: Device>(
    parameter: &Parameter<D>,
    sum: &mut Gradients<D>,
    gradients: &mut Gradients<D>,
    weight: f32,
) -> ModelResult<()> {
    let weighted = read(parameter, gradients)?.try_mul(weight)?;
    let total = read(parameter, sum)?.try_add(weighted)?;
    write(parameter, sum, total)
}

/// The factor that brings a norm down to the limit, as PyTorch computes it: `min(1, limit / (norm + 1e-6))`, on the device. It is NaN
/// where the norm is, so that such gradients spoil all weights at once, and are seen, instead of going on unclipped.
pub(super) fn clip_factor<D: Device>(norm: &Tensor<(), D>, limit: f32) -> ModelResult<Tensor<(), D>> {
    let factor = norm.clone().try_add(1e-6)?.try_recip()?.try_mul(limit)?;
    Ok(factor.try_gt(1.0)?.try_choose(norm.device().try_ones_like(&())?, factor)?)
}

/// The same on the host, in one pass without copies.
pub(super) mod host {
    use super::*;

    fn values<'g>(parameter: &Parameter<Cpu>, gradients: &'g mut Gradients<Cpu>) -> ModelResult<&'g mut [f32]> {
        Ok((**gradients.get_or_alloc_mut(&parameter.identity())?).as_mut_slice())
    }

    fn each(values: &mut [f32], f: impl Fn(&mut f32) + Sync) {
        values.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(&f));
    }

    pub(in super::super) fn clip_value(
        parameter: &Parameter<Cpu>,
        gradients: &mut Gradients<Cpu>,
        limit: f32,
    ) -> ModelResult<()> {
        each(values(parameter, gradients)?, |g| *g = g.clamp(-limit, limit));
        Ok(())
    }

    pub(in super::super) fn square_sum(
        parameter: &Parameter<Cpu>,
        gradients: &mut Gradients<Cpu>,
    ) -> ModelResult<Tensor<(), Cpu>> {
        let sum = |chunk: &[f32]| chunk.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        let sums: Vec<f64> = values(parameter, gradients)?.par_chunks(CHUNK).map(sum).collect();
        Ok(parameter.identity().device().tensor(sums.iter().sum::<f64>() as f32))
    }

    pub(in super::super) fn scale(
        parameter: &Parameter<Cpu>,
        gradients: &mut Gradients<Cpu>,
        factor: &Tensor<(), Cpu>,
    ) -> ModelResult<()> {
        let factor = factor.as_vec().first().copied().unwrap_or(1.0);
        if factor != 1.0 {
            each(values(parameter, gradients)?, |g| *g *= factor);
        }
        Ok(())
    }

    pub(in super::super) fn add(
        parameter: &Parameter<Cpu>,
        sum: &mut Gradients<Cpu>,
        gradients: &mut Gradients<Cpu>,
        weight: f32,
    ) -> ModelResult<()> {
        let gradient = values(parameter, gradients)?;
        values(parameter, sum)?
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .for_each(|(sum, gradient)| sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += weight * g));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;

    /// What other devices do, and what the host does, from the same gradients.
    #[test]
    fn the_composed_forms_compute_what_the_host_does() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let start: Vec<f32> = (0..CHUNK + 3).map(|i| (i % 7) as f32 - 3.0).collect();
        let parameter = Parameter::from_vec(&device, &[CHUNK + 3], vec![0.5; CHUNK + 3]).unwrap();
        let filled = || {
            let mut gradients = Gradients::leaky();
            host_values(&parameter, &mut gradients).copy_from_slice(&start);
            gradients
        };
        let (mut a, mut b) = (filled(), filled());
        let same = |a: &mut Gradients<Cpu>, b: &mut Gradients<Cpu>| {
            assert_eq!(host_values(&parameter, a), host_values(&parameter, b));
        };
        clip_value(&parameter, &mut a, 1.5).unwrap();
        host::clip_value(&parameter, &mut b, 1.5).unwrap();
        same(&mut a, &mut b);
        assert_eq!(host_values(&parameter, &mut a)[..3], [-1.5, -1.5, -1.0]);
        let factor = device.tensor(0.25);
        scale(&parameter, &mut a, &factor).unwrap();
        host::scale(&parameter, &mut b, &factor).unwrap();
        same(&mut a, &mut b);
        add(&parameter, &mut a, &mut filled(), 2.0).unwrap();
        host::add(&parameter, &mut b, &mut filled(), 2.0).unwrap();
        same(&mut a, &mut b);
        assert_eq!(host_values(&parameter, &mut a)[0], -6.375);
        let composed = square_sum(&parameter, &mut a).unwrap().as_vec()[0];
        let ours = host::square_sum(&parameter, &mut b).unwrap().as_vec()[0];
        // dfdx adds up one after another in f32, ours is the sum in f64.
        let in_order: f32 = host_values(&parameter, &mut a).iter().map(|g| g * g).sum();
        let exact: f64 = host_values(&parameter, &mut a).iter().map(|&g| f64::from(g) * f64::from(g)).sum();
        assert_eq!((composed, ours), (in_order, exact as f32));
        let norm = device.tensor(4.0);
        assert!((clip_factor(&norm, 1.0).unwrap().as_vec()[0] - 0.25).abs() < 1e-6);
        // PyTorch's `clip_grad_norm_` of gradients with these norms.
        for (norm, expected) in [(0.0, 1.0), (0.5, 1.0), (f32::INFINITY, 0.0)] {
            assert_eq!(clip_factor(&device.tensor(norm), 1.0).unwrap().as_vec(), [expected], "{norm}");
        }
        assert!(clip_factor(&device.tensor(f32::NAN), 1.0).unwrap().as_vec()[0].is_nan());
    }

    fn host_values<'g>(parameter: &Parameter<Cpu>, gradients: &'g mut Gradients<Cpu>) -> &'g mut [f32] {
        gradients.get_or_alloc_mut(&parameter.identity()).unwrap()
    }
}
