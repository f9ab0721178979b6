//! The checkpoints of one model directory: saved by one rename, listed, loaded, rotated.

mod load;
mod save;
mod scan;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::fs::{Disk, Kind, Lock, Storage, outlive_size_limit};
use crate::checkpoint::index::{CheckpointInfo, Mark, dir_name, parse_name};
use crate::checkpoint::state::metrics_to_bytes;
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

    /// The checkpoints by step.
    pub(crate) fn list(&self) -> Vec<CheckpointInfo> {
        self.checkpoints.values().cloned().collect()
    }

    /// Whether there is a checkpoint, readable or not.
    pub(crate) fn has_any(&self) -> bool {
        !self.checkpoints.is_empty() || self.unreadable().is_some()
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, step: u64) -> bool {
        self.checkpoints.contains_key(&step)
    }

    /// Which save the checkpoint of this step is, if there is one.
    pub(crate) fn mark_of(&self, step: u64) -> Option<Mark> {
        self.checkpoints.get(&step).map(CheckpointInfo::mark)
    }

    /// The best checkpoint.
    pub(crate) fn best(&self, monitor: &Monitor) -> Result<CheckpointInfo> {
        Ok(monitor.best(&self.list()).map_err(|error| error.at(self.dir.display()))?.clone())
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
        self.storage.write_new(&temporary, &[&bytes]).map_err(|error| Error::io("write", &temporary, error))?;
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
        self.check_place()?;
        if !self.checkpoints.contains_key(&step) {
            return Err(Error::new(ErrorKind::NotFound, format!("no checkpoint of step {step} to pin")));
        }
        self.drop_index()?;
        let Some(info) = self.checkpoints.get_mut(&step) else { return Ok(()) };
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
