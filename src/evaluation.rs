//! The verbs that measure: `validate` and `evaluate`.

use std::collections::BTreeMap;

use dfdx::tensor_ops::TryStack;

use crate::checkpointing::Which;
use crate::data::Dataset;
use crate::elistimator::{before, check_ends, device_outcome};
use crate::inputs::InputFn;
use crate::logs::{EMA, metric_of};
use crate::metrics::{Figure, MetricState, Metrics};
use crate::nn::{Tensor, read};
use crate::progress::{Pass, loss_text};
use crate::training_log::twice;
use crate::{
    Device, Elistimator, Error, ErrorKind, EvaluationSpec, Features, ModelError, ModelFn, Result, heap, threads, unwind,
};

/// How many losses may wait on a device before they are read.
const BLOCK: usize = 1024;

/// The losses and metrics of the batches seen so far.
struct Evaluation<D: Device> {
    on_device: Vec<Tensor<(), D>>,
    weights: Vec<f64>,
    weighted_sum: f64,
    weight: f64,
    metrics: BTreeMap<String, Box<dyn MetricState>>,
}

/// What an evaluation found.
struct Measured {
    metrics: Metrics,
    figures: Vec<(String, Figure)>,
}

impl<D: Device> Evaluation<D> {
    fn new() -> Self {
        Self { on_device: Vec::new(), weights: Vec::new(), weighted_sum: 0.0, weight: 0.0, metrics: BTreeMap::new() }
    }

    fn add(&mut self, spec: EvaluationSpec<D>, examples: usize) -> Result<()> {
        let weight = spec.weight.unwrap_or(examples as f64);
        if !weight.is_finite() || weight < 0.0 {
            let message =
                format!("the weight of the loss: found {weight}, expected a finite number that is not negative");
            return Err(Error::new(ErrorKind::Model, message));
        }
        let mut names: Vec<&str> = spec.metrics.iter().map(|(name, _)| name.as_str()).chain(["loss"]).collect();
        if let Some(name) = twice(&mut names) {
            let message = format!("metrics: found {name:?} twice, expected a name for each, other than \"loss\"");
            return Err(Error::new(ErrorKind::Model, message));
        }
        self.on_device.push(spec.loss);
        self.weights.push(weight);
        for (name, state) in spec.metrics {
            match self.metrics.get_mut(&name) {
                Some(merged) => merged.merge_dyn(state)?,
                None => {
                    self.metrics.insert(name, state);
                }
            }
        }
        if D::READS_ARE_FREE || self.weights.len() >= BLOCK {
            self.flush()?;
        }
        Ok(())
    }

    /// Reads the losses that wait, in one transfer.
    fn flush(&mut self) -> Result<()> {
        let tensors = std::mem::take(&mut self.on_device);
        let losses = match tensors.as_slice() {
            [] => return Ok(()),
            [only] => read(only),
            _ => read(&tensors.try_stack().map_err(|error| ModelError::from(error).into_error())?),
        };
        for (loss, weight) in losses.into_iter().zip(self.weights.drain(..)) {
            // A batch that counts for nothing must not turn an undefined loss into an undefined mean.
            if weight > 0.0 {
                self.weighted_sum += f64::from(loss) * weight;
                self.weight += weight;
            }
        }
        Ok(())
    }

    fn mean_loss(&self) -> f64 {
        self.weighted_sum / self.weight
    }

    fn finish(mut self) -> Result<Measured> {
        self.flush()?;
        let figures = self.metrics.iter().filter_map(|(name, state)| Some((name.clone(), state.figure()?))).collect();
        let mut metrics = Metrics::new();
        for (name, state) in &self.metrics {
            for (suffix, value) in state.values() {
                metrics.insert(&if suffix.is_empty() { name.clone() } else { format!("{name}/{suffix}") }, value);
            }
        }
        metrics.insert("loss", self.mean_loss());
        Ok(Measured { metrics, figures })
    }
}

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// One pass over the validation data: prints the metrics, logs them, and attaches them to the checkpoint of this step,
    /// saved before or after. The loss is the mean over the examples, not over the batches. Confusion matrices and PR curves
    /// among the metrics are logged as pictures too.
    ///
    /// # Errors
    /// [`ErrorKind::WrongOrder`] before a `setup` with validation data; [`ErrorKind::NotProvided`] when the model function
    /// has no `evaluate`; those of the data and of the model function.
    pub fn validate(&mut self) -> Result<Metrics> {
        self.validate_set("")
    }

    /// The same over a further validation set: its metrics come back under their own names, and are logged, attached and
    /// monitored as `name/loss` and so on.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate); [`ErrorKind::NotFound`] lists the names that there are.
    pub fn validate_named(&mut self, name: &str) -> Result<Metrics> {
        self.validate_set(name)
    }

    fn validate_set(&mut self, name: &str) -> Result<Metrics> {
        if self.feed.is_none() {
            return Err(before("validate", "setup"));
        }
        let dataset = match self.validation.iter().find(|(known, _)| known == name) {
            Some((_, dataset)) => dataset.clone(),
            None if name.is_empty() => {
                let message = "`validate` needs validation data: give it to `setup` with `Inputs::validation`";
                return Err(Error::new(ErrorKind::WrongOrder, message));
            }
            None => {
                let known: Vec<_> = self.validation.iter().map(|(known, _)| known).filter(|n| !n.is_empty()).collect();
                let message = format!("no validation set {name:?}; known are {known:?}, as given to `setup`");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        };
        let label = if name.is_empty() { "Validation".to_owned() } else { format!("Validation {name}") };
        let mut pass = self.progress.start(&label, dataset.len(), 0);
        let measured = self.measure(&self.net, &dataset, None, Some(&mut pass));
        if let Ok(Measured { metrics, .. }) = &measured {
            pass.set_message(loss_text(metrics.get("loss")?));
        }
        pass.finish();
        let Measured { metrics, figures } = measured?;
        self.progress.metrics(metrics.iter());
        // A resumed run validates again what the killed one had just validated: one point in the curves is enough.
        let is_known = |(metric, value): (&str, f64)| {
            self.validated.1.get(&metric_of(name, metric)).is_ok_and(|known| known.to_bits() == value.to_bits())
        };
        if self.validated.0 != self.global_step || !metrics.iter().all(is_known) {
            self.logs.validation(name, self.global_step, &metrics, &figures);
        }
        self.logs.note(self.global_step, || format!("{}: {metrics}", label.to_lowercase()));
        self.tell_of_missing_monitor(name, &metrics);
        self.attach(name, &metrics)?;
        Ok(metrics)
    }

    /// The same numbers on any data, with nothing printed, logged or attached: on the network as it is, trained or not.
    ///
    /// # Errors
    /// Those of the data and of the model function; [`ErrorKind::NotProvided`] when it has no `evaluate`.
    pub fn evaluate(&self, input: impl InputFn) -> Result<Metrics> {
        Ok(self.measure(&self.net, &self.prepare(input.dataset()?, "evaluation")?, None, None)?.metrics)
    }

    /// [`evaluate`](Self::evaluate) on the first `steps` batches only.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate).
    pub fn evaluate_steps(&self, input: impl InputFn, steps: u64) -> Result<Metrics> {
        Ok(self.measure(&self.net, &self.prepare(input.dataset()?, "evaluation")?, Some(steps), None)?.metrics)
    }

    /// The numbers of a saved checkpoint, while the network in training stays as it is; on the first `steps` batches if a
    /// number is given.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate) and of [`restore_ckpt`](Self::restore_ckpt).
    pub fn evaluate_ckpt(&self, which: impl Into<Which>, input: impl InputFn, steps: Option<u64>) -> Result<Metrics> {
        let net = self.net_of(which.into())?;
        Ok(self.measure(&net, &self.prepare(input.dataset()?, "evaluation")?, steps, None)?.metrics)
    }

    /// Looks at the estimator with its averaged weights ([`Builder::ema`](crate::Builder::ema) or
    /// [`Builder::swa`](crate::Builder::swa)) in the network:
    /// `estimator.with_ema(|e| e.evaluate(data))`. The reference is shared, so that averages cannot be trained by accident; the
    /// trained weights are back afterwards, also when `look` panics.
    ///
    /// # Errors
    /// [`ErrorKind::WrongOrder`] without that setting or before the first weights were averaged; those of `look`.
    pub fn with_ema<T>(&mut self, look: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.swap_ema()?;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(self)));
        self.swap_ema()?;
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// [`evaluate`](Self::evaluate) of the averaged weights on the validation data given to `setup`; nothing is attached to
    /// checkpoints, whose metrics are those of the trained weights.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate) and [`with_ema`](Self::with_ema).
    pub fn validate_ema(&mut self) -> Result<Metrics> {
        let Some((_, dataset)) = self.validation.iter().find(|(name, _)| name.is_empty()) else {
            let message = "`validate_ema` needs validation data: give it to `setup` with `Inputs::validation`";
            return Err(Error::new(ErrorKind::WrongOrder, message));
        };
        let dataset = dataset.clone();
        let Measured { metrics, figures } =
            self.with_ema(|estimator| estimator.measure(&estimator.net, &dataset, None, None))?;
        self.logs.validation(EMA, self.global_step, &metrics, &figures);
        Ok(metrics)
    }

    fn swap_ema(&mut self) -> Result<()> {
        let (average, _) = self.average.as_mut().ok_or_else(|| {
            Error::new(
                ErrorKind::WrongOrder,
                "there is no average of the weights: ask for one with `Builder::ema(0.999)` or `Builder::swa`",
            )
        })?;
        average.swap(&mut self.net)
    }

    /// [`evaluate`](Self::evaluate) with another seed than the run's for what is random in the data.
    pub(crate) fn evaluate_seeded(&self, dataset: Dataset, seed: u64) -> Result<Metrics> {
        Ok(self.measure_seeded(&self.net, &self.prepare(dataset, "evaluation")?, None, None, seed)?.metrics)
    }

    fn measure(
        &self,
        net: &M::Net,
        dataset: &Dataset,
        steps: Option<u64>,
        pass: Option<&mut Pass>,
    ) -> Result<Measured> {
        self.measure_seeded(net, dataset, steps, pass, self.options.seed)
    }

    fn measure_seeded(
        &self,
        net: &M::Net,
        dataset: &Dataset,
        steps: Option<u64>,
        mut pass: Option<&mut Pass>,
        seed: u64,
    ) -> Result<Measured> {
        if steps.is_none() {
            check_ends("evaluate", dataset, "use `evaluate_steps`, or `take` so many batches")?;
        }
        if D::READS_ARE_FREE {
            threads::join_in();
            heap::keep();
        }
        let mut evaluation = Evaluation::new();
        let mut batches = dataset.open(seed, 0, 0)?;
        let mut number = 0;
        while steps.is_none_or(|steps| number < steps) {
            let Some(batch) = batches.next().transpose()? else { break };
            number += 1;
            let features = Features::new(batch, self.device.clone());
            // Metrics may be the user's own as well.
            let added = unwind::catch(|| {
                let spec = self.model.evaluate(net, &features)?;
                Ok(evaluation.add(spec, features.batch_size())?)
            });
            device_outcome(&self.device, added)
                .map_err(|error| error.at(format_args!("evaluation, batch {number}")))?;
            if let Some(pass) = &mut pass {
                pass.tick();
                if pass.is_due() && D::READS_ARE_FREE {
                    pass.set_message(loss_text(evaluation.mean_loss()));
                }
            }
        }
        if number == 0 {
            let message = match steps {
                Some(0) => "evaluation over 0 steps has no metrics: ask for at least 1".to_owned(),
                _ => {
                    let stages = dataset.describe().replace('\n', ", ");
                    format!("the evaluation data gave no batch, expected at least one; it is: {stages}")
                }
            };
            return Err(Error::new(ErrorKind::Data, message));
        }
        device_outcome(&self.device, unwind::catch(|| Ok(evaluation.finish()?))).map_err(|error| error.at("evaluation"))
    }
}

#[cfg(test)]
mod tests {
    use dfdx::tensor::TensorFrom;

    use super::*;
    use crate::DeviceSpec;
    use crate::device::Cpu;
    use crate::metrics::Mean;

    #[test]
    fn no_metric_hides_another_or_the_loss() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let spec = |names: &[&str]| {
            let spec = EvaluationSpec::new(device.tensor(2.0f32));
            names.iter().zip([1.0, 3.0]).fold(spec, |spec, (name, value)| spec.metric(name, Mean::of([value])))
        };
        let mut evaluation = Evaluation::<Cpu>::new();
        for names in [["a", "a"], ["a", "loss"], ["loss", "b"]] {
            let error = evaluation.add(spec(&names), 1).unwrap_err();
            assert!(error.kind() == ErrorKind::Model && error.to_string().contains("twice"), "{error}");
        }
        evaluation.add(spec(&["a", "b"]), 1).unwrap();
        evaluation.add(spec(&["b", "a"]), 1).unwrap();
        let metrics = evaluation.finish().unwrap().metrics;
        assert_eq!(["a", "b", "loss"].map(|name| metrics.get(name).unwrap()), [2.0, 2.0, 2.0]);
    }
}
