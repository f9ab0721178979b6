//! Saving: at once, beside training, and what happens after it.

use std::fs::File;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::checkpoint::{CheckpointInfo, Store};
use crate::nn::{Network, Part, Visitor};
use crate::progress::Progress;
use crate::{Device, Elistimator, Error, ErrorKind, ModelFn, Result};

/// What runs after each save that is made inside a training verb.
pub(crate) type AfterSave<M, D> =
    Box<dyn FnMut(&mut Elistimator<M, D>, &CheckpointInfo) -> Result<()> + Send + Sync + 'static>;

/// The save that goes on beside training, if one does, and the outcome of the last one until somebody is told.
#[derive(Debug)]
pub(crate) struct Background {
    thread: Option<JoinHandle<(Store, Result<CheckpointInfo>)>>,
    outcome: Option<Result<CheckpointInfo>>,
    progress: Progress,
}

impl Background {
    /// What fails when nobody is left to be told is said there.
    pub(crate) fn new(progress: Progress) -> Self {
        Self { thread: None, outcome: None, progress }
    }

    fn is_idle(&self) -> bool {
        self.thread.is_none() && self.outcome.is_none()
    }

    fn is_finished(&self) -> bool {
        self.outcome.is_some() || self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for the thread, and gives its store back.
    fn join(&mut self) -> Option<Store> {
        let (store, outcome) = match self.thread.take()?.join() {
            Ok((store, outcome)) => (Some(store), outcome),
            Err(_) => (None, Err(Error::new(ErrorKind::Io, "the thread that saved a checkpoint panicked"))),
        };
        self.outcome = Some(outcome);
        store
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // What was begun is brought to its end.
        drop(self.join());
        if let Some(Err(error)) = self.outcome.take() {
            let text = format!("the last checkpoint was not saved: {error}");
            self.progress.remark(&format!("error: {text}"));
            log::error!("{text}");
        }
    }
}

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// Saves everything that is needed to go on, and returns a description of the checkpoint. When this returns, the
    /// checkpoint survives a crash of the process and of the machine.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the disk refuses, [`ErrorKind::Locked`] when another process writes to the directory. Neither
    /// older checkpoints nor the state in memory are touched by a failed save. What the closure of
    /// [`after_save`](Self::after_save) returns for a save in the background that is done meanwhile, once this one is made.
    pub fn save_ckpt(&mut self) -> Result<CheckpointInfo> {
        let told = self.close_earlier_save();
        let info = self.save_now()?;
        told?;
        Ok(info)
    }

    fn save_now(&mut self) -> Result<CheckpointInfo> {
        // First, so that a run resumed from the checkpoint finds the curves up to its step.
        self.logs.sync();
        let snapshot = self.snapshot()?;
        let retention = self.options.retention.clone();
        let monitor = self.options.monitor.clone();
        let saved = self.writer()?.save(&snapshot, &retention, &monitor);
        self.note_save(&saved);
        let info = saved?;
        (self.saved, self.are_weights_set) = (Some(info.mark()), false);
        self.last_save = Instant::now();
        Ok(info)
    }

    /// Saves what a failed verb leaves; says so if that failed as well.
    pub(crate) fn save_failed(&mut self, error: Error) -> Error {
        let told = self.close_earlier_save();
        let error = match self.save_now() {
            Ok(_) => error,
            Err(second) => error.at(format_args!("what this leaves is not saved ({second})")),
        };
        match told {
            Ok(()) => error,
            Err(second) => error.at(format_args!("after an earlier save ({second})")),
        }
    }

    /// Copies the state and saves it while you go on: the promises are those of [`save_ckpt`](Self::save_ckpt), from the moment
    /// that [`wait_for_save`](Self::wait_for_save), a later save, or a verb that needs the model directory has waited for it.
    /// One save goes on at a time: this waits for an earlier one first. Weights and optimiser state are in memory twice until it
    /// is done: on the CPU what the next update changes is copied then, from other devices everything is copied at once.
    ///
    /// # Errors
    /// That of the earlier save, if it failed; those of reading the state.
    pub fn save_ckpt_in_background(&mut self) -> Result<&mut Self> {
        self.wait_for_save()?;
        let curves = self.logs.files_to_sync();
        let snapshot = self.snapshot()?;
        let retention = self.options.retention.clone();
        let monitor = self.options.monitor.clone();
        self.writer()?;
        let Some(mut store) = self.store.take() else { return Ok(self) };
        let save = move || {
            sync(&curves);
            let outcome = store.save(&snapshot, &retention, &monitor);
            (store, outcome)
        };
        let thread = std::thread::Builder::new()
            .name("elistimator-save".into())
            .spawn(save)
            .map_err(|error| Error::with_source(ErrorKind::Io, "cannot start a thread to save a checkpoint", error))?;
        self.background.thread = Some(thread);
        self.are_weights_set = false;
        self.last_save = Instant::now();
        Ok(self)
    }

    /// Waits until the save that goes on in the background is durable, and describes its checkpoint; `None` when there is none
    /// that you were not told of yet.
    ///
    /// # Errors
    /// Those of [`save_ckpt`](Self::save_ckpt), and what the closure of [`after_save`](Self::after_save) returns.
    pub fn wait_for_save(&mut self) -> Result<Option<CheckpointInfo>> {
        self.collect_save();
        self.settle_save()
    }

    /// Runs a closure after each save that is made inside a training verb, once it is durable: to validate, to copy the checkpoint
    /// elsewhere. Its error ends the verb. It replaces an earlier one.
    pub fn after_save(
        &mut self,
        closure: impl FnMut(&mut Self, &CheckpointInfo) -> Result<()> + Send + Sync + 'static,
    ) -> &mut Self {
        self.after_save = Some(Box::new(closure));
        self
    }

    /// About how large a checkpoint will be: weights, what the optimiser remembers of each, and averages.
    pub(crate) fn checkpoint_bytes(&self) -> u64 {
        const REST: u64 = 64 << 10;
        let mut values = 0u64;
        // A visitor that never fails has no error to pass on.
        let _ = self.net.visit(&mut Visitor::new(&mut |name, part| {
            if let Part::Parameter(parameter) = part {
                let moments = if parameter.is_trainable() { self.optimizer.moments_of(name) } else { 0 };
                values += (parameter.len() * (1 + moments + usize::from(self.average.is_some()))) as u64;
            }
            Ok(())
        }));
        values * size_of::<f32>() as u64 + REST
    }

    /// The save that is due inside a training verb.
    pub(crate) fn save_in_verb(&mut self) -> Result<()> {
        if self.options.background_saving {
            return self.save_ckpt_in_background().map(|_| ());
        }
        let info = self.save_ckpt()?;
        self.run_after_save(&info)
    }

    /// Passes on what came of a save in the background, if it is done.
    pub(crate) fn poll_save(&mut self) -> Result<()> {
        if self.background.is_idle() || !self.background.is_finished() {
            return Ok(());
        }
        self.wait_for_save().map(|_| ())
    }

    /// Waits for the save in the background and takes its store back. What came of it is kept for who asks.
    pub(crate) fn collect_save(&mut self) {
        if self.background.thread.is_none() {
            return;
        }
        self.store = self.background.join();
        // Once: what is restored later is what was saved or restored last.
        if let Some(Ok(info)) = &self.background.outcome {
            self.saved = Some(info.mark());
        }
    }

    fn settle_save(&mut self) -> Result<Option<CheckpointInfo>> {
        let Some(outcome) = self.background.outcome.take() else { return Ok(None) };
        self.note_save(&outcome);
        let info = outcome.map_err(|error| error.at("saving in the background"))?;
        self.run_after_save(&info)?;
        Ok(Some(info))
    }

    fn run_after_save(&mut self, info: &CheckpointInfo) -> Result<()> {
        let Some(mut closure) = self.after_save.take() else { return Ok(()) };
        let outcome = crate::unwind::catch(|| closure(self, info)).unwrap_or_else(|panic| {
            Err(Error::new(
                ErrorKind::Model,
                format!("the closure after the save of step {} panicked: {panic}", info.step),
            ))
        });
        // Unless it has put another one in its place.
        self.after_save.get_or_insert(closure);
        outcome
    }

    /// A save that is made now makes good for one that failed before; after one that is done the closure still has to run.
    fn close_earlier_save(&mut self) -> Result<()> {
        self.collect_save();
        let Some(outcome) = self.background.outcome.take() else { return Ok(()) };
        self.note_save(&outcome);
        match outcome {
            Ok(info) => self.run_after_save(&info),
            Err(error) => {
                log::warn!("saving in the background failed, a later save follows: {error}");
                Ok(())
            }
        }
    }

    fn note_save(&mut self, saved: &Result<CheckpointInfo>) {
        self.logs.note(self.global_step, || match saved {
            Ok(info) if info.is_finite => format!("saved: step {}, {} bytes", info.step, info.bytes),
            Ok(info) => {
                format!("saved: step {}, {} bytes; warning: some weights are not finite", info.step, info.bytes)
            }
            Err(error) => format!("warning: not saved: {error}"),
        });
    }
}

fn sync(files: &[(PathBuf, File)]) {
    for (path, file) in files {
        if let Err(error) = file.sync_data() {
            log::warn!("cannot sync {}: {error}", path.display());
        }
    }
}
