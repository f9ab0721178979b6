//! Settings of an estimator, before it exists.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Monitor, Retention};
use crate::checkpointing::{MONITOR, RETENTION, Which};
use crate::device::Cpu;
use crate::progress::{LogEvery, ProgressMode};
use crate::settings::{Saved, Setting};
use crate::{Device, DeviceSpec, Elistimator, Error, ErrorKind, ModelFn, Result};

/// The direction in which a monitored metric gets better.
pub use crate::checkpoint::Mode;

/// How often something happens inside a training verb.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Every {
    /// At every global step that this number divides.
    Steps(u64),
    /// When this much time has passed since it last happened.
    Time(Duration),
}

/// What training does when a loss is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NotFinite {
    /// The verb returns an error of kind [`NotFinite`](crate::ErrorKind::NotFinite) with the step.
    #[default]
    Stop,
    /// The first one of the run is reported through the log, and training goes on. Such a checkpoint is never the best.
    GoOn,
}

/// Which average of the weights is kept.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Averaging {
    /// Of an exponential one; without it all weights count alike.
    pub(crate) decay: Option<f64>,
    after: u64,
    every: u64,
}

impl Averaging {
    /// Whether it takes in the weights after this step.
    pub(crate) fn takes(self, step: u64) -> bool {
        step > self.after && step.is_multiple_of(self.every)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) model_dir: Option<PathBuf>,
    pub(crate) seed: u64,
    pub(crate) device: DeviceSpec,
    pub(crate) memory_fraction: Option<f64>,
    pub(crate) monitor: Monitor,
    pub(crate) retention: Retention,
    pub(crate) progress: ProgressMode,
    pub(crate) log_every: Option<LogEvery>,
    pub(crate) log_file: bool,
    pub(crate) summary_every: u64,
    pub(crate) norm_every: u64,
    pub(crate) save_every: Option<Every>,
    pub(crate) background_saving: bool,
    pub(crate) not_finite: NotFinite,
    pub(crate) accumulate: usize,
    pub(crate) average: Option<Averaging>,
    pub(crate) interrupts: bool,
    pub(crate) save_on_error: bool,
    pub(crate) describe: bool,
    pub(crate) revision: Option<String>,
    pub(crate) allowed: Vec<Setting>,
}

impl Options {
    /// Refuses settings that can never do what they say.
    pub(crate) fn check(&self) -> Result<()> {
        let refused = |message: &str| Err(Error::new(ErrorKind::InvalidArgument, message));
        if self.monitor.metric().trim().is_empty() {
            let found = self.monitor.metric();
            return refused(&format!("monitor: found the name {found:?}, expected that of a metric, \"loss\" say"));
        }
        if self.save_every == Some(Every::Steps(0)) {
            return refused("save_every: found 0 steps, expected at least 1; leave it out to save by `save_ckpt` only");
        }
        match self.average {
            Some(Averaging { every: 0, decay: Some(_), .. }) => {
                refused("ema_every: found an average every 0 steps, expected at least 1")
            }
            Some(Averaging { every: 0, decay: None, .. }) => {
                refused("swa: found an average every 0 steps, expected at least 1")
            }
            _ => Ok(()),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model_dir: None,
            seed: 0,
            device: DeviceSpec::Auto,
            memory_fraction: None,
            monitor: Monitor::default(),
            retention: Retention::default(),
            progress: ProgressMode::default(),
            log_every: None,
            log_file: false,
            summary_every: 1,
            norm_every: 10,
            save_every: None,
            background_saving: false,
            not_finite: NotFinite::default(),
            accumulate: 1,
            average: None,
            interrupts: false,
            save_on_error: false,
            describe: false,
            revision: None,
            allowed: Vec::new(),
        }
    }
}

/// Makes an [`Elistimator`]: `Elistimator::builder(model)` on the CPU, `Builder::<M, D>::new(model)` on any device.
#[derive(Debug)]
pub struct Builder<M, D = Cpu> {
    model: M,
    options: Options,
    restored: Option<Which>,
    device: PhantomData<fn() -> D>,
}

impl<M: ModelFn<D>, D: Device> Builder<M, D> {
    /// Starts from the defaults.
    pub fn new(model: M) -> Self {
        let options = Options { device: default_spec::<D>(), ..Options::default() };
        Self { model, options, restored: None, device: PhantomData }
    }

    /// Where checkpoints and logs go; it is made if missing, and stays the one meant when the estimator was built should the
    /// program change its working directory. Where it holds a run already, [`resume_or_start`](Self::resume_or_start) goes on with
    /// that; [`build`](Self::build) begins another one beside it, and `setup` says so. Unset: a new temporary directory that outlives the process and
    /// whose path is printed.
    #[must_use]
    pub fn model_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.options.model_dir = Some(dir.into());
        self
    }

    /// The same, where a command line may or may not name a directory.
    #[must_use]
    pub fn model_dir_or_temporary(mut self, dir: Option<PathBuf>) -> Self {
        self.options.model_dir = dir;
        self
    }

    /// The seed of initial weights, shuffling and dropout; 0 unless set. The same seed gives the same run.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    /// Which device to open, among those of type `D`; see [`with_device!`](crate::with_device).
    #[must_use]
    pub fn device(mut self, spec: DeviceSpec) -> Self {
        self.options.device = spec;
        self
    }

    /// Bounds the memory that this process takes of a GPU, for one that is shared: 0.5 is half of all that the device has,
    /// free or not. Unset: no bound, and none is taken before it is needed.
    ///
    /// The bound is on tensors: what dfdx and this library allocate, from when the device is opened. The driver keeps it
    /// (CUDA 12.2 or newer), so that what goes beyond it is an error of [`OutOfMemory`](crate::ErrorKind::OutOfMemory).
    /// Not in it are the driver's own context, the kernels and cuBLAS's work space, some hundred MiB: leave room for
    /// them. It is one of the process, and the first estimator on a device sets it for all. On the CPU it does nothing.
    ///
    /// [`build`](Self::build) fails with [`InvalidArgument`](crate::ErrorKind::InvalidArgument) when the fraction is not
    /// above 0 and at most 1, or not the one that another estimator has set; and with
    /// [`Device`](crate::ErrorKind::Device) when the driver cannot keep it.
    #[must_use]
    pub fn memory_fraction(mut self, fraction: f64) -> Self {
        self.options.memory_fraction = Some(fraction);
        self
    }

    /// Which metric decides what is best, and its direction; the smallest `loss` unless set. `build` refuses an empty name.
    /// A name that the validation does not measure is told once, after the first validation that makes it sure.
    #[must_use]
    pub fn monitor(mut self, metric: &str, mode: Mode) -> Self {
        self.options.monitor = Monitor::new(metric, mode);
        self
    }

    /// How many checkpoints to keep, 5 unless set; the best, the latest and pinned ones are kept on top when they would fall
    /// out. 0 keeps all.
    #[must_use]
    pub fn max_to_keep(mut self, count: usize) -> Self {
        self.options.retention.max_to_keep = count;
        self
    }

    /// All of what is kept: the best k, every n-th step, every so many hours.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.options.retention = retention;
        self
    }

    /// Progress bars: on a terminal, always, or never.
    #[must_use]
    pub fn progress(mut self, mode: ProgressMode) -> Self {
        self.options.progress = mode;
        self
    }

    /// Prints loss, named values and steps per second as lines, every so many steps or seconds, with or without a bar.
    #[must_use]
    pub fn log_every(mut self, every: LogEvery) -> Self {
        self.options.log_every = Some(every);
        self
    }

    /// Appends a line with time and step to `log.txt` in the model directory for every setup, epoch, validation, save,
    /// restore, warning and failure. A run that is resumed appends to it.
    #[must_use]
    pub fn log_file(mut self, on: bool) -> Self {
        self.options.log_file = on;
        self
    }

    /// Writes every n-th step's values to TensorBoard and the history; every step unless set, never for 0. Beside losses and
    /// named values: `learning_rate`, `gradient_norm`, `steps_per_second` and `examples_per_second` since the last one,
    /// `data_wait` (the share of that time spent waiting for batches), and `memory` (resident, in MiB, on Linux).
    #[must_use]
    pub fn summary_every(mut self, steps: u64) -> Self {
        self.options.summary_every = steps;
        self
    }

    /// Measures the `gradient_norm` at every n-th of the steps that are written; 10 unless set, never for 0. It costs a pass over
    /// the gradients. Clipping by norm needs it in any case, and then every step has it.
    #[must_use]
    pub fn gradient_norm_every(mut self, logged_steps: u64) -> Self {
        self.options.norm_every = logged_steps;
        self
    }

    /// Saves inside the training verbs, for machines that may be taken away. `build` refuses every 0 steps.
    #[must_use]
    pub fn save_every(mut self, every: Every) -> Self {
        self.options.save_every = Some(every);
        self
    }

    /// Makes the saves inside the training verbs beside training, which then waits only for the copy of the state in memory; off
    /// unless set. A save that fails ends a later step of the verb, or is told by
    /// [`wait_for_save`](Elistimator::wait_for_save); when the estimator is dropped before, it is only said on the terminal and
    /// in the `log`.
    #[must_use]
    pub fn background_saving(mut self, on: bool) -> Self {
        self.options.background_saving = on;
        self
    }

    /// What to do about a loss that is NaN or infinite; to stop unless set.
    #[must_use]
    pub fn on_not_finite(mut self, policy: NotFinite) -> Self {
        self.options.not_finite = policy;
        self
    }

    /// Takes so many batches for one step: their gradients are averaged by numbers of examples, so that the update is that of
    /// one large batch, in the memory of a small one. What an epoch has left over at its end makes a smaller step.
    /// 1 unless set; 0 counts as 1.
    #[must_use]
    #[doc(alias("gradient_accumulation"))]
    pub fn accumulate(mut self, batches: usize) -> Self {
        self.options.accumulate = batches.max(1);
        self
    }

    /// Keeps an exponential average of the weights with this decay (0.999, say), updated after every step and saved in
    /// checkpoints; [`Elistimator::with_ema`] evaluates and predicts with it. `build` refuses a decay outside 0 to 1.
    #[must_use]
    pub fn ema(self, decay: f64) -> Self {
        self.ema_every(decay, 1)
    }

    /// The same, updated after every global step that `steps` divides; `build` refuses 0.
    #[must_use]
    pub fn ema_every(mut self, decay: f64, steps: u64) -> Self {
        self.options.average = Some(Averaging { decay: Some(decay), after: 0, every: steps });
        self
    }

    /// Keeps the plain mean of the weights (stochastic weight averaging, Izmailov et al. 2018): of those after every global step
    /// that `every` divides, once more than `after` steps are done. `after` is usually three quarters of the run, `every` an epoch
    /// or a cycle of the learning rate. It takes the place of [`ema`](Self::ema), is saved and looked at in the same ways, and
    /// running statistics are averaged like weights. `build` refuses an `every` of 0.
    #[must_use]
    pub fn swa(mut self, after: u64, every: u64) -> Self {
        self.options.average = Some(Averaging { decay: None, after, every });
        self
    }

    /// Handles Ctrl-C, SIGTERM and, on Unix, the terminal that closes: the batch in progress and a save end, and the verb
    /// returns an error of kind [`Interrupted`](crate::ErrorKind::Interrupted), with everything usable; a second signal ends
    /// the process. Under `nohup` the run goes on when the terminal closes (on Linux).
    #[must_use]
    pub fn handle_interrupts(mut self, on: bool) -> Self {
        self.options.interrupts = on;
        self
    }

    /// Saves a checkpoint when a training verb fails for a reason that leaves the weights sound: data (a file that
    /// cannot be read, a column that is missing), model function (unless it fails while parameters are updated), interruption.
    #[must_use]
    pub fn save_on_error(mut self, on: bool) -> Self {
        self.options.save_on_error = on;
        self
    }

    /// Prints the input signature and a table of the variables at `setup`.
    #[must_use]
    pub fn describe(mut self, on: bool) -> Self {
        self.options.describe = on;
        self
    }

    /// A revision of your program (a git commit, say), kept in every checkpoint.
    #[must_use]
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.options.revision = Some(revision.into());
        self
    }

    /// Allows this setting to differ from the saved run's when one is restored.
    #[must_use]
    pub fn allow(mut self, setting: Setting) -> Self {
        self.options.allowed.push(setting);
        self
    }

    /// With what decides how training goes on, what is the best and what is kept, as a saved run has it.
    pub(crate) fn trained_as(mut self, saved: &Saved) -> Self {
        let value = |setting: Setting| saved.iter().find(|(name, _)| name == setting.name()).map(|(_, value)| value);
        if let Some(Ok(batches)) = value(Setting::Accumulate).map(|value| value.parse()) {
            self = self.accumulate(batches);
        }
        if let Some(Ok(average)) = value(Setting::Averages).map(|value| serde_json::from_str(value)) {
            self.options.average = average;
        }
        let named = |wanted: &str| saved.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        if let Some(Ok(monitor)) = named(MONITOR).map(|value| serde_json::from_str(value)) {
            self.options.monitor = monitor;
        }
        if let Some(Ok(retention)) = named(RETENTION).map(|value| serde_json::from_str(value)) {
            self.options.retention = retention;
        }
        self
    }

    pub(crate) fn restoring(mut self, which: Which) -> Self {
        self.restored = Some(which);
        self
    }

    /// Builds the network with its initial weights; after [`from_disk`](Self::from_disk), with those of the checkpoint.
    ///
    /// # Errors
    /// When the device cannot be opened, the model function's `build` fails, or two parameters have one name.
    pub fn build(self) -> Result<Elistimator<M, D>> {
        let mut estimator = Elistimator::new(self.model, self.options)?;
        if let Some(which) = self.restored {
            estimator.restore_ckpt(which)?;
        }
        Ok(estimator)
    }

    /// Goes on with the run in the model directory if it has a checkpoint, and starts one otherwise: the same command then
    /// starts a run and picks it up again.
    ///
    /// # Errors
    /// Those of [`build`](Self::build) and [`restore_latest`](Elistimator::restore_latest), and
    /// [`Settings`](crate::ErrorKind::Settings) when hyper-parameters or seed differ from the saved ones.
    pub fn resume_or_start(self) -> Result<Elistimator<M, D>> {
        let mut estimator = self.build()?;
        if estimator.has_checkpoints()? {
            estimator.restore_latest()?;
        }
        Ok(estimator)
    }
}

/// The spec that opens a device of type `D` when none is named.
pub(crate) fn default_spec<D: Device>() -> DeviceSpec {
    if D::READS_ARE_FREE { DeviceSpec::Cpu } else { DeviceSpec::Cuda(0) }
}
