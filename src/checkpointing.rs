//! The verbs that bring back, `restore_*` and `from_disk`, and what a checkpoint holds.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::builder::Builder;
use crate::checkpoint::{Access, CheckpointInfo, Mark, Snapshot, State, Store, Tensors};
use crate::data::{Dataset, Signature};
use crate::device::Cpu;
use crate::elistimator::model_outcome;
use crate::feed::{Feed, Position};
use crate::logs::metric_of;
use crate::metrics::Metrics;
use crate::nn::variables;
use crate::optim::Optimizer;
use crate::settings::{Difference, Saved, Setting, check, differences};
use crate::{Device, Elistimator, Error, ErrorKind, ModelError, ModelFn, Result, unwind};

/// What the names of averaged weights begin with among the optimiser's state.
const EMA: &str = "ema/";

/// How many weights were averaged, among the loop's state.
const AVERAGED: &str = "averaged";

/// The setting that holds what the run calls the best.
pub(crate) const MONITOR: &str = "monitor";

/// The setting that holds which checkpoints the run keeps.
pub(crate) const RETENTION: &str = "retention";

/// Which checkpoint of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Which {
    /// The one that was saved last; if it is damaged, the newest one that is whole.
    #[default]
    Latest,
    /// The best by the builder's monitor: `loss` unless set, after [`Builder::from_disk`] that of the saved run.
    Best,
    /// The one of this global step.
    Step(u64),
    /// The one in this directory, which may belong to another run of the same model.
    Path(PathBuf),
}

impl From<u64> for Which {
    fn from(step: u64) -> Self {
        Self::Step(step)
    }
}

impl From<&Path> for Which {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for Which {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&CheckpointInfo> for Which {
    fn from(info: &CheckpointInfo) -> Self {
        Self::Path(info.path.clone())
    }
}

impl<M: ModelFn<Cpu>> Elistimator<M, Cpu> {
    /// The run in a directory, on the CPU: model function with its hyper-parameters, signature, and the weights of the
    /// latest checkpoint. Then predict, evaluate, or `setup` and go on. [`Builder::from_disk`] chooses another checkpoint
    /// or device.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no checkpoint, [`ErrorKind::Corrupt`] when none is whole,
    /// [`ErrorKind::Mismatch`] when it is of another model.
    pub fn from_disk(model_dir: impl AsRef<Path>) -> Result<Self> {
        Builder::<M, Cpu>::from_disk(model_dir.as_ref(), Which::Latest)?.build()
    }
}

impl<M: ModelFn<D>, D: Device> Builder<M, D> {
    /// Begins with what a saved run was built with and what decides its numbers: hyper-parameters, seed, accumulation, averages of
    /// the weights; and with what it calls the best and which checkpoints it keeps. `build` then restores that checkpoint.
    ///
    /// # Errors
    /// Those of [`Elistimator::from_disk`].
    pub fn from_disk(model_dir: impl AsRef<Path>, which: impl Into<Which>) -> Result<Self> {
        let (model_dir, which) = (model_dir.as_ref(), which.into());
        let store = Store::open(model_dir, Access::Read)?;
        let snapshot = match &which {
            // The monitor is not known yet, and a step of the best is looked up again when the estimator is built.
            Which::Latest | Which::Best => store.load_latest()?,
            Which::Step(step) => store.load(*step)?,
            Which::Path(path) => store.load_path(path)?,
        };
        Ok(Self::of_snapshot(&snapshot, model_dir)?.trained_as(&snapshot.state.settings).restoring(which))
    }

    /// Begins with the hyper-parameters and the seed of a snapshot.
    pub(crate) fn of_snapshot(snapshot: &Snapshot, model_dir: &Path) -> Result<Self> {
        let model = serde_json::from_slice(&snapshot.hyper_parameters).map_err(|error| {
            let message = format!(
                "the hyper-parameters of step {} in {} do not fit this model function (give new fields a serde default)",
                snapshot.step,
                model_dir.display()
            );
            Error::with_source(ErrorKind::Mismatch, message, error)
        })?;
        Ok(Self::new(model).model_dir(model_dir).seed(snapshot.state.seed))
    }
}

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// Brings back the checkpoint of this step, or the one at this path. Training then goes on from there.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Corrupt`] naming the file, [`ErrorKind::Mismatch`] naming the tensor,
    /// [`ErrorKind::Settings`] when hyper-parameters or seed differ and were not allowed; after `setup` also when its data
    /// does. After an error the estimator is exactly as it was.
    pub fn restore_ckpt(&mut self, which: impl Into<Which>) -> Result<&mut Self> {
        let which = which.into();
        // What is being saved may be what is asked for.
        self.collect_save();
        let (snapshot, passed_over) = self.read_snapshot(&which)?;
        let saved = Mark::of(&snapshot.state);
        self.apply(snapshot)?;
        (self.saved, self.are_weights_set) = (Some(saved), false);
        self.logs.note(self.global_step, || format!("restored: {which:?}"));
        if let Some(fault) = passed_over {
            let step = self.global_step;
            self.progress
                .remark(&format!("warning: step {step} is restored, a damaged checkpoint is passed over: {fault}"));
            self.logs.note(step, || format!("warning: a damaged checkpoint is passed over: {fault}"));
        }
        Ok(self)
    }

    /// Brings back the checkpoint that was saved last; if it is damaged, the newest whole one, and says so in the log.
    ///
    /// # Errors
    /// Those of [`restore_ckpt`](Self::restore_ckpt).
    pub fn restore_latest(&mut self) -> Result<&mut Self> {
        self.restore_ckpt(Which::Latest)
    }

    /// Brings back the best checkpoint by the builder's monitor. Training on from it begins a new branch: a save at a step
    /// that exists replaces it.
    ///
    /// # Errors
    /// Those of [`restore_ckpt`](Self::restore_ckpt); [`ErrorKind::NotFound`] lists the metrics that there are.
    pub fn restore_best(&mut self) -> Result<&mut Self> {
        self.restore_ckpt(Which::Best)
    }

    /// The checkpoints in the model directory with their metrics, by step.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the directory cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointInfo>> {
        if self.store.is_none() && !self.model_dir.exists() {
            return Ok(Vec::new());
        }
        self.reader(|store| Ok(store.list()))
    }

    /// Whether there is anything to resume; what is there but damaged counts, so that no run quietly begins anew over it.
    pub(crate) fn has_checkpoints(&self) -> Result<bool> {
        self.reader(|store| Ok(store.has_any()))
    }

    /// Keeps the checkpoint of this step for ever, whatever rotation lets go; [`unpin`](Self::unpin) gives it back.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none of this step; those of the disk.
    pub fn pin(&mut self, step: u64) -> Result<&mut Self> {
        self.writer()?.pin(step, true)?;
        Ok(self)
    }

    /// Lets rotation have a pinned checkpoint again.
    ///
    /// # Errors
    /// Those of [`pin`](Self::pin).
    pub fn unpin(&mut self, step: u64) -> Result<&mut Self> {
        self.writer()?.pin(step, false)?;
        Ok(self)
    }

    /// Keeps a value of yours in every checkpoint from now on, early stopping's state say; [`kept`](Self::kept) gives it
    /// back after a restore.
    ///
    /// # Errors
    /// When the value cannot be serialised.
    pub fn keep(&mut self, name: &str, value: &impl Serialize) -> Result<&mut Self> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            Error::with_source(ErrorKind::InvalidArgument, format!("cannot keep {name:?} in checkpoints"), error)
        })?;
        self.kept.retain(|(known, _)| known != name);
        self.kept.push((name.to_owned(), bytes));
        Ok(self)
    }

    /// A value that the restored checkpoint keeps; `None` if it keeps none of this name.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn kept<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some((_, bytes)) = self.kept.iter().find(|(known, _)| known == name) else { return Ok(None) };
        let value = serde_json::from_slice(bytes).map_err(|error| {
            Error::with_source(ErrorKind::Mismatch, format!("the kept value {name:?} is of another type"), error)
        })?;
        Ok(Some(value))
    }

    /// What differs between this estimator and the run it restored, whether allowed or not. Data and batch size are compared
    /// once `setup` has brought them.
    pub fn differences(&self) -> Vec<Difference> {
        match &self.origin {
            Some(saved) => differences(saved, &self.settings(self.feed.as_ref().map(|feed| feed.dataset()))),
            None => Vec::new(),
        }
    }

    /// The store, opened for writing when it is first needed.
    pub(crate) fn writer(&mut self) -> Result<&mut Store> {
        self.collect_save();
        match &mut self.store {
            Some(store) => Ok(store),
            closed => Ok(closed.insert(Store::open(&self.model_dir, Access::Write)?)),
        }
    }

    pub(crate) fn reader<T>(&self, read: impl FnOnce(&Store) -> Result<T>) -> Result<T> {
        match &self.store {
            Some(store) => read(store),
            None => read(&Store::open(&self.model_dir, Access::Read)?),
        }
    }

    /// Puts fresh metrics on the checkpoint of this step, if this run's is there, and keeps them for one that is saved later.
    pub(crate) fn attach(&mut self, set: &str, metrics: &Metrics) -> Result<()> {
        if self.validated.0 != self.global_step {
            self.validated = (self.global_step, Metrics::new());
        }
        for (name, value) in metrics.iter() {
            self.validated.1.insert(&metric_of(set, name), value);
        }
        let (step, metrics) = (self.global_step, self.validated.1.clone());
        self.collect_save();
        let Some(saved) = self.saved.filter(|saved| saved.step == step && !self.are_weights_set) else { return Ok(()) };
        let store = self.writer()?;
        store.check_place()?;
        if store.mark_of(step) == Some(saved) {
            store.attach_metrics(step, &metrics.into())?;
        }
        Ok(())
    }

    /// Notes that the weights are no longer those that were saved and measured at this step.
    pub(crate) fn weights_are_set(&mut self) {
        (self.validated, self.are_weights_set) = ((self.global_step, Metrics::new()), true);
    }

    /// The checkpoint, and what is wrong with one that was passed over for it.
    fn read_snapshot(&self, which: &Which) -> Result<(Snapshot, Option<Error>)> {
        let sure = |snapshot| (snapshot, None);
        self.reader(|store| match which {
            Which::Latest => store.load_newest_whole(),
            Which::Best => store.load_best(&self.options.monitor).map(sure),
            Which::Step(step) => store.load(*step).map(sure),
            Which::Path(path) => store.load_path(path).map(sure),
        })
    }

    /// A network of its own with the weights of a checkpoint.
    pub(crate) fn net_of(&self, which: Which) -> Result<M::Net> {
        let Snapshot { step, model, state, .. } = self.read_snapshot(&which)?.0;
        let mut net = model_outcome(unwind::catch(|| self.model.build(&self.device)))?;
        variables::check(&net, model.iter(), &state.counters)
            .map_err(|error| error.at(format_args!("checkpoint of step {step}")))?;
        variables::write(&mut net, model.iter(), &state.counters).map_err(ModelError::into_error)?;
        Ok(net)
    }

    /// All state, as bytes and numbers.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let (model, streams) = variables::read(&self.net).map_err(ModelError::into_error)?;
        let mut optimizer = self.optimizer.shared_tensors(&self.net).map_err(ModelError::into_error)?;
        if let Some((average, _)) = &self.average {
            optimizer.extend(
                average.shared_tensors().into_iter().map(|(name, dims, values)| (format!("{EMA}{name}"), dims, values)),
            );
        }
        let hyper_parameters = serde_json::to_vec(&*self.model).map_err(|error| {
            Error::with_source(ErrorKind::InvalidArgument, "the model function cannot be serialised as JSON", error)
        })?;
        let position = self.position();
        let mut state = State::new(self.global_step, self.options.seed);
        state.epoch = position.epoch;
        state.position = position.batch;
        state.counters = streams;
        state.extra = self.kept.iter().map(|(name, bytes)| (format!("kept/{name}"), bytes.clone())).collect();
        if let Some(learning_rate) = self.fixed_learning_rate {
            state.extra.push(("learning_rate".into(), learning_rate.to_bits().to_le_bytes().into()));
        }
        if let Some((average, _)) = &self.average {
            state.extra.push((AVERAGED.into(), average.count().to_le_bytes().into()));
        }
        state.signature = match &*crate::lock(&self.signature) {
            Some(signature) => serde_json::to_vec(signature)
                .map_err(|error| Error::with_source(ErrorKind::Signature, "the signature cannot be saved", error))?,
            None => Vec::new(),
        };
        state.settings = self.settings(self.feed.as_ref().map(|feed| feed.dataset()));
        if let (None, Some(origin)) = (&self.feed, &self.origin) {
            // Without data, what was restored about it stays true.
            let is_about_data = |name: &str| Setting::of_name(name).is_some_and(Setting::is_about_data);
            state.settings.retain(|(name, _)| !is_about_data(name));
            let others = origin.iter().filter(|(name, _)| !state.settings.iter().any(|(known, _)| known == name));
            state.settings = state.settings.iter().chain(others).cloned().collect();
        }
        // What is best and what is kept is for today's program to say, to those who look at the directory without it.
        state.settings.retain(|(name, _)| name != MONITOR && name != RETENTION);
        let (monitor, retention) =
            (serde_json::to_string(&self.options.monitor), serde_json::to_string(&self.options.retention));
        let said = [(MONITOR, monitor), (RETENTION, retention)];
        state.settings.extend(said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.ok()?))));
        let metrics = (self.validated.0 == self.global_step && !self.validated.1.is_empty())
            .then(|| self.validated.1.clone().into());
        let (model, optimizer) = (Tensors::shared(model)?, Tensors::shared(optimizer)?);
        Ok(Snapshot { step: self.global_step, model, optimizer, hyper_parameters, state, metrics })
    }

    /// The same estimator at the state of a snapshot.
    pub(crate) fn at(mut self, snapshot: Snapshot) -> Result<Self> {
        self.apply(snapshot)?;
        Ok(self)
    }

    /// Checks a whole snapshot against this model, then takes it over: nothing is changed before all is known to fit.
    fn apply(&mut self, snapshot: Snapshot) -> Result<()> {
        let Snapshot { step, model, optimizer: moments, hyper_parameters, mut state, metrics } = snapshot;
        // Compared as this version of the model function reads them: a field added with a default is no difference.
        if let Ok(Ok(read)) = serde_json::from_slice::<M>(&hyper_parameters).map(|saved| serde_json::to_string(&saved))
        {
            let name = Setting::HyperParameters.name();
            state.settings.iter_mut().filter(|(known, _)| known == name).for_each(|(_, value)| value.clone_from(&read));
        }
        // Without data yet, `setup` compares what it brings.
        let dataset = self.feed.as_ref().map(Feed::dataset);
        let found = differences(&state.settings, &self.settings(dataset));
        let is_allowed = |setting: Setting| {
            self.options.allowed.contains(&setting)
                || (dataset.is_none() && setting.is_about_training())
                || (self.takes_new_data && setting.is_about_data())
        };
        check(&found, is_allowed)?;
        let place = |error: Error| error.at(format_args!("checkpoint of step {step}"));
        let signature: Option<Signature> = match state.signature.as_slice() {
            [] => None,
            bytes => Some(serde_json::from_slice(bytes).map_err(|error| {
                place(Error::with_source(ErrorKind::Corrupt, "the input signature cannot be read", error))
            })?),
        };
        variables::check(&self.net, model.iter(), &state.counters).map_err(place)?;
        let mut optimizer = Optimizer::new(model_outcome(unwind::catch(|| Ok(self.model.optimizer())))?);
        // Kept beside the optimiser's state under a prefix that no moment has.
        let averages = moments.iter().filter_map(|(name, dims, values)| Some((name.strip_prefix(EMA)?, dims, values)));
        optimizer
            .restore_views(&self.net, moments.iter().filter(|(name, ..)| !name.starts_with(EMA)))
            .map_err(place)?;
        if let Some((average, _)) = &mut self.average {
            let count = state.extra.iter().find(|(name, _)| name == AVERAGED).and_then(|(_, bytes)| number(bytes));
            // Older checkpoints have exponential averages only, for which the count does not matter.
            average.restore_views(&self.net, averages, count.unwrap_or(step)).map_err(place)?;
        }

        variables::write(&mut self.net, model.iter(), &state.counters).map_err(ModelError::into_error)?;
        self.optimizer = optimizer;
        (self.global_step, self.is_half_updated) = (step, false);
        // A place within an epoch means nothing in other data.
        let batch = if found.iter().any(Difference::is_other_data) { 0 } else { state.position };
        self.start = Position { epoch: state.epoch, batch };
        if let Some(feed) = &mut self.feed {
            feed.seek(self.start);
        }
        self.fixed_learning_rate = None;
        self.kept.clear();
        for (name, bytes) in state.extra {
            if let Some(name) = name.strip_prefix("kept/") {
                self.kept.push((name.to_owned(), bytes));
            } else if let ("learning_rate", Some(bits)) = (name.as_str(), number(&bytes)) {
                self.fixed_learning_rate = Some(f64::from_bits(bits));
            }
        }
        if let Some(signature) = signature {
            *crate::lock(&self.signature) = Some(signature);
        }
        self.validated = (step, metrics.map(Metrics::from).unwrap_or_default());
        self.origin = Some(state.settings);
        self.training_log = Default::default();
        // Curves of a restored run begin again at its step; what lies behind it is another branch.
        self.logs.restart(step, self.validated.1.clone());
        Ok(())
    }

    /// The settings that decide this run's numbers; those about the data only where there is data.
    fn settings(&self, dataset: Option<&Dataset>) -> Saved {
        let hyper_parameters = serde_json::to_string(&*self.model).unwrap_or_default();
        let mut settings = vec![
            (Setting::HyperParameters, hyper_parameters),
            (Setting::Seed, self.options.seed.to_string()),
            (Setting::Accumulate, self.options.accumulate.to_string()),
            (Setting::Averages, serde_json::to_string(&self.options.average).unwrap_or_default()),
            (Setting::Device, self.device.name()),
            (Setting::Threads, rayon::current_num_threads().to_string()),
            (Setting::Version, env!("CARGO_PKG_VERSION").to_owned()),
        ];
        if let Some(dataset) = dataset {
            settings.push((Setting::BatchSize, dataset.batch_size().map_or("varies".into(), |size| size.to_string())));
            settings.push((Setting::Data, dataset.fingerprint()));
        }
        let mut saved: Saved =
            settings.into_iter().map(|(setting, value)| (setting.name().to_owned(), value)).collect();
        if let Some(revision) = &self.options.revision {
            saved.push(("revision".into(), revision.clone()));
        }
        saved
    }

    /// Compares the data with what the restored run was trained on; says whether it is other data, which was allowed.
    pub(crate) fn check_settings(&self, train: &Dataset, new_data: bool) -> Result<bool> {
        let Some(origin) = &self.origin else { return Ok(false) };
        let found = differences(origin, &self.settings(Some(train)));
        let is_allowed =
            |setting: Setting| self.options.allowed.contains(&setting) || (new_data && setting.is_about_data());
        check(&found, is_allowed)?;
        Ok(found.iter().any(Difference::is_other_data))
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}
