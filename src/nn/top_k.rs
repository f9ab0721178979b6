//! The largest values of each row.

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::{GatherTo, ReshapeTo};

use crate::nn::{Tensor, read};
use crate::{Device, ModelError, ModelResult};

/// The `k` largest values of each row of `(batch, values)` in falling order, `(batch, k)`, and their places in the row, `k` per
/// row. Of equal values the first comes first; NaN counts as largest. Gradients reach the chosen values. Reads the tensor from
/// the device.
///
/// ```
/// use elistimator::nn::{Tensor, top_k};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let x: Tensor<(usize, usize), Cpu> = dfdx::tensor::TensorFromVec::tensor_from_vec(&device, vec![1.0, 3.0, 2.0], (1, 3));
/// let (values, places) = top_k(x, 2)?;
/// assert_eq!((values.as_vec(), places), (vec![3.0, 2.0], vec![1, 2]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When a row has fewer than `k` values, or `k` is 0.
#[allow(clippy::type_complexity)]
pub fn top_k<B: Dim, K: Dim, D: Device, T: Tape<f32, D>>(
    x: Tensor<(B, K), D, T>,
    k: usize,
) -> ModelResult<(Tensor<(B, usize), D, T>, Vec<usize>)> {
    let (batch, width) = (x.shape().0, x.shape().1.size());
    let rows = batch.size();
    if k == 0 || k > width {
        return Err(ModelError::msg(format!("top-k: found k = {k} for rows of {width} values, expected 1 to {width}")));
    }
    if rows == 0 {
        return Err(ModelError::msg("top-k: found an empty batch, expected at least one row"));
    }
    let values = read(&x);
    let mut places = Vec::with_capacity(rows * k);
    for row in values.chunks_exact(width) {
        let mut order: Vec<usize> = (0..width).collect();
        let falling = |a: &usize, b: &usize| rank(row[*b]).total_cmp(&rank(row[*a])).then(a.cmp(b));
        if k < width {
            order.select_nth_unstable_by(k - 1, falling);
        }
        order.truncate(k);
        order.sort_unstable_by(falling);
        places.extend(order);
    }
    let flat = places.iter().enumerate().map(|(at, place)| at / k * width + place).collect();
    let flat = x.device().try_tensor_from_vec(flat, (rows * k,))?;
    let chosen = x.try_reshape_like(&(rows * width, 1usize))?.try_gather::<(usize, usize), (usize,)>(flat);
    Ok((chosen?.try_reshape_like(&(batch, k))?, places))
}

/// NaN of either sign above everything, and -0 equal to 0.
fn rank(value: f32) -> f32 {
    if value.is_nan() { f32::NAN } else { value + 0.0 }
}
