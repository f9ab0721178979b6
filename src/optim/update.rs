//! One update of one parameter.

use std::sync::Arc;

use crate::nn::backend::Backend;
use crate::nn::{Gradients, Parameter, Tensor};
use crate::optim::config::Rule;
use crate::optim::gradient;
use crate::{Device, ModelResult};

/// Updates a parameter in place. Sealed with [`Device`].
pub trait Update: Backend {
    /// Whether [`update`](Self::update) leaves the gradient zero, which costs little while it is at hand.
    #[doc(hidden)]
    const UPDATE_ZEROES: bool = false;

    /// Where the state of the parameters is.
    #[doc(hidden)]
    type Moments;

    /// Updates that wait for being made together.
    #[doc(hidden)]
    type Pending: Default;

    /// No state yet.
    #[doc(hidden)]
    fn no_moments() -> Self::Moments;

    /// The state of a parameter that was updated: its first or second moment, shared with the optimiser until the next update
    /// where the state is on the host.
    #[doc(hidden)]
    fn moment(moments: &Self::Moments, which: usize, parameter: &Parameter<Self>) -> Arc<Vec<f32>>
    where
        Self: Device;

    /// Puts a parameter's state in place.
    #[doc(hidden)]
    fn set_moment(
        moments: &mut Self::Moments,
        which: usize,
        parameter: &Parameter<Self>,
        values: &[f32],
    ) -> ModelResult<()>
    where
        Self: Device;

    /// Updates a parameter, at the latest in [`finish`](Self::finish). `step` counts from 1.
    #[doc(hidden)]
    fn update(
        step: u64,
        rule: &Rule,
        learning_rate: f64,
        parameter: &mut Parameter<Self>,
        gradients: &mut Gradients<Self>,
        moments: &mut Self::Moments,
        pending: &mut Self::Pending,
    ) -> ModelResult<()>
    where
        Self: Device;

    /// Makes the updates that wait, with the gradients and moments that they were given.
    #[doc(hidden)]
    fn finish(pending: Self::Pending, gradients: &mut Gradients<Self>, moments: &mut Self::Moments) -> ModelResult<()>
    where
        Self: Device,
    {
        let _ = (pending, gradients, moments);
        Ok(())
    }

    /// Clips every value of a parameter's gradient.
    #[doc(hidden)]
    fn clip_value(parameter: &Parameter<Self>, gradients: &mut Gradients<Self>, limit: f32) -> ModelResult<()>
    where
        Self: Device,
    {
        gradient::clip_value(parameter, gradients, limit)
    }

    /// The sum of the squares of a parameter's gradient, left on the device.
    #[doc(hidden)]
    fn square_sum(parameter: &Parameter<Self>, gradients: &mut Gradients<Self>) -> ModelResult<Tensor<(), Self>>
    where
        Self: Device,
    {
        gradient::square_sum(parameter, gradients)
    }

    /// Multiplies a parameter's gradient.
    #[doc(hidden)]
    fn scale(parameter: &Parameter<Self>, gradients: &mut Gradients<Self>, factor: &Tensor<(), Self>) -> ModelResult<()>
    where
        Self: Device,
    {
        gradient::scale(parameter, gradients, factor)
    }

    /// Adds `weight` times a parameter's gradient to a sum.
    #[doc(hidden)]
    fn add(
        parameter: &Parameter<Self>,
        sum: &mut Gradients<Self>,
        gradients: &mut Gradients<Self>,
        weight: f32,
    ) -> ModelResult<()>
    where
        Self: Device,
    {
        gradient::add(parameter, sum, gradients, weight)
    }
}

/// What a moment that began at zero is of the mean after so many steps, with the decay as the update has it: rounded to `f32`, in
/// which what is left to 1 may differ by a thousandth. In `f64`, since `beta^t` is close to 1 for the first steps.
pub(crate) fn bias(beta: f64, step: u64) -> f64 {
    1.0 - f64::from(beta as f32).powi(i32::try_from(step).unwrap_or(i32::MAX))
}
