//! Looks into a model directory without knowing its model: what the command `elistimator` and your own scripts are made of.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Access, CheckpointInfo, Monitor, Retention, Store};
use crate::checkpointing::MONITOR;
use crate::data::Signature;
use crate::{Error, ErrorKind, Result};

/// The checkpoints of a model directory, opened to look at them. Nothing is written, made or tidied up, and no lock is taken,
/// except by [`prune`](Self::prune).
#[derive(Debug)]
pub struct ModelDir {
    dir: PathBuf,
    store: Store,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name: that of a field of the network, such as `conv1.weight`.
    pub name: String,
    /// The type of its elements as safetensors writes it: `F32`.
    pub dtype: &'static str,
    /// Its dimensions.
    pub dims: Vec<usize>,
    /// The number of its elements.
    pub len: u64,
    /// The square root of the sum of the squares of its elements.
    pub norm: f64,
}

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Contents {
    /// Step, time, metrics, size.
    pub info: CheckpointInfo,
    /// Whole passes over the training data that were done.
    pub epoch: u64,
    /// Batches of the current pass that were used.
    pub batch: u64,
    /// The seed of the run.
    pub seed: u64,
    /// The model function as JSON.
    pub hyper_parameters: String,
    /// The inputs, if a run with data has fixed them.
    pub signature: Option<Signature>,
    /// Settings of the run by name: `version`, `revision`, `device`, `threads`, `batch_size`, `data`, `monitor` and so on.
    pub settings: BTreeMap<String, String>,
    /// The weights.
    pub weights: Vec<TensorInfo>,
    /// The optimiser's state.
    pub optimizer: Vec<TensorInfo>,
    /// The names of the values that [`keep`](crate::Elistimator::keep) has put there.
    pub kept: Vec<String>,
}

/// The outcome of checking one checkpoint, or the index.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// The step; `None` for the index of the directory.
    pub step: Option<u64>,
    /// What was checked.
    pub path: PathBuf,
    /// What is wrong with it, file by file; empty if it is whole.
    pub faults: Vec<Error>,
}

/// Which checkpoints [`ModelDir::prune`] deleted, or would.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Pruned {
    /// Deleted, or to be deleted.
    pub deleted: Vec<CheckpointInfo>,
    /// Kept.
    pub kept: Vec<CheckpointInfo>,
}

impl ModelDir {
    /// Opens a model directory.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, or it is none of a model; [`ErrorKind::Io`] when it is not a directory or
    /// cannot be read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::with(dir.as_ref(), Access::Read)
    }

    fn with(dir: &Path, access: Access) -> Result<Self> {
        let found = std::fs::metadata(dir).map_err(|error| not_found("read", dir, error))?;
        if !found.is_dir() {
            let message = format!("{} is not a directory, expected that of a model", dir.display());
            return Err(Error::new(ErrorKind::Io, message));
        }
        // Before the store, which would make it to write into it.
        let checkpoints = dir.join("checkpoints");
        match std::fs::metadata(&checkpoints) {
            Ok(found) if found.is_dir() => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("read", &checkpoints, error));
            }
            _ => {
                let hint = meant(dir).map(|meant| format!("; {meant}")).unwrap_or_default();
                let message = format!("{} has no directory checkpoints, expected that of a model{hint}", dir.display());
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        }
        Ok(Self { dir: dir.to_owned(), store: Store::open(dir, access)? })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The checkpoints by step. A damaged one may be among them, or be left out with a warning: [`verify`](Self::verify) tells.
    pub fn checkpoints(&self) -> Vec<CheckpointInfo> {
        self.store.list()
    }

    /// The checkpoint that was saved last.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub fn latest(&self) -> Result<CheckpointInfo> {
        let latest = self.store.list().into_iter().max_by_key(CheckpointInfo::age);
        latest
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no checkpoint in {}", self.dir.display())))
    }

    /// The checkpoint of a step.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] lists the steps that there are.
    pub fn step(&self, step: u64) -> Result<CheckpointInfo> {
        let all = self.store.list();
        let known: Vec<u64> = all.iter().map(|info| info.step).collect();
        all.into_iter().find(|info| info.step == step).ok_or_else(|| {
            let message = format!("no checkpoint of step {step} in {}; there are {known:?}", self.dir.display());
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// The best checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] lists the metrics that there are.
    pub fn best(&self, monitor: &Monitor) -> Result<CheckpointInfo> {
        self.store.best(monitor)
    }

    /// What the run calls the best, as its latest readable checkpoint says; the smallest `loss` if none does.
    pub fn monitor(&self) -> Monitor {
        let mut all = self.store.list();
        all.sort_by_key(|info| std::cmp::Reverse(info.age()));
        let saved = all.iter().find_map(|info| self.store.read_state(&info.path).ok());
        let saved = saved.and_then(|state| state.settings.into_iter().find(|(name, _)| name == MONITOR));
        saved.and_then(|(_, monitor)| serde_json::from_str(&monitor).ok()).unwrap_or_default()
    }

    /// Everything in the checkpoint of a step, after checking its files.
    ///
    /// # Errors
    /// Those of [`step`](Self::step); [`ErrorKind::Corrupt`] names the file that is damaged.
    pub fn contents(&self, step: u64) -> Result<Contents> {
        let info = self.step(step)?;
        let snapshot = self.store.load(step)?;
        let file = |name: &str| info.path.join(name).display().to_string();
        let hyper_parameters = String::from_utf8(snapshot.hyper_parameters)
            .map_err(|error| Error::with_source(ErrorKind::Corrupt, file("hyper_parameters.json"), error))?;
        let state = snapshot.state;
        let signature = match state.signature.as_slice() {
            [] => None,
            bytes => Some(serde_json::from_slice(bytes).map_err(|error| {
                let message = format!("{}: the input signature cannot be read", file("state.bin"));
                Error::with_source(ErrorKind::Corrupt, message, error)
            })?),
        };
        let kept = state.extra.iter().filter_map(|(name, _)| name.strip_prefix("kept/")).map(str::to_owned).collect();
        Ok(Contents {
            epoch: state.epoch,
            batch: state.position,
            seed: state.seed,
            hyper_parameters,
            signature,
            settings: state.settings.into_iter().collect(),
            weights: snapshot.model.iter().map(tensor_info).collect(),
            optimizer: snapshot.optimizer.iter().map(tensor_info).collect(),
            kept,
            info,
        })
    }

    /// The weights of a step as the bytes of a safetensors file, after checking them.
    ///
    /// # Errors
    /// Those of [`contents`](Self::contents).
    pub fn weights(&self, step: u64) -> Result<Vec<u8>> {
        self.store.model_bytes(&self.step(step)?.path)
    }

    /// Checks every file of every checkpoint against its length and checksum, and the index.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the directory cannot be listed. Damage is no error here, but in the verdicts.
    pub fn verify(&self) -> Result<Vec<Verdict>> {
        let verdict = |(step, path): (u64, PathBuf)| {
            let faults = self.store.faults(step, &path);
            Verdict { step: Some(step), path, faults }
        };
        let mut verdicts: Vec<Verdict> = self.store.candidates()?.into_iter().map(verdict).collect();
        if let Some(fault) = self.store.index_fault() {
            let path = self.dir.join("checkpoints").join("elistimator_meta");
            verdicts.push(Verdict { step: None, path, faults: vec![fault] });
        }
        Ok(verdicts)
    }

    /// Deletes old checkpoints: all but the last `keep`, the best by any of the monitors, the latest and the pinned ones. Takes
    /// the directory's write lock, and tidies up what a crash left. With `dry_run` nothing is written and no lock taken.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when a run writes to the directory; [`ErrorKind::Corrupt`] when a checkpoint that would be kept is
    /// damaged, since what it stands for may then be about to go; [`ErrorKind::InvalidArgument`] when `keep` is 0; those of
    /// [`open`](Self::open) and of the disk.
    pub fn prune(dir: impl AsRef<Path>, keep: usize, monitors: &[Monitor], dry_run: bool) -> Result<Pruned> {
        if keep == 0 {
            let message = "prune: found 0 checkpoints to keep, expected at least 1: the latest is never deleted";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut model_dir = Self::with(dir.as_ref(), if dry_run { Access::Read } else { Access::Write })?;
        let store = &mut model_dir.store;
        let all = store.list();
        let is_best = |step: u64| monitors.iter().any(|m| m.best(&all).is_ok_and(|best| best.step == step));
        // Retention keeps the best by one monitor.
        let first = monitors.first().cloned().unwrap_or_default();
        let mut doomed = Retention::last(keep).to_delete(&all, &first);
        doomed.retain(|&step| !is_best(step));
        let (deleted, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|info| doomed.contains(&info.step));
        for info in kept.iter().filter(|_| !deleted.is_empty()) {
            if let Some(fault) = store.faults(info.step, &info.path).into_iter().next() {
                let message = format!("nothing is pruned, since step {}, which would be kept, is damaged", info.step);
                return Err(Error::with_source(ErrorKind::Corrupt, message, fault));
            }
        }
        if !dry_run {
            for info in &deleted {
                store.remove(info.step)?;
            }
        }
        Ok(Pruned { deleted, kept })
    }
}

/// What somebody means who names a directory of ours that is none of a model.
fn meant(dir: &Path) -> Option<String> {
    if dir.join("elistimator_ensemble").is_file() {
        return Some("it holds an ensemble, and the model directories are those of its members in it".to_owned());
    }
    let full = dir.canonicalize().ok()?;
    let checkpoints = full.ancestors().take(2).find(|above| above.join("elistimator_meta").is_file())?;
    Some(format!("{} is", checkpoints.parent()?.display()))
}

fn tensor_info((name, dims, values): (&str, &[usize], &[f32])) -> TensorInfo {
    let squares: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    TensorInfo {
        name: name.to_owned(),
        dtype: "F32",
        dims: dims.to_vec(),
        len: values.len() as u64,
        norm: squares.sqrt(),
    }
}

fn not_found(doing: &str, path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Error::with_source(ErrorKind::NotFound, format!("there is no {}", path.display()), error)
        }
        _ => Error::io(doing, path, error),
    }
}
