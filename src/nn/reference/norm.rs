//! Normalisation.

use dfdx::shapes::{Axes2, Axis, HasShape};
use dfdx::tensor::{NoneTape, SplitTape, Tape};
use dfdx::tensor_ops::{BroadcastTo, MeanTo, TryAdd, TryDiv, TryMul, TrySub};

use crate::nn::Parameter;
use crate::nn::backend::{Normalized, Rows, Sequences, Statistics};
use crate::{Device, ModelResult};

/// See [`Backend::layer_norm`](crate::nn::backend::Backend::layer_norm).
pub fn layer_norm<D: Device, T: Tape<f32, D>>(
    x: Rows<D, T>,
    weight: &Parameter<D>,
    bias: &Parameter<D>,
    epsilon: f32,
) -> ModelResult<Rows<D, T>> {
    let shape = *x.shape();
    let weight = weight.flat().retaped::<T>().try_broadcast_like::<_, Axis<0>>(&shape)?;
    let bias = bias.flat().retaped::<T>().try_broadcast_like::<_, Axis<0>>(&shape)?;
    Ok(x.try_normalize::<Axis<1>>(epsilon)?.try_mul(weight)?.try_add(bias)?)
}

/// See [`Backend::batch_norm`](crate::nn::backend::Backend::batch_norm).
pub fn batch_norm<D: Device, T: Tape<f32, D>>(
    x: Sequences<D, T>,
    weight: &Parameter<D>,
    bias: &Parameter<D>,
    epsilon: f32,
    statistics: Option<Statistics<D>>,
) -> ModelResult<Normalized<D, T>> {
    type Channels = Axes2<0, 2>;
    let shape = *x.shape();
    let (mean, variance) = match statistics {
        Some((mean, variance)) => (mean.retaped::<T>(), variance.retaped::<T>()),
        None => {
            let mean = x.retaped::<T>().try_mean::<(usize,), Channels>()?;
            let centred = x.retaped::<T>().try_sub(mean.retaped::<T>().try_broadcast_like::<_, Channels>(&shape)?)?;
            let variance = centred.try_square()?.try_mean::<(usize,), Channels>()?;
            (mean, variance)
        }
    };
    let used = (mean.retaped::<NoneTape>(), variance.retaped::<NoneTape>());
    let (variance, tape) = variance.split_tape();
    let deviation = variance.retaped::<T>().try_add(epsilon)?.try_sqrt()?.try_broadcast_like::<_, Channels>(&shape)?;
    let weight = weight.flat().retaped::<T>().try_broadcast_like::<_, Channels>(&shape)?;
    let bias = bias.flat().retaped::<T>().try_broadcast_like::<_, Channels>(&shape)?;
    let y = x.try_sub(mean.try_broadcast_like::<_, Channels>(&shape)?)?.try_div(deviation)?;
    let (y, own) = y.try_mul(weight)?.try_add(bias)?.split_tape();
    Ok((dfdx::tensor::PutTape::put_tape(y, own.merge(tape)), used.0, used.1))
}
