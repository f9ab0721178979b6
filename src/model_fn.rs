//! What the user writes: the model function, and what its parts return.

use dfdx::tensor::{PutTape, SplitTape, Trace};
use serde::{Serialize, de::DeserializeOwned};

use crate::data::{Array, Record};
use crate::device::Cpu;
use crate::gradient_pool::GradientPool;
use crate::metrics::MetricState;
use crate::nn::{Gradients, Network, StepTape, Tensor};
use crate::optim::{Optimizer, OptimizerConfig, Schedule};
use crate::{Device, Error, ErrorKind, Features, ModelResult};

/// A model: its hyper-parameters are the struct itself, saved with every checkpoint (give new fields a serde default, and
/// old runs still load); its methods say how the network is built, trained, evaluated and asked.
///
/// `build`, `optimizer` and `train` are required; `evaluate` and `predict` when the verbs of that name are used.
pub trait ModelFn<D: Device = Cpu>: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The network; [`network!`](crate::network) makes one from named fields.
    type Net: Network<D>;

    /// Makes the network with its initial weights, which come from the device's generator and so from the run's seed.
    ///
    /// # Errors
    /// Whatever stops the network from being made: it reaches the caller of the builder.
    fn build(&self, device: &D) -> ModelResult<Self::Net>;

    /// The optimiser and its settings.
    fn optimizer(&self) -> OptimizerConfig;

    /// How the learning rate changes over the steps. Constant unless you say otherwise.
    fn schedule(&self) -> Schedule {
        Schedule::default()
    }

    /// The forward pass of a training step, up to the loss: start the tape on the inputs with `.traced(step.tape()?)`. A
    /// parameter that no loss has reached after 64 steps, since a tape was lost on the way, is named in a warning (on the CPU).
    ///
    /// # Errors
    /// Whatever stops the step: the estimator adds the step's number, and stays usable.
    fn train(&self, net: &mut Self::Net, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>>;

    /// Loss and metrics of one batch, without a tape.
    ///
    /// # Errors
    /// Unless overridden, [`ErrorKind::NotProvided`].
    fn evaluate(&self, net: &Self::Net, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let _ = (net, features);
        Err(not_provided("evaluate").into())
    }

    /// The outputs for one batch. It should read only the inputs that exist when predictions are wanted, so no labels.
    ///
    /// # Errors
    /// Unless overridden, [`ErrorKind::NotProvided`].
    fn predict(&self, net: &Self::Net, features: &Features<D>) -> ModelResult<PredictSpec> {
        let _ = (net, features);
        Err(not_provided("predict").into())
    }

    /// Turns a batch as the input functions give it (raw text, say) into what the other methods read. It runs in the prefetch
    /// thread while training and again in `predict`, so that a request by name gets the same treatment.
    ///
    /// # Errors
    /// Whatever makes the batch unusable.
    fn preprocess(&self, batch: Record) -> ModelResult<Record> {
        Ok(batch)
    }

    /// Applies the gradients of one loss. For another update rule give `optimizer` an [`UpdateRule`](crate::optim::UpdateRule),
    /// which has groups, clipping, decay and saved state like the ones here; override this where the update is not one
    /// parameter's after another's, or has to stay on the device. `scope` is the prefix of the parameters' names that this loss
    /// updates, all if `None`. The learning rate is the schedule's; all the rest is done by [`Optimizer::update`], so an override
    /// goes without. What it has to remember from step to step is a [`statistic`](crate::nn::Parameter::statistic) of the network,
    /// which is saved.
    ///
    /// ```
    /// use elistimator::nn::{Gradients, PartMut};
    /// use elistimator::optim::Optimizer;
    /// use elistimator::prelude::*;
    ///
    /// /// Sign descent (Riedmiller and Braun 1993, without its steps' sizes): what `update` calls.
    /// fn sign_descent<D: Device, N: Network<D>>(
    ///     net: &mut N,
    ///     gradients: &mut Gradients<D>,
    ///     optimizer: &Optimizer<D>,
    ///     scope: Option<&str>,
    /// ) -> ModelResult<()> {
    ///     let rate = optimizer.learning_rate() as f32;
    ///     net.visit_mut(&mut VisitorMut::new(&mut |name, part| {
    ///         let PartMut::Parameter(parameter) = part else { return Ok(()) }; // random bits of dropout
    ///         if !parameter.is_trainable() || !name.starts_with(scope.unwrap_or("")) {
    ///             return Ok(());
    ///         }
    ///         let (mut values, gradient) = (parameter.values(), parameter.gradient(gradients)?.as_vec());
    ///         let moves = values.iter_mut().zip(gradient).filter(|(_, g)| *g != 0.0);
    ///         moves.for_each(|(w, g)| *w -= rate * g.signum());
    ///         parameter.set_values(&values)
    ///     }))
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of the device.
    fn update(
        &self,
        net: &mut Self::Net,
        gradients: &mut Gradients<D>,
        optimizer: &mut Optimizer<D>,
        scope: Option<&str>,
    ) -> ModelResult<()> {
        optimizer.update(net, gradients, scope)
    }
}

fn not_provided(verb: &str) -> Error {
    Error::new(
        ErrorKind::NotProvided,
        format!("the model function has no `{verb}`: implement `ModelFn::{verb}` to use this verb"),
    )
}

/// One training step, as the model function sees it: where the run is, and a tape for every loss.
#[derive(Debug)]
pub struct Step<'a, D: Device> {
    pub(crate) global_step: u64,
    pub(crate) epoch: u64,
    pub(crate) learning_rate: f64,
    pub(crate) device: D,
    pub(crate) pool: &'a mut GradientPool<D>,
}

impl<D: Device> Step<'_, D> {
    /// The gradients that a forward pass records into: give them to `.traced(..)` on the input of a forward pass, once for
    /// every loss.
    ///
    /// # Errors
    /// When the device's memory runs out.
    pub fn tape(&mut self) -> ModelResult<Gradients<D>> {
        self.pool.take()
    }

    /// The tape itself, for a forward pass that does not begin with a tensor: `ids.traced(step.recorder()?)` in front of an
    /// embedding.
    ///
    /// # Errors
    /// When the device's memory runs out.
    pub fn recorder(&mut self) -> ModelResult<StepTape<D>> {
        let gradients = self.tape()?;
        // dfdx makes a tape around given gradients only for a tensor.
        let nothing: Tensor<(), D> = self.device.try_zeros_like(&())?;
        Ok(nothing.traced(gradients).split_tape().1)
    }

    /// The number of steps done before this one, over the whole run.
    pub fn global_step(&self) -> u64 {
        self.global_step
    }

    /// The number of passes over the data done before this one.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The learning rate of this step.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }
}

/// One loss of a training step and the parameters it updates.
pub(crate) struct Objective<D: Device> {
    pub(crate) value: Tensor<(), D>,
    pub(crate) loss: Tensor<(), D, StepTape<D>>,
    pub(crate) scope: Option<String>,
}

/// What a training step asks for: a loss to descend, or several with the parameters each of them updates.
pub struct TrainSpec<D: Device> {
    pub(crate) objectives: Vec<Objective<D>>,
    pub(crate) scalars: Vec<(String, Tensor<(), D>)>,
}

impl<D: Device> TrainSpec<D> {
    /// One loss that updates every trainable parameter.
    pub fn new(loss: Tensor<(), D, StepTape<D>>) -> Self {
        Self { objectives: vec![Objective::new(loss, None)], scalars: Vec::new() }
    }

    /// Lets the last given loss update only the parameters whose names start with `prefix` (`"critic."`).
    #[must_use]
    pub fn updating(mut self, prefix: &str) -> Self {
        if let Some(last) = self.objectives.last_mut() {
            last.scope = Some(prefix.to_owned());
        }
        self
    }

    /// A further loss, for the parameters whose names start with `prefix`. All backward passes run before the first update. A
    /// prefix that fits no name is an error of the step.
    #[must_use]
    pub fn and(mut self, loss: Tensor<(), D, StepTape<D>>, prefix: &str) -> Self {
        self.objectives.push(Objective::new(loss, Some(prefix.to_owned())));
        self
    }

    /// A value to log beside the loss, in TensorBoard and in log lines: `loss.retaped::<NoneTape>()` is one without its tape. It
    /// stays on the device until the next flush.
    #[must_use]
    pub fn scalar(mut self, name: &str, value: Tensor<(), D>) -> Self {
        self.scalars.push((name.to_owned(), value));
        self
    }
}

impl<D: Device> Objective<D> {
    fn new(loss: Tensor<(), D, StepTape<D>>, scope: Option<String>) -> Self {
        let (value, tape) = loss.split_tape();
        Self { loss: value.clone().put_tape(tape), value, scope }
    }
}

impl<D: Device> std::fmt::Debug for TrainSpec<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrainSpec with {} losses", self.objectives.len())
    }
}

/// Loss and metrics of one evaluated batch.
pub struct EvaluationSpec<D: Device> {
    pub(crate) loss: Tensor<(), D>,
    pub(crate) weight: Option<f64>,
    pub(crate) metrics: Vec<(String, Box<dyn MetricState>)>,
}

impl<D: Device> EvaluationSpec<D> {
    /// The batch's loss: its mean over the examples.
    pub fn new(loss: Tensor<(), D>) -> Self {
        Self { loss, weight: None, metrics: Vec::new() }
    }

    /// How much this batch's loss counts in the mean over the data set, when that is not its number of examples: the number
    /// of tokens of a tagger, say. One that is not finite or negative is an error of the verb.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = Some(weight);
        self
    }

    /// A metric's state on this batch, to be merged with those of the other batches. Two of one name in a batch, or one called
    /// `loss`, which is the name of the loss, are an error of the verb.
    #[must_use]
    pub fn metric(mut self, name: &str, state: impl MetricState + 'static) -> Self {
        self.metrics.push((name.to_owned(), Box::new(state)));
        self
    }
}

impl<D: Device> std::fmt::Debug for EvaluationSpec<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.metrics.iter().map(|(name, _)| name)).finish()
    }
}

/// The named outputs for one batch, on the host.
#[derive(Debug, Default)]
pub struct PredictSpec {
    pub(crate) outputs: Record,
}

impl PredictSpec {
    /// No outputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An output: an [`Array`], whatever becomes one, or a dfdx tensor by reference. The first axis is the batch.
    #[must_use]
    pub fn output(mut self, name: &str, values: impl Into<Array>) -> Self {
        self.outputs.insert(name, values.into());
        self
    }
}
