//! Sums and means of all values of a tensor.

use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::{ReshapeTo, TryDiv};

use crate::nn::Tensor;
use crate::{Device, ModelError, ModelResult};

/// The sum of all values of a tensor of any shape, in the same order every time: for losses of your own. dfdx's `try_sum` adds up
/// its blocks in any order on CUDA devices and gives other bits every time, so that a resumed run is not exactly the one that
/// was broken off; on the CPU it drifts over millions of values.
///
/// # Errors
/// When the device's memory runs out.
pub fn sum<S: Shape, D: Device, T: Tape<f32, D>>(x: Tensor<S, D, T>) -> ModelResult<Tensor<(), D, T>> {
    let count = x.shape().num_elements();
    D::sum(x.try_reshape_like(&(count,))?)
}

/// The mean of all values of a tensor of any shape, in the same order every time: the last line of a loss of your own, in
/// place of dfdx's `try_mean`, for the reasons of [`sum`].
///
/// ```
/// # use elistimator::{DeviceSpec, prelude::*};
/// # fn main() -> ModelResult<()> {
/// # let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let errors = device.tensor_from_vec(vec![1.0, -1.0, 3.0, 0.5], (2usize, 2usize));
/// let loss = elistimator::nn::mean(errors.try_square()?)?;
/// assert_eq!(loss.array(), 2.8125);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When there is no value, and when the device's memory runs out.
pub fn mean<S: Shape, D: Device, T: Tape<f32, D>>(x: Tensor<S, D, T>) -> ModelResult<Tensor<(), D, T>> {
    let shape = *x.shape();
    let count = shape.num_elements();
    if count == 0 {
        let dims: Vec<usize> = shape.concrete().into_iter().collect();
        return Err(ModelError::msg(format!("mean: found a tensor of shape {dims:?}, expected at least one value")));
    }
    Ok(sum(x)?.try_div(count as f32)?)
}

#[cfg(test)]
mod tests {
    use dfdx::tensor::{AsArray, TensorFromVec, Trace};
    use dfdx::tensor_ops::{Backward, BroadcastTo};

    use super::*;
    use crate::DeviceSpec;
    use crate::device::Cpu;

    #[test]
    fn sums_and_means_of_any_shape_with_their_gradients() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let x: Tensor<(usize, usize), Cpu> = device.tensor_from_vec(vec![1.0, 2.0, 3.0, 4.0, 5.0, 9.0], (2, 3));
        let total = sum(x.leaky_trace()).unwrap();
        assert_eq!(total.array(), 24.0);
        assert_eq!(total.backward().get(&x).as_vec(), [1.0; 6]);
        let average = mean(x.leaky_trace()).unwrap();
        assert_eq!(average.array(), 4.0);
        assert_eq!(average.backward().get(&x).as_vec(), [1.0 / 6.0; 6]);
        // A view, in which a value stands for many; more of them than floats could be added up one by one.
        let one: Tensor<(), Cpu> = device.tensor_from_vec(vec![0.1], ());
        let many =
            one.leaky_trace().try_broadcast_like::<_, dfdx::shapes::Axes2<0, 1>>(&(3000usize, 3000usize)).unwrap();
        assert!((mean(many).unwrap().array() - 0.1).abs() < 1e-6);
        let few = one.leaky_trace().try_broadcast_like::<_, dfdx::shapes::Axis<0>>(&(4usize,)).unwrap();
        assert_eq!(mean(few).unwrap().backward().get(&one).array(), 1.0);
        let none: Tensor<(usize, usize), Cpu> = device.tensor_from_vec(vec![], (0, 3));
        assert_eq!(sum(none.clone()).unwrap().array(), 0.0);
        assert!(mean(none).unwrap_err().into_error().to_string().contains("[0, 3]"));
    }
}
