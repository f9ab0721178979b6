//! The checkpoints of one model directory: saved by one rename, listed, loaded, rotated.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::fs::{Disk, Kind, Lock, Storage, outlive_size_limit};
use crate::checkpoint::index::{self, CheckpointInfo, dir_name, parse_name, replaced_name};
use crate::checkpoint::state::{metrics_from_bytes, metrics_to_bytes};
use crate::checkpoint::{MetricValues, Monitor, Retention, State, Tensors};
use crate::{Error, ErrorKind, Result};

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const HYPER_PARAMETERS: &str = "hyper_parameters.json";
const STATE: &str = "state.bin";
const METRICS: &str = "metrics.bin";
const PINNED: &str = "pinned";
const INDEX: &str = "elistimator_meta";
const LOCK: &str = "lock";
const TEMPORARY: &str = ".tmp-";

/// The largest of the small files that is read: far above what any run writes.
const SMALL: u64 = 1 << 30;

/// How often something is read again that changed while it was read.
const ATTEMPTS: usize = 100;

/// Whether a store is opened to write, which takes the directory's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Everything about a run at one step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) step: u64,
    pub(crate) model: Tensors,
    pub(crate) optimizer: Tensors,
    pub(crate) hyper_parameters: Vec<u8>,
    pub(crate) state: State,
    pub(crate) metrics: Option<MetricValues>,
}

/// By step.
type Checkpoints = BTreeMap<u64, CheckpointInfo>;

/// The checkpoints of a model directory.
pub(crate) struct Store {
    storage: Box<dyn Storage>,
    dir: PathBuf,
    checkpoints: Checkpoints,
    next_order: u64,
    next_temporary: u64,
    lock: Option<Lock>,
}

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
    /// Opens the checkpoints of a model directory, which is made if it is to be written.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when another one writes, [`ErrorKind::Io`] when the directory cannot be used.
    pub(crate) fn open(model_dir: &Path, access: Access) -> Result<Self> {
        if model_dir.as_os_str().is_empty() {
            let message = "the model directory has an empty name, expected a path (\".\" is the current directory)";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let dir = model_dir.join("checkpoints");
        let lock = match access {
            Access::Read => None,
            Access::Write => {
                outlive_size_limit();
                Disk.create_dir_all(&dir).map_err(|error| Error::io("make the directory", &dir, error))?;
                // A new directory's own name has to survive a power cut as well. Above the model directory we may not be
                // allowed to look.
                Disk.sync_dir(model_dir).map_err(|error| Error::io("sync", model_dir, error))?;
                let above = model_dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
                if let Err(error) = Disk.sync_dir(above) {
                    log::warn!(
                        "cannot sync {}, so a power loss may take the new directory in it: {error}",
                        above.display()
                    );
                }
                Some(take_lock(&dir)?)
            }
        };
        let mut store = Self::with_storage(Box::new(Disk), dir, access)?;
        store.lock = lock;
        Ok(store)
    }

    /// The same over any storage, without a lock.
    pub(crate) fn with_storage(storage: Box<dyn Storage>, dir: PathBuf, access: Access) -> Result<Self> {
        let mut store =
            Self { storage, dir, checkpoints: Checkpoints::new(), next_order: 1, next_temporary: 0, lock: None };
        if access == Access::Write {
            store.storage.create_dir_all(&store.dir).map_err(|e| Error::io("make the directory", &store.dir, e))?;
            store.tidy();
        }
        store.checkpoints = store.scan()?;
        store.next_order = next_order(&store.checkpoints);
        Ok(store)
    }

    /// Puts back what a crash left half replaced, and deletes leftovers of our own making.
    fn tidy(&self) {
        let Ok(names) = self.storage.list(&self.dir) else { return };
        let is_there = |step: u64| self.storage.kind(&self.dir.join(dir_name(step))).is_ok();
        // This name alone: what it replaces is what may be deleted for it.
        let is_whole = |step: u64| self.load_once(&self.dir.join(dir_name(step))).is_ok();
        for (path, kind) in names {
            let outcome = match parse_name(&path) {
                Some((step, true)) if kind == Kind::Directory && is_whole(step) => {
                    // What took its place has to be durable before it goes.
                    self.storage.sync_dir(&self.dir).and_then(|()| self.storage.remove_dir_all(&path))
                }
                Some((step, true)) if kind == Kind::Directory && is_there(step) => continue,
                Some((step, true)) if kind == Kind::Directory => {
                    self.storage.rename(&path, &self.dir.join(dir_name(step)))
                }
                _ if is_temporary(&path) && kind == Kind::Directory => self.storage.remove_dir_all(&path),
                _ if is_temporary(&path) => self.storage.remove_file(&path),
                _ => continue,
            };
            if let Err(error) = outcome {
                log::warn!("cannot tidy up {}: {error}", path.display());
            }
        }
    }

    /// The directories that are named as checkpoints, whole or not, by step.
    pub(crate) fn candidates(&self) -> Result<BTreeMap<u64, PathBuf>> {
        let names = match self.storage.list(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(Error::io("list", &self.dir, error)),
        };
        let mut found: BTreeMap<u64, PathBuf> = BTreeMap::new();
        for (path, kind) in names {
            match parse_name(&path) {
                Some((_, _)) if kind != Kind::Directory => {
                    log::warn!("{} is not a directory, and is left out of the checkpoints", path.display());
                }
                Some((step, false)) => {
                    found.insert(step, path);
                }
                Some((step, true)) => {
                    found.entry(step).or_insert(path);
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// Lists what is there: from the index where it knows a checkpoint, from the checkpoint itself where not.
    fn scan(&self) -> Result<Checkpoints> {
        for _ in 1..ATTEMPTS {
            if let Some(checkpoints) = self.scan_once(false)? {
                return Ok(checkpoints);
            }
        }
        Ok(self.scan_once(true)?.unwrap_or_default())
    }

    /// One pass; `None` when a checkpoint went away between its listing and its reading, and that is not `is_last`.
    fn scan_once(&self, is_last: bool) -> Result<Option<Checkpoints>> {
        let found = self.candidates()?;
        let index = self.dir.join(INDEX);
        let cached = match self.storage.read(&index, SMALL) {
            Ok(bytes) => index::from_bytes(&bytes, &self.dir).unwrap_or_else(|error| {
                log::warn!("{} is rebuilt: {error}", index.display());
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        let mut cached: BTreeMap<u64, CheckpointInfo> = cached.into_iter().map(|info| (info.step, info)).collect();
        let mut checkpoints = Checkpoints::new();
        for (step, path) in found {
            let info = match cached.remove(&step).filter(|info| info.path == path) {
                Some(info) => info,
                None => match self.inspect_settled(&path) {
                    Ok(Some(info)) if info.step == step => info,
                    Ok(None) if is_last => continue,
                    Ok(None) => return Ok(None),
                    Ok(Some(info)) => {
                        log::warn!("{} holds step {}, and is left out", path.display(), info.step);
                        continue;
                    }
                    Err(error) => {
                        log::warn!("left out of the checkpoints: {error}");
                        continue;
                    }
                },
            };
            checkpoints.insert(step, info);
        }
        Ok(Some(checkpoints))
    }

    fn is_gone(&self, path: &Path) -> bool {
        matches!(self.storage.kind(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// The same, again while a file is missing in what is there, since another save of the step may be taking its place;
    /// `None` when all of it went away.
    fn inspect_settled(&self, path: &Path) -> Result<Option<CheckpointInfo>> {
        for _ in 1..ATTEMPTS {
            match self.inspect(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if self.is_gone(path) {
                        return Ok(None);
                    }
                }
                outcome => return outcome.map(Some),
            }
        }
        self.inspect(path).map(Some)
    }

    fn inspect(&self, path: &Path) -> Result<CheckpointInfo> {
        let state = self.read_state(path)?;
        let metrics = self.read_metrics(path)?;
        let is_pinned = self.storage.kind(&path.join(PINNED)).is_ok();
        // No metrics and no pin may also mean that it went away just now.
        self.storage.kind(path).map_err(|error| read_error(path, error))?;
        Ok(CheckpointInfo::new(path.to_owned(), &state, metrics, is_pinned))
    }

    fn read_small(&self, path: &Path) -> Result<Vec<u8>> {
        self.storage.read(path, SMALL).map_err(|error| read_error(path, error))
    }

    pub(crate) fn read_state(&self, checkpoint: &Path) -> Result<State> {
        let path = checkpoint.join(STATE);
        State::from_bytes(&self.read_small(&path)?).map_err(|error| error.at(path.display()))
    }

    fn read_metrics(&self, checkpoint: &Path) -> Result<Option<MetricValues>> {
        let path = checkpoint.join(METRICS);
        match self.storage.read(&path, SMALL) {
            Ok(bytes) => Ok(Some(metrics_from_bytes(&bytes).map_err(|error| error.at(path.display()))?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(read_error(&path, error)),
        }
    }

    /// The checkpoints by step.
    pub(crate) fn list(&self) -> Vec<CheckpointInfo> {
        self.checkpoints.values().cloned().collect()
    }

    /// Whether there is a checkpoint, readable or not.
    pub(crate) fn has_any(&self) -> bool {
        !self.checkpoints.is_empty() || self.unreadable().is_some()
    }

    /// What is the matter with a checkpoint that is left out of the list.
    fn unreadable(&self) -> Option<Error> {
        let names = self.storage.list(&self.dir).ok()?;
        let mut checkpoints =
            names.iter().filter(|(path, kind)| *kind == Kind::Directory && parse_name(path).is_some());
        checkpoints.find_map(|(path, _)| self.inspect(path).err())
    }

    pub(crate) fn contains(&self, step: u64) -> bool {
        self.checkpoints.contains_key(&step)
    }

    /// The best checkpoint.
    pub(crate) fn best(&self, monitor: &Monitor) -> Result<CheckpointInfo> {
        Ok(monitor.best(&self.list()).map_err(|error| error.at(self.dir.display()))?.clone())
    }

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
        self.load_of(|checkpoints| self.newest_whole(checkpoints))
    }

    /// Loads by the list, and by a new one for as long as that differs and something in the old one was amiss: what a
    /// reader has listed goes away under it while another process saves.
    fn load_of(&self, load: impl Fn(&Checkpoints) -> Attempt) -> Result<Snapshot> {
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
        attempt.outcome
    }

    fn newest_whole(&self, checkpoints: &Checkpoints) -> Attempt {
        let mut by_age: Vec<&CheckpointInfo> = checkpoints.values().collect();
        by_age.sort_by_key(|info| std::cmp::Reverse(info.order));
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
        for _ in 0..ATTEMPTS {
            let outcome = self.load_once(path);
            let after = order();
            let is_missing =
                after.is_none() && outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
            // Between the two renames of such a save the old one counts.
            let aside = replaced.as_ref().filter(|aside| is_missing && self.storage.kind(aside).is_ok());
            if let Some(Ok(snapshot)) = aside.map(|aside| self.load_path(aside)) {
                return Ok(snapshot);
            }
            if after == before && (!is_missing || (aside.is_none() && self.is_gone(path))) {
                return outcome;
            }
            before = after;
        }
        let message = format!("{} was replaced {ATTEMPTS} times while it was read", path.display());
        Err(Error::new(ErrorKind::Io, message))
    }

    fn load_once(&self, path: &Path) -> Result<Snapshot> {
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

    /// Saves a snapshot: into a fresh directory, made durable, renamed, the rename made durable, then the index; only then is
    /// deleted what rotation lets go.
    pub(crate) fn save(
        &mut self,
        snapshot: &Snapshot,
        retention: &Retention,
        monitor: &Monitor,
    ) -> Result<CheckpointInfo> {
        self.check_place()?;
        let files = [
            (MODEL, snapshot.model.to_bytes()?),
            (OPTIMIZER, snapshot.optimizer.to_bytes()?),
            (HYPER_PARAMETERS, snapshot.hyper_parameters.clone()),
        ];
        let mut state = snapshot.state.clone();
        state.saved_at = chrono::Utc::now().timestamp_millis();
        state.order = self.next_order;
        state.is_finite = snapshot.model.are_finite();
        state.files = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.len() as u64, crc32fast::hash(bytes)))
            .collect();
        let mut files: Vec<(&str, Vec<u8>)> = files.into();
        files.push((STATE, state.to_bytes()?));
        if let Some(metrics) = &snapshot.metrics {
            files.push((METRICS, metrics_to_bytes(metrics)?));
        }
        if !state.is_finite {
            log::warn!(
                "step {}: the checkpoint has weights that are not finite; it will never be the best",
                state.step
            );
        }

        let temporary = self.temporary_dir()?;
        let path = self.dir.join(dir_name(state.step));
        if let Err(error) = self.commit(&temporary, &path, &files, state.step) {
            // What cannot be deleted now is tidied up when the directory is next opened.
            let _ = self.storage.remove_dir_all(&temporary);
            return Err(error);
        }
        // From here on the checkpoint is there.
        self.next_order = self.next_order.saturating_add(1);
        let info = CheckpointInfo::new(path, &state, snapshot.metrics.clone(), false);
        self.checkpoints.insert(info.step, info.clone());
        self.storage.sync_dir(&self.dir).map_err(|error| {
            let message = format!(
                "the checkpoint {} is written, but whether it would survive a power loss is not confirmed",
                info.path.display()
            );
            Error::with_source(ErrorKind::NotDurable, message, error)
        })?;
        let replaced = self.dir.join(replaced_name(info.step));
        if self.storage.kind(&replaced).is_ok() {
            self.delete(&replaced);
        }
        self.write_index();
        self.rotate(retention, monitor);
        Ok(info)
    }

    /// Checks that files can be written, and that there is room for two checkpoints of so many bytes: a save needs its own
    /// before rotation gives back another's. One that is there already is one of the two.
    pub(crate) fn check_room(&mut self, bytes: u64) -> Result<()> {
        self.check_place()?;
        let probe = self.temporary_dir()?;
        let file = probe.join("probe");
        let written = self.storage.write_new(&file, b"room?").map_err(|error| Error::io("write", &file, error));
        let _ = self.storage.remove_dir_all(&probe);
        written?;
        let free =
            self.storage.free_space(&self.dir).map_err(|error| Error::io("ask for the room at", &self.dir, error))?;
        let wanted = if self.checkpoints.is_empty() { bytes.saturating_mul(2) } else { bytes };
        match free {
            Some(free) if free < wanted => {
                let message = format!(
                    "{}: found room for {:.1} MB, expected {:.1} MB for {} of this model with its optimiser's state",
                    self.dir.display(),
                    free as f64 / 1e6,
                    wanted as f64 / 1e6,
                    if self.checkpoints.is_empty() { "two checkpoints" } else { "another checkpoint" }
                );
                Err(Error::new(ErrorKind::Io, message))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the directory is still the one that was opened. One that was removed is not made again, since where it was
    /// may be the empty place of a disk that is gone; one that others made there is taken over with its lock.
    fn check_place(&mut self) -> Result<()> {
        match self.storage.kind(&self.dir) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = format!(
                    "{} was removed while this run saved to it; put it back, or make it anew, to go on saving",
                    self.dir.display()
                );
                return Err(Error::with_source(ErrorKind::Io, message, error));
            }
            Err(error) => return Err(Error::io("look at", &self.dir, error)),
        }
        let path = self.dir.join(LOCK);
        if let Some(lock) = &self.lock
            && !lock.is_at(&path).map_err(|error| Error::io("look at", &path, error))?
        {
            log::warn!("{} is another directory than this run began with; it is used as it is now", self.dir.display());
            self.lock = Some(take_lock(&self.dir)?);
            self.checkpoints = self.scan()?;
            self.next_order = self.next_order.max(next_order(&self.checkpoints));
        }
        Ok(())
    }

    fn temporary_dir(&mut self) -> Result<PathBuf> {
        for _ in 0..1000 {
            self.next_temporary += 1;
            let path = self.dir.join(format!("{TEMPORARY}{}-{}", std::process::id(), self.next_temporary));
            match self.storage.create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("make the directory", &path, error)),
            }
        }
        let message = format!("{} has a thousand leftover temporary names", self.dir.display());
        Err(Error::new(ErrorKind::Io, message))
    }

    fn commit(&self, temporary: &Path, path: &Path, files: &[(&str, Vec<u8>)], step: u64) -> Result<()> {
        for (name, bytes) in files {
            let file = temporary.join(name);
            self.storage.write_new(&file, bytes).map_err(|error| Error::io("write", &file, error))?;
        }
        self.storage.sync_dir(temporary).map_err(|error| Error::io("sync", temporary, error))?;
        // The index may still list this step, with the metrics of a checkpoint that was replaced or deleted.
        self.drop_index()?;
        if self.storage.kind(path).is_ok() {
            let aside = self.dir.join(replaced_name(step));
            if self.storage.kind(&aside).is_ok() {
                // What is at the final name has to be durable before its predecessor goes.
                self.storage.sync_dir(&self.dir).map_err(|error| Error::io("sync", &self.dir, error))?;
                self.storage.remove_dir_all(&aside).map_err(|error| Error::io("delete", &aside, error))?;
            }
            self.storage.rename(path, &aside).map_err(|error| Error::io("set aside", path, error))?;
            if let Err(error) = self.storage.rename(temporary, path) {
                let _ = self.storage.rename(&aside, path);
                return Err(Error::io("put the new checkpoint at", path, error));
            }
            return Ok(());
        }
        self.storage.rename(temporary, path).map_err(|error| Error::io("put the new checkpoint at", path, error))
    }

    /// Puts metrics on a saved checkpoint: the file is replaced by one rename.
    pub(crate) fn attach_metrics(&mut self, step: u64, metrics: &MetricValues) -> Result<()> {
        let Some(info) = self.checkpoints.get(&step) else {
            return Err(Error::new(ErrorKind::NotFound, format!("no checkpoint of step {step} to attach metrics to")));
        };
        let dir = info.path.clone();
        let (path, temporary) = (dir.join(METRICS), dir.join(format!("{TEMPORARY}{METRICS}")));
        self.drop_index()?;
        if self.storage.kind(&temporary).is_ok() {
            self.storage.remove_file(&temporary).map_err(|error| Error::io("delete", &temporary, error))?;
        }
        let bytes = metrics_to_bytes(metrics)?;
        self.storage.write_new(&temporary, &bytes).map_err(|error| Error::io("write", &temporary, error))?;
        self.storage.rename(&temporary, &path).map_err(|error| Error::io("replace", &path, error))?;
        // The file is the new one from here on, whatever else fails: the list must not say otherwise.
        if let Some(info) = self.checkpoints.get_mut(&step) {
            info.metrics = Some(metrics.clone());
        }
        self.storage.sync_dir(&dir).map_err(|error| Error::io("sync", &dir, error))?;
        self.write_index();
        Ok(())
    }

    /// Keeps a checkpoint for ever, or lets rotation have it again.
    pub(crate) fn pin(&mut self, step: u64, is_pinned: bool) -> Result<()> {
        self.drop_index()?;
        let Some(info) = self.checkpoints.get_mut(&step) else {
            return Err(Error::new(ErrorKind::NotFound, format!("no checkpoint of step {step} to pin")));
        };
        let path = info.path.join(PINNED);
        let was = self.storage.kind(&path).is_ok();
        if is_pinned && !was {
            self.storage.write_new(&path, &[]).map_err(|error| Error::io("write", &path, error))?;
        } else if !is_pinned && was {
            self.storage.remove_file(&path).map_err(|error| Error::io("delete", &path, error))?;
        }
        self.storage.sync_dir(&info.path).map_err(|error| Error::io("sync", &info.path, error))?;
        info.is_pinned = is_pinned;
        self.write_index();
        Ok(())
    }

    /// Deletes what is not to be kept.
    pub(crate) fn rotate(&mut self, retention: &Retention, monitor: &Monitor) {
        for step in retention.to_delete(&self.list(), monitor) {
            let Some(info) = self.checkpoints.get(&step) else { continue };
            let path = info.path.clone();
            if self.delete(&path) {
                self.checkpoints.remove(&step);
            }
        }
    }

    /// Deletes the checkpoint of a step.
    pub(crate) fn remove(&mut self, step: u64) -> Result<()> {
        let Some(info) = self.checkpoints.get(&step) else { return Ok(()) };
        let path = info.path.clone();
        if !self.delete(&path) {
            return Err(Error::new(ErrorKind::Io, format!("cannot delete {}", path.display())));
        }
        self.checkpoints.remove(&step);
        Ok(())
    }

    /// Deletes a checkpoint in two steps, so that no half of one is ever listed. What cannot be deleted is tried again by the
    /// next rotation.
    fn delete(&mut self, path: &Path) -> bool {
        self.next_temporary += 1;
        let doomed = self.dir.join(format!("{TEMPORARY}delete-{}-{}", std::process::id(), self.next_temporary));
        let renamed = self.storage.rename(path, &doomed);
        if let Err(error) = renamed.and_then(|()| self.storage.remove_dir_all(&doomed)) {
            log::warn!("cannot delete {}: {error}", path.display());
            return self.storage.kind(path).is_err();
        }
        true
    }

    /// Without an index the checkpoints themselves are read.
    fn drop_index(&self) -> Result<()> {
        let path = self.dir.join(INDEX);
        match self.storage.remove_file(&path) {
            Ok(()) => self.storage.sync_dir(&self.dir).map_err(|error| Error::io("sync", &self.dir, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("delete", &path, error)),
        }
    }

    /// The index is a cache: a failure to write it is reported, and costs the next reader a scan.
    fn write_index(&mut self) {
        self.next_temporary += 1;
        let temporary = self.dir.join(format!("{TEMPORARY}index-{}-{}", std::process::id(), self.next_temporary));
        let write = || -> Result<()> {
            let io = |error| Error::io("write", &temporary, error);
            self.storage.write_new(&temporary, &index::to_bytes(&self.list())?).map_err(io)?;
            self.storage.rename(&temporary, &self.dir.join(INDEX)).map_err(io)?;
            self.storage.sync_dir(&self.dir).map_err(io)
        };
        if let Err(error) = write() {
            log::warn!("the index of the checkpoints is not up to date: {error}");
            let _ = self.storage.remove_file(&temporary);
            let _ = self.storage.remove_file(&self.dir.join(INDEX));
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.dir.display())
    }
}

fn take_lock(dir: &Path) -> Result<Lock> {
    let path = dir.join(LOCK);
    let lock = Lock::take(&path).map_err(|error| Error::io("lock", &path, error))?;
    lock.ok_or_else(|| {
        let message = format!("{} is being written by another estimator", dir.display());
        Error::new(ErrorKind::Locked, message)
    })
}

fn next_order(checkpoints: &Checkpoints) -> u64 {
    checkpoints.values().map(|info| info.order).max().unwrap_or(0).saturating_add(1)
}

/// Whether it is a temporary name that we give: `.tmp-PROCESS-COUNT`, or that after `delete-` or `index-`. Others' stay.
fn is_temporary(path: &Path) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(TEMPORARY));
    let numbers = name.map(|name| name.strip_prefix("delete-").or(name.strip_prefix("index-")).unwrap_or(name));
    numbers
        .and_then(|numbers| numbers.split_once('-'))
        .is_some_and(|(process, count)| is_number(process) && is_number(count))
}

fn read_error(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::InvalidData => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    Error::with_source(kind, format!("cannot read {}", path.display()), error)
}
