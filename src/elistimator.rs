//! The estimator: its training verbs, and the loop they share.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dfdx::tensor_ops::Backward;

use crate::accumulation::{Accumulation, named_norms};
use crate::builder::{Averaging, Builder, Every, NotFinite, Options};
use crate::checkpoint::{Mark, Store};
use crate::data::{Dataset, Record, Signature};
use crate::device::Cpu;
use crate::feed::{Feed, Position};
use crate::gauges::Gauges;
use crate::gradient_pool::GradientPool;
use crate::learning_rate::OwnSchedule;
use crate::logs::{Logs, is_logged};
use crate::metrics::Metrics;
use crate::model_fn::{Objective, Step, TrainSpec};
use crate::monitoring::MonitorCheck;
use crate::nn::Gradients;
use crate::optim::{Optimizer, Schedule, WeightAverage};
use crate::progress::{Pass, Progress, loss_text};
use crate::saving::{AfterSave, Background};
use crate::settings::Saved;
use crate::training_log::{TrainingLog, check_names, not_finite};
use crate::unreached::Unreached;
use crate::{
    Device, Error, ErrorKind, Features, Inputs, ModelError, ModelFn, ModelResult, Result, heap, interrupt, threads,
    unwind,
};

/// A model in training: the verbs `setup`, `train`, `validate`, `evaluate`, `predict`, `save_ckpt` and `restore_*`, each of which
/// hands control back, so that the loop over epochs is yours. Made by [`Elistimator::builder`] or
/// [`Elistimator::from_disk`].
pub struct Elistimator<M: ModelFn<D>, D: Device = Cpu> {
    pub(crate) model: Arc<M>,
    pub(crate) net: M::Net,
    pub(crate) optimizer: Optimizer<D>,
    /// The average of the weights, and when it is updated.
    pub(crate) average: Option<(WeightAverage<D>, Averaging)>,
    pub(crate) schedule: Schedule,
    pub(crate) own_schedule: Option<OwnSchedule>,
    pub(crate) base_learning_rate: f64,
    pub(crate) fixed_learning_rate: Option<f64>,
    pub(crate) device: D,
    pub(crate) options: Options,
    pub(crate) model_dir: std::path::PathBuf,
    pub(crate) global_step: u64,
    /// Where to begin in the data that `setup` will bring; afterwards the feed knows.
    pub(crate) start: Position,
    pub(crate) feed: Option<Feed>,
    pub(crate) validation: Vec<(String, Dataset)>,
    pub(crate) signature: Arc<Mutex<Option<Signature>>>,
    pub(crate) gradients: GradientPool<D>,
    pub(crate) training_log: TrainingLog<D>,
    pub(crate) gauges: Gauges,
    pub(crate) unreached: Unreached<D>,
    pub(crate) logs: Logs,
    pub(crate) progress: Progress,
    /// Away while a save in the background uses it.
    pub(crate) store: Option<Store>,
    pub(crate) background: Background,
    pub(crate) after_save: Option<AfterSave<M, D>>,
    /// The last validation's metrics and their step: what a save at that step takes along.
    pub(crate) validated: (u64, Metrics),
    pub(crate) monitor_check: MonitorCheck,
    /// The checkpoint that was saved or restored last: it alone may get this run's metrics. Another one of the same step is of
    /// another branch, or another run's.
    pub(crate) saved: Option<Mark>,
    /// Whether variables were overwritten since then, so that metrics are not that checkpoint's.
    pub(crate) are_weights_set: bool,
    pub(crate) last_save: Instant,
    /// Whether the last step failed among its updates, so that the weights are of no step.
    pub(crate) is_half_updated: bool,
    pub(crate) origin: Option<Saved>,
    /// Whether `setup` was told to go on with other data than the restored run's.
    pub(crate) takes_new_data: bool,
    pub(crate) kept: Vec<(String, Vec<u8>)>,
}

/// When a training verb is done.
#[derive(Debug, Clone, Copy)]
enum Until {
    EndOfEpoch,
    Step(u64),
    Time(Instant),
}

impl Until {
    fn is_reached(self, global_step: u64) -> bool {
        match self {
            Self::EndOfEpoch => false,
            Self::Step(step) => global_step >= step,
            Self::Time(end) => Instant::now() >= end,
        }
    }
}

impl<M: ModelFn<Cpu>> Elistimator<M, Cpu> {
    /// Begins an estimator on the CPU; [`Builder::new`] does on any device.
    pub fn builder(model: M) -> Builder<M, Cpu> {
        Builder::new(model)
    }
}

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// Takes the data: looks at the first batch and fixes the input signature, opens the logs, and takes the directory's
    /// write lock. Call it again to train on other data.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] when the data is not batched or empty, [`ErrorKind::Locked`] when another process trains
    /// in this directory, [`ErrorKind::Settings`] when the data is not what the restored run was trained on and
    /// [`Inputs::continue_with_new_data`] was not said, [`ErrorKind::Io`] when the directory cannot be written.
    pub fn setup(&mut self, inputs: Inputs) -> Result<&mut Self> {
        let train = self.device.upload_ahead(self.prepare(inputs.train?, "training")?);
        let mut validation = Vec::new();
        for (name, dataset) in inputs.validation {
            validation.push((name, self.prepare(dataset?, "validation")?));
        }
        let is_new_data = self.check_settings(&train, inputs.new_data)?;
        let (retention, monitor) = (self.options.retention.clone(), self.options.monitor.clone());
        let (resumed, has_saved) = (self.origin.is_some(), self.saved.is_some());
        let store = self.writer()?;
        store.check_place()?;
        let is_beside_another = !resumed && !has_saved && store.has_any();
        if resumed {
            // What a run that was killed after its last save had no time to delete.
            store.rotate(&retention, &monitor);
        }
        let bytes = self.checkpoint_bytes();
        self.writer()?.check_room(bytes)?;
        let start = self.position();
        // Once there is data, a place in it is what counts, wherever the run came from.
        let is_other_data = self.feed.as_ref().map_or(is_new_data, |feed| {
            let (now, next) = (feed.dataset(), &train);
            (now.fingerprint(), now.batch_size()) != (next.fingerprint(), next.batch_size())
        });
        let start = if is_other_data { Position { epoch: start.epoch, batch: 0 } } else { start };
        let mut feed = Feed::new(train, self.options.seed, start);
        // A checkpoint saved at the very end of an epoch has no batch left in it.
        if feed.peek()?.is_none() && start.batch == 0 {
            let stages = feed.dataset().describe().replace('\n', ", ");
            let message = format!("the training data gave no batch, expected at least one; it is: {stages}");
            return Err(Error::new(ErrorKind::Data, message));
        }
        if self.options.interrupts {
            interrupt::listen()?;
        }
        (self.feed, self.validation, self.takes_new_data) = (Some(feed), validation, inputs.new_data);
        self.monitor_check.new_data();
        let restored = if self.validated.0 == self.global_step { self.validated.1.clone() } else { Metrics::new() };
        self.logs.open(&self.model_dir, self.global_step, restored);
        self.logs.note(self.global_step, || {
            let (epoch, batch) = (start.epoch + 1, start.batch);
            format!("setup: version {}, epoch {epoch}, batch {batch}", env!("CARGO_PKG_VERSION"))
        });
        self.tell_seeking();
        if is_beside_another {
            self.tell_of_another_run();
        }
        if self.options.describe {
            self.progress.line(&self.description());
        }
        Ok(self)
    }

    /// One pass over the training data: to the end of the epoch, from where the last verb or the restored checkpoint
    /// stopped in it.
    ///
    /// # Errors
    /// [`ErrorKind::WrongOrder`] before `setup`; [`ErrorKind::InvalidArgument`] for data that repeats for ever;
    /// [`ErrorKind::Data`] and [`ErrorKind::Model`] for failures and panics of the input and model functions;
    /// [`ErrorKind::NotFinite`]; [`ErrorKind::Interrupted`]; [`ErrorKind::OutOfMemory`], after which
    /// [`setup`](Self::setup) with smaller batches goes on. The estimator stays usable.
    pub fn train(&mut self) -> Result<&mut Self> {
        if let Some(feed) = &self.feed {
            check_ends("train", feed.dataset(), "use `train_steps`, `train_until` or `train_for`")?;
        }
        self.run(Until::EndOfEpoch)
    }

    /// So many steps, going on in the data where the last call stopped, over as many epochs as that takes.
    ///
    /// # Errors
    /// Those of [`train`](Self::train).
    pub fn train_steps(&mut self, steps: u64) -> Result<&mut Self> {
        self.run(Until::Step(self.global_step.saturating_add(steps)))
    }

    /// Up to this global step; nothing if it is reached already.
    ///
    /// # Errors
    /// Those of [`train`](Self::train).
    pub fn train_until(&mut self, global_step: u64) -> Result<&mut Self> {
        self.run(Until::Step(global_step))
    }

    /// For so long, ended after the step in which the time runs out.
    ///
    /// # Errors
    /// Those of [`train`](Self::train).
    pub fn train_for(&mut self, duration: Duration) -> Result<&mut Self> {
        let end = Instant::now().checked_add(duration).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, format!("train_for: {duration:?} is longer than a clock can count"))
        })?;
        self.run(Until::Time(end))
    }

    /// What all training verbs share: the bar and the last flush around the steps.
    fn run(&mut self, until: Until) -> Result<&mut Self> {
        let feed = self.feed.as_ref().ok_or_else(|| before("train", "setup"))?;
        let (total, done) = match until {
            Until::EndOfEpoch => (feed.epoch_length(), feed.position().batch),
            Until::Step(step) => (Some(step.saturating_sub(self.global_step)), 0),
            Until::Time(_) => (None, 0),
        };
        if D::READS_ARE_FREE {
            threads::join_in();
            heap::keep();
        }
        self.gradients.refresh(&self.net).map_err(ModelError::into_error)?;
        let mut pass = self.progress.start(&format!("Training ({})", feed.position().epoch + 1), total, done);
        self.gauges.restart();
        self.logs.begin_verb();
        let begun = self.global_step;
        let result = self.steps(until, &mut pass);
        let flushed = self.flush(&mut pass);
        self.logs.end_verb();
        // Of no step there is no loss to show.
        if self.global_step > begun {
            pass.set_message(loss_text(self.training_log.last_loss()));
        }
        pass.finish();
        self.logs.flush();
        if let Err(error) = result.and(flushed).and_then(|()| self.poll_save()) {
            self.logs.note(self.global_step, || format!("stopped: {error}"));
            return Err(self.save_after(error));
        }
        Ok(self)
    }

    /// The loop.
    fn steps(&mut self, until: Until, pass: &mut Pass) -> Result<()> {
        if self.position().batch > 0 && self.ends_epoch()? && matches!(until, Until::EndOfEpoch) {
            return Ok(());
        }
        while !until.is_reached(self.global_step) {
            // Before a batch is taken, which an error would use up.
            let learning_rate = self
                .next_learning_rate()
                .and_then(|rate| self.optimizer.check().map(|()| rate))
                .map_err(|error| error.at(format_args!("step {}", self.global_step + 1)))?;
            let feed = self.feed.as_mut().ok_or_else(|| before("train", "setup"))?;
            let batches = self.gauges.waiting(|| feed.next_group(self.options.accumulate))?;
            self.tell_seeking();
            let ticks = if matches!(until, Until::EndOfEpoch) { batches.len() } else { 1 };
            if let Err(error) = self.step(batches, learning_rate) {
                // Its batches are used up, and may have been the last.
                let _ = self.ends_epoch();
                return Err(error);
            }
            (0..ticks).for_each(|_| pass.tick());
            if self.training_log.is_full() || pass.is_due() || self.logs.is_line_due(self.global_step) {
                self.flush(pass)?;
            }
            if self.is_save_due() {
                self.flush(pass)?;
                // Before the epoch is over: a run resumed from here ends it, and then validates as the unbroken one does.
                self.save_in_verb()?;
            }
            self.poll_save()?;
            // Before the epoch is over, as a save is: the verb that comes next ends it, and what follows it is not left out.
            if self.options.interrupts && interrupt::take() {
                self.collect_save();
                let message = format!("interrupted after step {}; call a training verb to go on", self.global_step);
                return Err(Error::new(ErrorKind::Interrupted, message));
            }
            let ended = self.ends_epoch()?;
            if ended && self.logs.has_file() {
                self.flush(pass)?;
                let (epoch, loss) = (self.position().epoch, loss_text(self.training_log.last_loss()));
                self.logs.note(self.global_step, || format!("epoch {epoch} done: {loss}"));
            }
            if ended && matches!(until, Until::EndOfEpoch) {
                break;
            }
        }
        Ok(())
    }

    /// One training step: forward and all backward passes of every micro-batch, then all updates.
    fn step(&mut self, batches: Vec<Record>, learning_rate: f64) -> Result<()> {
        let number = self.global_step + 1;
        let every = self.options.summary_every;
        let logged = is_logged(number, every);
        self.optimizer.measure_norm(logged && is_logged(number / every, self.options.norm_every));
        let batches: Vec<_> = batches.into_iter().map(|batch| Features::new(batch, self.device.clone())).collect();
        let examples: usize = batches.iter().map(Features::batch_size).sum();
        let mut updates = false;
        let outcome = unwind::catch(|| {
            let mut total = Accumulation::default();
            for features in &batches {
                let mut step = Step {
                    global_step: self.global_step,
                    epoch: self.feed.as_ref().map_or(0, |feed| feed.position().epoch),
                    learning_rate,
                    device: self.device.clone(),
                    pool: &mut self.gradients,
                };
                let TrainSpec { objectives, scalars } = self.model.train(&mut self.net, features, &mut step)?;
                check_names(objectives.len(), &scalars)?;
                let mut losses = Vec::with_capacity(objectives.len());
                for Objective { value, loss, scope } in objectives {
                    losses.push((value, loss.try_backward()?, scope));
                }
                let share = features.batch_size() as f64 / examples.max(1) as f64;
                total.add(&self.net, share, losses, scalars, &mut self.gradients)?;
            }
            self.unreached.look(&self.net, &mut total.gradients, |name| self.optimizer.is_frozen(name))?;
            updates = true;
            for (mut gradients, scope) in total.gradients.drain(..) {
                self.model.update(&mut self.net, &mut gradients, &mut self.optimizer, scope.as_deref())?;
                let spent = self.optimizer.take_spent(&gradients);
                self.gradients.recycle_spent(gradients, &self.net, &spent)?;
            }
            total.scalars.extend(named_norms(self.optimizer.take_gradient_norms()));
            Ok((total.losses, total.scalars))
        });
        let (losses, scalars) = device_outcome(&self.device, outcome).map_err(|error| {
            // Nothing of this step is left for the next one.
            drop((self.optimizer.take_spent(&Gradients::leaky()), self.optimizer.take_gradient_norms()));
            self.is_half_updated |= updates;
            let place = if updates { ", while parameters were updated" } else { "" };
            error.at(format_args!("step {number}{place}"))
        })?;
        (self.global_step, self.is_half_updated) = (number, false);
        if let Some((average, when)) = &mut self.average
            && when.takes(number)
        {
            average.update(&self.net).map_err(ModelError::into_error)?;
        }
        if let Some(warning) = self.unreached.take_warning() {
            self.warn(&warning);
        }
        self.gauges.step(examples as u64);
        let gauges = if logged { self.gauges.read(|| self.device.memory_held()) } else { Vec::new() };
        self.training_log.record(number, learning_rate, gauges, losses, scalars);
        Ok(())
    }

    /// Reads what waits on the device and hands it to the bar, the log lines and TensorBoard.
    fn flush(&mut self, pass: &mut Pass) -> Result<()> {
        let values = self.training_log.flush()?;
        let first_bad = values.iter().find_map(not_finite);
        self.logs.steps(&values, self.options.summary_every);
        if pass.is_due() {
            pass.set_message(loss_text(self.training_log.last_loss()));
        }
        if let Some(line) = self.logs.line(&values) {
            self.progress.line(&line);
        }
        match (first_bad, self.options.not_finite) {
            (Some(error), NotFinite::Stop) => Err(error),
            (Some(error), NotFinite::GoOn) => {
                self.logs.warn_once(self.global_step, &error);
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    fn ends_epoch(&mut self) -> Result<bool> {
        let Some(feed) = &mut self.feed else { return Ok(true) };
        self.gauges.waiting(|| feed.ends_epoch())
    }

    fn is_save_due(&self) -> bool {
        match self.options.save_every {
            None => false,
            Some(Every::Steps(steps)) => steps > 0 && self.global_step.is_multiple_of(steps),
            Some(Every::Time(time)) => self.last_save.elapsed() >= time,
        }
    }

    /// Saves what a failed verb leaves, if that was asked for and the weights are sound; says so if that failed as well.
    fn save_after(&mut self, error: Error) -> Error {
        // A closure of the user's in the data or the model may fail with any other kind.
        use ErrorKind::{Device, Locked, NotDurable, NotFinite};
        let is_sound = !matches!(error.kind(), Device | Locked | NotDurable | NotFinite) && !self.is_half_updated;
        if !self.options.save_on_error || !is_sound {
            return error;
        }
        self.save_failed(error)
    }

    /// Where the run is in its data.
    pub(crate) fn position(&self) -> Position {
        self.feed.as_ref().map_or(self.start, Feed::position)
    }

    /// Steps done over the whole run.
    pub fn global_step(&self) -> u64 {
        self.global_step
    }

    /// Whole passes over the training data done over the whole run.
    pub fn epoch(&self) -> u64 {
        self.position().epoch
    }

    /// Draws loss and metrics of the run so far over its steps into an SVG file, from the history in the model directory.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nothing was logged yet; [`ErrorKind::Corrupt`] when the history is damaged;
    /// [`ErrorKind::Io`] when the file cannot be written.
    #[cfg(feature = "plot")]
    pub fn plot(&mut self, path: impl AsRef<Path>) -> Result<&mut Self> {
        // What is still buffered belongs into the picture.
        self.logs.flush();
        let history = crate::summary::History::load(&self.model_dir)?;
        crate::summary::plot::curves(&history.without_machine(), path)?;
        Ok(self)
    }

    /// The model function with its hyper-parameters.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The network, to read.
    pub fn net(&self) -> &M::Net {
        &self.net
    }

    /// The network, to change. Whether weights are changed is not noticed here: `validate` again before you save, or the checkpoint
    /// has the metrics of the weights before. [`set_variable`](Self::set_variable) notices, and leaves them out.
    pub fn net_mut(&mut self) -> &mut M::Net {
        &mut self.net
    }

    /// The device it runs on.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Where its checkpoints and logs are.
    pub fn model_dir(&self) -> &Path {
        &self.model_dir
    }

    /// The input signature, once `setup` or a checkpoint has fixed it.
    pub fn signature(&self) -> Option<Signature> {
        crate::lock(&self.signature).clone()
    }
}

impl<M: ModelFn<D>, D: Device> std::fmt::Debug for Elistimator<M, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Elistimator at step {} in {}", self.global_step, self.model_dir.display())
    }
}

/// Refuses a pass over data that has no end, or only where there is nothing in it.
pub(crate) fn check_ends(verb: &str, dataset: &Dataset, instead: &str) -> Result<()> {
    if dataset.stage.may_be_endless() {
        let message =
            format!("`{verb}` makes a whole pass, but the data has no end: {instead}, or leave out `repeat_forever`");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(())
}

/// The error of a verb that came before the one it needs.
pub(crate) fn before(verb: &str, first: &str) -> Error {
    Error::new(ErrorKind::WrongOrder, format!("`{verb}` was called before `{first}`: call `{first}` first"))
}

/// What a guarded model function left, after work on a device: memory that it could not get, it no longer needs.
pub(crate) fn device_outcome<T, D: Device>(
    device: &D,
    outcome: std::result::Result<ModelResult<T>, String>,
) -> Result<T> {
    model_outcome(outcome).inspect_err(|error| {
        if error.kind() == ErrorKind::OutOfMemory {
            device.trim_memory();
        }
    })
}

/// Turns what a guarded model function left into one error.
pub(crate) fn model_outcome<T>(outcome: std::result::Result<ModelResult<T>, String>) -> Result<T> {
    match outcome {
        Ok(result) => result.map_err(ModelError::into_error),
        Err(panic) => {
            #[cfg(feature = "cuda")]
            if let Some(error) = crate::nn::cuda::of_panic(&panic) {
                return Err(error);
            }
            Err(Error::new(ErrorKind::Model, format!("the model function panicked: {panic}")))
        }
    }
}
