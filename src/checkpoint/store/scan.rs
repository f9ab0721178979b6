//! What checkpoints there are: from the index where it knows one, from the checkpoint itself where not.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{ATTEMPTS, Checkpoints, INDEX, METRICS, PINNED, SMALL, STATE, Store, read_error};
use crate::checkpoint::fs::Kind;
use crate::checkpoint::index::{self, CheckpointInfo, parse_name};
use crate::checkpoint::state::metrics_from_bytes;
use crate::checkpoint::{MetricValues, State};
use crate::{Error, ErrorKind, Result};

impl Store {
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
    pub(super) fn scan(&self) -> Result<Checkpoints> {
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

    pub(super) fn is_gone(&self, path: &Path) -> bool {
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

    pub(super) fn inspect(&self, path: &Path) -> Result<CheckpointInfo> {
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

    pub(super) fn read_metrics(&self, checkpoint: &Path) -> Result<Option<MetricValues>> {
        let path = checkpoint.join(METRICS);
        match self.storage.read(&path, SMALL) {
            Ok(bytes) => Ok(Some(metrics_from_bytes(&bytes).map_err(|error| error.at(path.display()))?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(read_error(&path, error)),
        }
    }

    /// What is the matter with a checkpoint that is left out of the list.
    pub(super) fn unreadable(&self) -> Option<Error> {
        let names = self.storage.list(&self.dir).ok()?;
        let mut checkpoints =
            names.iter().filter(|(path, kind)| *kind == Kind::Directory && parse_name(path).is_some());
        checkpoints.find_map(|(path, _)| self.inspect(path).err())
    }
}
