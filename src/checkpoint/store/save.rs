//! Saving a checkpoint: into a fresh directory that one rename commits.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;
use rayon::prelude::*;

use super::{
    HYPER_PARAMETERS, INDEX, LOCK, METRICS, MODEL, OPTIMIZER, PINNED, STATE, Snapshot, Store, TEMPORARY, next_order,
    take_lock,
};
use crate::checkpoint::fs::Kind;
use crate::checkpoint::index::{self, CheckpointInfo, dir_name, replaced_name};
use crate::checkpoint::state::metrics_to_bytes;
use crate::checkpoint::{Monitor, Retention};
use crate::{Error, ErrorKind, Result};

/// The bytes of a file, in their order.
type Parts<'p> = Vec<Cow<'p, [u8]>>;

fn length(parts: &Parts<'_>) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// The CRC-32 of a file, computed by all threads.
fn checksum(parts: &Parts<'_>) -> u32 {
    const PIECE: usize = 1 << 20;
    let pieces: Vec<Hasher> = parts
        .par_iter()
        .flat_map(|part| part.par_chunks(PIECE))
        .map(|piece| {
            let mut hasher = Hasher::new();
            hasher.update(piece);
            hasher
        })
        .collect();
    let mut whole = Hasher::new();
    pieces.iter().for_each(|piece| whole.combine(piece));
    whole.finalize()
}

impl Store {
    /// Saves a snapshot: into a fresh directory, made durable, renamed, the rename made durable, then the index; only then is
    /// deleted what rotation lets go.
    pub(crate) fn save(
        &mut self,
        snapshot: &Snapshot,
        retention: &Retention,
        monitor: &Monitor,
    ) -> Result<CheckpointInfo> {
        self.check_place()?;
        let mut files = vec![
            (MODEL, snapshot.model.to_parts()?),
            (OPTIMIZER, snapshot.optimizer.to_parts()?),
            (HYPER_PARAMETERS, vec![Cow::Borrowed(snapshot.hyper_parameters.as_slice())]),
        ];
        let mut state = snapshot.state.clone();
        state.saved_at = chrono::Utc::now().timestamp_millis();
        state.order = self.next_order;
        state.is_finite = snapshot.model.are_finite();
        state.files = files.iter().map(|(name, parts)| ((*name).to_owned(), length(parts), checksum(parts))).collect();
        files.push((STATE, vec![Cow::Owned(state.to_bytes()?)]));
        if let Some(metrics) = &snapshot.metrics {
            files.push((METRICS, vec![Cow::Owned(metrics_to_bytes(metrics)?)]));
        }
        // A pin is of the step: it goes over to what is saved there again.
        let is_pinned = self.checkpoints.get(&state.step).is_some_and(|info| info.is_pinned);
        if is_pinned {
            files.push((PINNED, Vec::new()));
        }
        if !state.is_finite {
            log::warn!(
                "step {}: the checkpoint has weights that are not finite; it will never be the best",
                state.step
            );
        }

        let place = |error: Error| error.at(format_args!("saving the checkpoint of step {}", state.step));
        let temporary = self.temporary_dir().map_err(place)?;
        let path = self.dir.join(dir_name(state.step));
        if let Err(error) = self.commit(&temporary, &path, &files, state.step) {
            // What cannot be deleted now is tidied up when the directory is next opened.
            let _ = self.storage.remove_dir_all(&temporary);
            return Err(place(error));
        }
        // From here on the checkpoint is there.
        self.next_order = self.next_order.saturating_add(1);
        let info = CheckpointInfo::new(path, &state, snapshot.metrics.clone(), is_pinned);
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
        let written = self.storage.write_new(&file, &[b"room?"]).map_err(|error| Error::io("write", &file, error));
        let _ = self.storage.remove_dir_all(&probe);
        written?;
        let free =
            self.storage.free_space(&self.dir).map_err(|error| Error::io("ask for the room at", &self.dir, error))?;
        let wanted = if self.checkpoints.is_empty() { bytes.saturating_mul(2) } else { bytes };
        match free {
            Some(free) if free < wanted => {
                let message = format!(
                    "{}: found room for {free} bytes, expected {wanted} for {} of this model with its optimiser's state",
                    self.dir.display(),
                    if self.checkpoints.is_empty() { "two checkpoints" } else { "another checkpoint" }
                );
                Err(Error::new(ErrorKind::Io, message))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the directory is still the one that was opened. One that was removed is not made again, since where it was
    /// may be the empty place of a disk that is gone; one that others made there is taken over with its lock.
    pub(crate) fn check_place(&mut self) -> Result<()> {
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

    fn commit(&self, temporary: &Path, path: &Path, files: &[(&str, Parts<'_>)], step: u64) -> Result<()> {
        for (name, parts) in files {
            let file = temporary.join(name);
            let parts: Vec<&[u8]> = parts.iter().map(Cow::as_ref).collect();
            self.storage.write_new(&file, &parts).map_err(|error| Error::io("write", &file, error))?;
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

    /// Without an index the checkpoints themselves are read.
    pub(super) fn drop_index(&self) -> Result<()> {
        let path = self.dir.join(INDEX);
        match self.storage.remove_file(&path) {
            Ok(()) => self.storage.sync_dir(&self.dir).map_err(|error| Error::io("sync", &self.dir, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Nobody takes a directory of this name for an index.
            Err(_) if matches!(self.storage.kind(&path), Ok(Kind::Directory)) => Ok(()),
            Err(error) => Err(Error::io("delete", &path, error)),
        }
    }

    /// The index is a cache: a failure to write it is reported, and costs the next reader a scan.
    pub(super) fn write_index(&mut self) {
        self.next_temporary += 1;
        let temporary = self.dir.join(format!("{TEMPORARY}index-{}-{}", std::process::id(), self.next_temporary));
        let write = || -> Result<()> {
            let io = |error| Error::io("write", &temporary, error);
            self.storage.write_new(&temporary, &[&index::to_bytes(&self.list())?]).map_err(io)?;
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
