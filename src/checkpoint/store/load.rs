//! Loading a checkpoint: by step, the best, the latest that is whole, while another process may be saving.

use std::io;
use std::path::Path;

use super::{
    ATTEMPTS, Checkpoints, HYPER_PARAMETERS, INDEX, MODEL, OPTIMIZER, SMALL, STATE, Snapshot, Store, read_error,
};
use crate::checkpoint::fs::Kind;
use crate::checkpoint::index::{self, CheckpointInfo, parse_name, replaced_name};
use crate::checkpoint::{Monitor, State, Tensors};
use crate::{Error, ErrorKind, Result};

/// What came of loading by a list of checkpoints, and what was amiss on the way to it.
struct Attempt {
    outcome: Result<Snapshot>,
    amiss: Option<Error>,
}

impl Attempt {
    fn sure(outcome: Result<Snapshot>) -> Self {
        Self { outcome, amiss: None }
    }

    fn is_sure(&self) -> bool {
        self.outcome.is_ok() && self.amiss.is_none()
    }
}

impl Store {
    /// Loads the checkpoint of a step.
    pub(crate) fn load(&self, step: u64) -> Result<Snapshot> {
        self.load_of(|checkpoints| {
            let info = checkpoints.get(&step).ok_or_else(|| {
                let known: Vec<u64> = checkpoints.keys().copied().collect();
                let message = format!("no checkpoint of step {step} in {}; there are {known:?}", self.dir.display());
                Error::new(ErrorKind::NotFound, message)
            });
            Attempt::sure(info.and_then(|info| self.load_path(&info.path)))
        })
    }

    /// Loads the best checkpoint.
    pub(crate) fn load_best(&self, monitor: &Monitor) -> Result<Snapshot> {
        self.load_of(|checkpoints| {
            let list: Vec<CheckpointInfo> = checkpoints.values().cloned().collect();
            let best = monitor.best(&list).map_err(|error| error.at(self.dir.display()));
            Attempt::sure(best.and_then(|info| self.load_path(&info.path)))
        })
    }

    /// Loads what was saved last; if it is damaged, the newest one that is whole.
    pub(crate) fn load_latest(&self) -> Result<Snapshot> {
        self.load_newest_whole().map(|(snapshot, _)| snapshot)
    }

    /// The same, with what is wrong with a checkpoint that was passed over, for those who look at no log.
    pub(crate) fn load_newest_whole(&self) -> Result<(Snapshot, Option<Error>)> {
        let attempt = self.attempt(|checkpoints| self.newest_whole(checkpoints))?;
        Ok((attempt.outcome?, attempt.amiss.or_else(|| self.left_out())))
    }

    /// What is wrong with the last of those that are not listed.
    fn left_out(&self) -> Option<Error> {
        let found = self.candidates().ok()?;
        let (_, path) = found.iter().rfind(|(step, _)| !self.checkpoints.contains_key(step))?;
        self.inspect(path).err().filter(|error| error.kind() != ErrorKind::NotFound || !self.is_gone(path))
    }

    /// Loads by the list, and by a new one for as long as that differs and something in the old one was amiss: what a
    /// reader has listed goes away under it while another process saves.
    fn load_of(&self, load: impl Fn(&Checkpoints) -> Attempt) -> Result<Snapshot> {
        self.attempt(load)?.outcome
    }

    fn attempt(&self, load: impl Fn(&Checkpoints) -> Attempt) -> Result<Attempt> {
        let mut attempt = load(&self.checkpoints);
        let mut fresh;
        let mut tried = &self.checkpoints;
        for _ in 1..ATTEMPTS {
            if attempt.is_sure() {
                break;
            }
            let found = self.scan()?;
            let is_same = found
                .values()
                .map(|info| (&info.path, info.order))
                .eq(tried.values().map(|info| (&info.path, info.order)));
            if is_same {
                break;
            }
            attempt = load(&found);
            fresh = found;
            tried = &fresh;
        }
        if let (Ok(snapshot), Some(error)) = (&attempt.outcome, &attempt.amiss) {
            log::warn!("the latest checkpoint is damaged, going back to step {}: {error}", snapshot.step);
        }
        Ok(attempt)
    }

    fn newest_whole(&self, checkpoints: &Checkpoints) -> Attempt {
        let mut by_age: Vec<&CheckpointInfo> = checkpoints.values().collect();
        by_age.sort_by_key(|info| std::cmp::Reverse(info.age()));
        let mut amiss = None;
        for info in by_age {
            match self.load_path(&info.path) {
                Ok(snapshot) => return Attempt { outcome: Ok(snapshot), amiss },
                Err(error) => amiss = amiss.or(Some(error)),
            }
        }
        Attempt::sure(Err(amiss.or_else(|| self.unreadable()).unwrap_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no checkpoint in {}", self.dir.display()))
        })))
    }

    /// Loads the checkpoint in this directory, after checking every file of it against its length and checksum.
    pub(crate) fn load_path(&self, path: &Path) -> Result<Snapshot> {
        // A save of the same step puts other files under this name, and rotation takes them away, while they are read.
        let order = || self.read_state(path).ok().map(|state| state.order);
        let replaced = match parse_name(path) {
            Some((step, false)) => Some(path.with_file_name(replaced_name(step))),
            _ => None,
        };
        let mut before = order();
        let mut missing = None;
        for _ in 0..ATTEMPTS {
            let outcome = self.load_once(path);
            let after = order();
            let is_missing =
                after.is_none() && outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
            // Between the two renames of such a save the old one counts.
            let aside = replaced.as_ref().filter(|aside| is_missing && self.storage.kind(aside).is_ok());
            match aside.map(|aside| self.load_path(aside)) {
                Some(Ok(snapshot)) => return Ok(snapshot),
                Some(Err(error)) => missing = Some(error),
                None => {}
            }
            if after == before && (!is_missing || (aside.is_none() && self.is_gone(path))) {
                return outcome;
            }
            if is_missing && aside.is_none() {
                missing = outcome.err();
            }
            before = after;
        }
        // Nobody replaces it: it stays without a state.
        if let Some(error) = missing.filter(|_| before.is_none()) {
            if self.storage.kind(&path.join("checkpoints")).is_ok() {
                let message = format!("{} is a model directory, expected one of the checkpoints in it", path.display());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            let message = format!("{} is not a whole checkpoint", path.display());
            return Err(Error::with_source(ErrorKind::Corrupt, message, error));
        }
        let message = format!("{} was replaced {ATTEMPTS} times while it was read", path.display());
        Err(Error::new(ErrorKind::Io, message))
    }

    pub(super) fn load_once(&self, path: &Path) -> Result<Snapshot> {
        match self.storage.kind(path) {
            Ok(Kind::Directory) => {}
            Ok(_) => {
                let message = format!("{} is not a directory, expected a checkpoint", path.display());
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            Err(error) => return Err(read_error(path, error)),
        }
        let state = self.read_state(path)?;
        // The index may know the directory by its name alone.
        if let Some((step, _)) = parse_name(path).filter(|(step, _)| *step != state.step) {
            let message = format!("{}: holds step {}, expected {step}", path.join(STATE).display(), state.step);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let read = |name: &str| self.read_checked(path, name, &state);
        let tensors =
            |name: &str| Tensors::from_bytes(read(name)?).map_err(|error| error.at(path.join(name).display()));
        Ok(Snapshot {
            step: state.step,
            model: tensors(MODEL)?,
            optimizer: tensors(OPTIMIZER)?,
            hyper_parameters: read(HYPER_PARAMETERS)?,
            metrics: self.read_metrics(path)?,
            state,
        })
    }

    /// Everything that is wrong with the checkpoint in this directory, file by file; nothing when it is gone, since the run
    /// that owns it may let it go at any time.
    pub(crate) fn faults(&self, step: u64, path: &Path) -> Vec<Error> {
        let mut faults = Vec::new();
        match self.read_state(path) {
            Err(error) => faults.push(error),
            Ok(state) => {
                if state.step != step {
                    let message = format!("{}: holds step {}, expected {step}", path.join(STATE).display(), state.step);
                    faults.push(Error::new(ErrorKind::Corrupt, message));
                }
                for name in [MODEL, OPTIMIZER] {
                    let tensors = self.read_checked(path, name, &state).and_then(|bytes| {
                        Tensors::from_bytes(bytes).map_err(|error| error.at(path.join(name).display()))
                    });
                    faults.extend(tensors.err());
                }
                faults.extend(self.read_checked(path, HYPER_PARAMETERS, &state).err());
            }
        }
        faults.extend(self.read_metrics(path).err());
        let is_gone = self.storage.kind(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if is_gone { Vec::new() } else { faults }
    }

    /// What is wrong with the index; nothing when there is none.
    pub(crate) fn index_fault(&self) -> Option<Error> {
        let path = self.dir.join(INDEX);
        match self.storage.read(&path, SMALL) {
            Ok(bytes) => index::from_bytes(&bytes, &self.dir).err().map(|error| error.at(path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(read_error(&path, error)),
        }
    }

    /// The bytes of the weights' file of a step, checked.
    pub(crate) fn model_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        self.read_checked(path, MODEL, &self.read_state(path)?)
    }

    fn read_checked(&self, dir: &Path, name: &str, state: &State) -> Result<Vec<u8>> {
        let path = dir.join(name);
        let corrupt = |message: String| Error::new(ErrorKind::Corrupt, format!("{}: {message}", path.display()));
        let &(_, length, checksum) = state
            .files
            .iter()
            .find(|(known, _, _)| known == name)
            .ok_or_else(|| corrupt(format!("{STATE} does not list it")))?;
        let bytes = self.storage.read(&path, length).map_err(|error| read_error(&path, error))?;
        if bytes.len() as u64 != length {
            return Err(corrupt(format!("found {} bytes, expected {length}", bytes.len())));
        }
        let found = crc32fast::hash(&bytes);
        if found != checksum {
            return Err(corrupt(format!("the checksum is {found:08x}, expected {checksum:08x}")));
        }
        Ok(bytes)
    }
}
