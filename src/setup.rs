//! How an estimator comes to be, and how data is made ready for it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::builder::Options;
use crate::data::{Dataset, Padding, Signature};
use crate::elistimator::model_outcome;
use crate::feed::{Feed, Position};
use crate::gauges::Gauges;
use crate::gradient_pool::GradientPool;
use crate::log_file::LogFile;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::nn::{Network, Part, Visitor, variables};
use crate::optim::{Optimizer, WeightAverage};
use crate::progress::Progress;
use crate::saving::Background;
use crate::unreached::Unreached;
use crate::{Device, Elistimator, Error, ErrorKind, ModelError, ModelFn, Result, unwind};

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    pub(crate) fn new(model: impl Into<Arc<M>>, options: Options) -> Result<Self> {
        let model = model.into();
        options.check()?;
        if let Some(fraction) = options.memory_fraction {
            // Not a number is in no range.
            if !(fraction > 0.0 && fraction <= 1.0) {
                let message = format!("memory_fraction: found {fraction}, expected a fraction above 0 and at most 1");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            D::bound_memory(options.device, fraction)?;
        }
        // First, since they say more of a NaN among the hyper-parameters than that it is one.
        let settings = || Ok((model.optimizer(), model.schedule()));
        let (config, schedule) = model_outcome(unwind::catch(settings)).map_err(|error| error.at("build"))?;
        config.check().and_then(|()| schedule.check()).map_err(|error| error.at("build"))?;
        // Reading them may be the user's own code as well.
        model_outcome(unwind::catch(|| Ok(check_comes_back(&*model)?))).map_err(|error| error.at("build"))?;
        let device = D::open(options.device, options.seed)?;
        let net = model_outcome(unwind::catch(|| model.build(&device))).map_err(|error| error.at("build"))?;
        variables::prepare(&net, options.seed).map_err(|error| ModelError::into_error(error).at("build"))?;
        let optimizer = Optimizer::new(config);
        optimizer.check_names(&net).map_err(|error| ModelError::into_error(error).at("build"))?;
        let average = match options.average {
            Some(when) => {
                Some((when.decay.map_or_else(|| Ok(WeightAverage::uniform()), WeightAverage::exponential)?, when))
            }
            None => None,
        };
        let progress = Progress::new(options.progress);
        let model_dir = match &options.model_dir {
            // The run stays there when the program goes to another directory. An empty name is refused where it is used.
            Some(dir) => std::path::absolute(dir).unwrap_or_else(|_| dir.clone()),
            None => temporary_dir(&progress)?,
        };
        Ok(Self {
            base_learning_rate: optimizer.learning_rate(),
            schedule,
            gradients: GradientPool::new(&net).map_err(ModelError::into_error)?,
            logs: Logs::new(options.log_every, options.log_file.then(|| LogFile::new(model_dir.join("log.txt"))))?,
            model,
            net,
            optimizer,
            average,
            own_schedule: None,
            fixed_learning_rate: None,
            device,
            options,
            model_dir,
            global_step: 0,
            start: Position::default(),
            feed: None,
            validation: Vec::new(),
            signature: Arc::default(),
            training_log: Default::default(),
            gauges: Gauges::new(),
            unreached: Unreached::default(),
            background: Background::new(progress.clone()),
            progress,
            store: None,
            after_save: None,
            validated: (0, Metrics::new()),
            monitor_check: Default::default(),
            saved: None,
            are_weights_set: false,
            last_save: Instant::now(),
            is_half_updated: false,
            origin: None,
            takes_new_data: false,
            kept: Vec::new(),
        })
    }

    /// The data as the model function reads it: checked to be batched, its signature noted, preprocessed.
    pub(crate) fn prepare(&self, dataset: Dataset, purpose: &str) -> Result<Dataset> {
        let dataset = batched(dataset, purpose)?;
        let (model, signature) = (Arc::clone(&self.model), Arc::clone(&self.signature));
        let is_training = purpose == "training";
        let padding = dataset.padding().cloned();
        Ok(dataset.map_before_prefetch(move |batch| {
            if is_training {
                note(&signature, &batch, padding.as_ref())?;
            }
            model_outcome(unwind::catch(|| model.preprocess(batch))).map_err(|error| error.at("preprocess"))
        }))
    }

    /// Says how long it took to go to a place within an epoch, where that is more than a moment: data that cannot be sought is
    /// made from the epoch's start and dropped.
    pub(crate) fn tell_seeking(&mut self) {
        let Some((position, time)) = self.feed.as_mut().and_then(Feed::take_sought) else { return };
        let (epoch, batch, seconds) = (position.epoch + 1, position.batch, time.as_secs_f64());
        let text = format!("went to batch {batch} of epoch {epoch} in {seconds:.1} s");
        if time >= Duration::from_secs(1) {
            self.progress.remark(&text);
        }
        self.logs.note(self.global_step, || text);
    }

    /// Says that the directory has checkpoints of a run that this one does not go on with: the best of both will be one of theirs,
    /// maybe.
    pub(crate) fn tell_of_another_run(&mut self) {
        let text = format!(
            "{} has checkpoints of an earlier run, and this one begins anew beside them: go on with `resume_or_start`, or name \
             another directory",
            self.model_dir.display()
        );
        self.warn(&text);
    }

    /// Says once on the terminal, in the `log` and among the run's notes what is no error, and looks like one.
    pub(crate) fn warn(&mut self, text: &dyn std::fmt::Display) {
        self.progress.remark(&format!("warning: {text}"));
        log::warn!("{text}");
        self.logs.note(self.global_step, || format!("warning: {text}"));
    }

    /// Says that the monitored metric is not measured, when these metrics of a validation set make it sure.
    pub(crate) fn tell_of_missing_monitor(&mut self, set: &str, metrics: &Metrics) {
        let (monitored, sets) = (self.options.monitor.metric(), self.validation.iter().map(|(name, _)| name));
        let Some(text) = self.monitor_check.missing(monitored, set, metrics, sets) else { return };
        self.warn(&text);
    }

    /// The signature and the variables, as `describe` prints them.
    pub fn description(&self) -> String {
        let mut text = String::new();
        if let Some(signature) = self.signature() {
            text.push_str(&format!("Inputs\n{signature}\n"));
        }
        let origin = if self.origin.is_some() { "restored" } else { "initialised" };
        let (mut count, mut rows) = (0, Vec::new());
        // A visitor that never fails has no error to pass on.
        let _ = self.net.visit(&mut Visitor::new(&mut |name, part| {
            if let Part::Parameter(parameter) = part {
                count += parameter.len();
                let frozen = if parameter.is_trainable() { "" } else { ", frozen" };
                rows.push((name.to_owned(), format!("{:?}", parameter.dims()), format!("{origin}{frozen}")));
            }
            Ok(())
        }));
        let width = |column: fn(&(String, String, String)) -> &String| {
            rows.iter().map(|row| column(row).len()).max().unwrap_or(0)
        };
        let (names, shapes) = (width(|row| &row.0), width(|row| &row.1));
        text.push_str("Variables\n");
        for (name, dims, origin) in &rows {
            text.push_str(&format!("  {name:names$}  {dims:shapes$}  {origin}\n"));
        }
        text.push_str(&format!("  {count} values in {} variables, step {}", rows.len(), self.global_step));
        text
    }
}

/// Refuses hyper-parameters that no checkpoint can bring back, before hours of training and not after.
fn check_comes_back<M: Serialize + DeserializeOwned>(model: &M) -> Result<()> {
    let refused = |text: Option<String>, error| {
        let mut message =
            "the hyper-parameters cannot be read back from checkpoints, where infinity and NaN become null".to_owned();
        message.extend(text.into_iter().filter(|text| text.len() < 1000).map(|text| format!(": {text}")));
        Err(Error::with_source(ErrorKind::InvalidArgument, message, error))
    };
    match serde_json::to_string(model).map(|text| (serde_json::from_str::<M>(&text).map(drop), text)) {
        Ok((Ok(()), _)) => Ok(()),
        Ok((Err(error), text)) => refused(Some(text), error),
        Err(error) => refused(None, error),
    }
}

/// The data, if it gives batches.
pub(crate) fn batched(dataset: Dataset, purpose: &str) -> Result<Dataset> {
    if !dataset.is_batched() {
        let message = format!("the {purpose} data gives single examples, expected batches: add `.batch(n)` to it");
        return Err(Error::new(ErrorKind::Data, message));
    }
    Ok(dataset)
}

/// Fixes the signature from the first batch, and widens it by the later ones. Where padding made the batch, its length is one of many.
fn note(signature: &Mutex<Option<Signature>>, batch: &crate::data::Record, padding: Option<&Padding>) -> Result<()> {
    let mut signature = lock(signature);
    let known = match &mut *signature {
        Some(known) => {
            known.widen(batch)?;
            known
        }
        unknown => unknown.insert(Signature::of_batch(batch)?),
    };
    let filled = padding.map(Padding::filled).unwrap_or_default();
    filled.iter().for_each(|(name, axes)| known.free(name, axes));
    Ok(())
}

/// A value behind a lock; a panic while it was held leaves it sound, since it is replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn temporary_dir(progress: &Progress) -> Result<PathBuf> {
    let dir = tempfile::Builder::new()
        .prefix("elistimator-")
        .tempdir()
        .map_err(|error| Error::io("make a temporary model directory in", &std::env::temp_dir(), error))?
        .keep();
    progress.line(&format!("model directory: {}", dir.display()));
    Ok(dir)
}
