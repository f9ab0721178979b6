//! Update rules of one's own.

use std::fmt;
use std::sync::Arc;

#[cfg(any(test, feature = "cuda"))]
use crate::Device;
#[cfg(any(test, feature = "cuda"))]
use crate::nn::{Gradients, Parameter};
use crate::optim::OptimizerConfig;
use crate::optim::config::Rule;
use crate::optim::host;
use crate::{Error, ErrorKind, ModelError, ModelResult, Result, unwind};

/// An optimiser that is not here: what one update does to a parameter. The estimator does the rest as for its own optimisers:
/// schedules, groups, frozen parts, clipping, accumulation, and keeping the state in the checkpoints.
///
/// The numbers of an update are on the host. On the CPU that is where they live; from other devices weights, gradient and state
/// are copied for every update, which waits for the device. To update there without copies, override
/// [`ModelFn::update`](crate::ModelFn::update).
///
/// ```
/// use elistimator::optim::{OptimizerConfig, ParameterUpdate, UpdateRule};
/// use elistimator::{ModelResult, prelude::*};
///
/// /// Lion (Chen et al. 2023).
/// #[derive(Debug)]
/// struct Lion {
///     betas: [f32; 2],
///     weight_decay: f32,
/// }
///
/// impl UpdateRule for Lion {
///     fn state(&self) -> &'static [&'static str] {
///         &["momentum"]
///     }
///
///     fn update(&self, update: &mut ParameterUpdate<'_>) -> ModelResult<()> {
///         let ([b1, b2], rate) = (self.betas, update.learning_rate() as f32);
///         let decay = if update.decays() { self.weight_decay } else { 0.0 };
///         update.each(|w, g, m, _| {
///             let direction = b1 * *m + (1.0 - b1) * g;
///             let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
///             *w -= rate * (sign + decay * *w);
///             *m = b2 * *m + (1.0 - b2) * g;
///         });
///         Ok(())
///     }
/// }
///
/// // What a model function's `optimizer` returns.
/// let config = OptimizerConfig::own(1e-4, Lion { betas: [0.9, 0.99], weight_decay: 0.1 })
///     .without_decay("*.bias")
///     .group("head.", Sgd::new(0.01))
///     .clip_norm(1.0);
/// # assert_eq!(config.learning_rate(), 1e-4);
/// ```
pub trait UpdateRule: fmt::Debug + Send + Sync + 'static {
    /// The names of what is remembered for each weight from one update to the next, at most two: `"momentum"`. They begin as zeros,
    /// and are tensors of these names in a checkpoint's `optimizer.safetensors`. None unless overridden.
    fn state(&self) -> &'static [&'static str] {
        &[]
    }

    /// Updates one parameter.
    ///
    /// # Errors
    /// Yours; the training verb ends with it.
    fn update(&self, update: &mut ParameterUpdate<'_>) -> ModelResult<()>;
}

/// One update of one parameter by an [`UpdateRule`].
#[derive(Debug)]
pub struct ParameterUpdate<'a> {
    dims: &'a [usize],
    weights: &'a mut [f32],
    gradient: &'a mut [f32],
    state: [&'a mut [f32]; 2],
    learning_rate: f64,
    step: u64,
    decays: bool,
}

impl ParameterUpdate<'_> {
    /// The parameter's shape.
    pub fn dims(&self) -> &[usize] {
        self.dims
    }

    /// The learning rate of this update: the schedule's and the group's.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// How many updates this parameter has had, with this one: 1 in the first, for corrections of a bias.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether weight decay is meant for it: not where [`without_decay`](OptimizerConfig::without_decay) names it.
    pub fn decays(&self) -> bool {
        self.decays
    }

    /// Applies a formula to every element, in parallel and with the widest vectors of the CPU: `f(weight, gradient, first,
    /// second)`, with what is remembered under the first and the second name of [`state`](UpdateRule::state), or zeros.
    pub fn each(&mut self, f: impl Fn(&mut f32, f32, &mut f32, &mut f32) + Sync + Copy) {
        let [first, second] = &mut self.state;
        host::over::<true>(self.weights, self.gradient, first, second, f);
    }

    /// Weights, gradient and state as slices in row-major order, for what looks at more than one element: norms of the parameter,
    /// rows of a matrix. State without a name is empty.
    pub fn slices(&mut self) -> (&mut [f32], &[f32], [&mut [f32]; 2]) {
        let [first, second] = &mut self.state;
        (self.weights, self.gradient, [first, second])
    }
}

/// A rule of the user's with its learning rate.
#[derive(Debug, Clone)]
pub struct Own {
    pub(crate) learning_rate: f64,
    pub(crate) rule: Arc<dyn UpdateRule>,
    pub(crate) decays: bool,
}

/// As far as can be told: what is printed of the two is the same.
impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        (self.learning_rate, self.decays) == (other.learning_rate, other.decays)
            && format!("{:?}", self.rule) == format!("{:?}", other.rule)
    }
}

impl Own {
    /// Refuses state that could not be kept.
    pub(crate) fn check(&self, place: &str) -> Result<()> {
        let names = self.rule.state();
        let is_name = |name: &&str| !name.is_empty() && *name != "updates" && !name.contains(['/', '\0']);
        if names.len() <= 2 && names.iter().all(is_name) && (names.len() < 2 || names[0] != names[1]) {
            return Ok(());
        }
        let message = format!(
            "the state of {place}: found the names {names:?}, expected at most two different ones, none empty, \"updates\" or with a /"
        );
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// One update. Whatever the rule does, the caller goes on: it has a gradient and a state to put back.
    pub(crate) fn update(
        &self,
        step: u64,
        learning_rate: f64,
        dims: &[usize],
        weights: &mut [f32],
        gradient: &mut [f32],
        state: [&mut [f32]; 2],
    ) -> ModelResult<()> {
        let mut update = ParameterUpdate { dims, weights, gradient, state, learning_rate, step, decays: self.decays };
        unwind::catch(|| self.rule.update(&mut update))
            .unwrap_or_else(|panic| Err(ModelError::msg(format!("the update rule {:?} panicked: {panic}", self.rule))))
    }

    /// The same where the numbers are not on the host: copies of them go there and back. `put` overwrites state.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn on_host<D: Device>(
        &self,
        step: u64,
        learning_rate: f64,
        parameter: &mut Parameter<D>,
        gradients: &mut Gradients<D>,
        moments: &mut [Gradients<D>; 2],
        put: impl Fn(&Parameter<D>, &mut Gradients<D>, &[f32]) -> ModelResult<()>,
    ) -> ModelResult<()> {
        let names = self.rule.state();
        let (mut weights, mut gradient) = (parameter.values(), parameter.gradient(gradients)?.as_vec());
        let mut state = [Vec::new(), Vec::new()];
        for ((values, moment), _) in state.iter_mut().zip(&mut *moments).zip(names) {
            *values = parameter.gradient(moment)?.as_vec();
        }
        let [first, second] = &mut state;
        let dims = parameter.dims().to_vec();
        self.update(step, learning_rate, &dims, &mut weights, &mut gradient, [first, second])?;
        parameter.set_values(&weights)?;
        for ((values, moment), _) in state.iter().zip(moments).zip(names) {
            put(parameter, moment, values)?;
        }
        Ok(())
    }
}

impl OptimizerConfig {
    /// With an update rule of your own.
    pub fn own(learning_rate: f64, rule: impl UpdateRule) -> Self {
        Rule::Own(Own { learning_rate, rule: Arc::new(rule), decays: true }).into()
    }
}
