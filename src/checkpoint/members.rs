//! Several checkpoints saved as one: a store for each, and an index that is written last.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::fs::{Disk, Kind, Lock, Storage};
use crate::checkpoint::index::dir_name;
use crate::checkpoint::state::{open, seal};
use crate::checkpoint::{Access, Monitor, Retention, Snapshot, Store};
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"ELIENSEM";
const INDEX: &str = "elistimator_ensemble";
const TEMPORARY_INDEX: &str = ".tmp-ensemble";
const LOCK: &str = "lock";
/// The members of one save: with a number, so that a new save lies beside the old one until the index names it.
const PREFIX: &str = "members-";
/// How often an ensemble is read again that others replace meanwhile.
const ATTEMPTS: usize = 8;
/// Far above what the index of any ensemble needs.
const LARGEST_INDEX: u64 = 1 << 26;

/// Snapshots with what belongs to them together.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) snapshots: Vec<Snapshot>,
    /// One for each snapshot.
    pub(crate) weights: Vec<f64>,
    /// How they are put together.
    pub(crate) rule: String,
}

/// What is in the index.
#[derive(Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) number: u64,
    pub(crate) rule: String,
    pub(crate) members: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) step: u64,
    pub(crate) weight: f64,
    /// The member's files as its own state lists them, so that no member of another save can take its place.
    pub(crate) files: Vec<(String, u64, u32)>,
}

impl Index {
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        seal(MAGIC, self)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        open(MAGIC, bytes)
    }
}

/// Opens the disk, once for each store.
pub(crate) type Open<'a> = &'a dyn Fn() -> Box<dyn Storage>;

impl Members {
    /// Saves them in a directory, which is made if missing and whose earlier members are replaced: whoever reads it finds
    /// the old ones or the new ones.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when another one saves there, [`ErrorKind::Io`], and [`ErrorKind::NotDurable`] when all is
    /// written but may not survive a power cut.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        Disk.create_dir_all(dir).map_err(|error| Error::io("make the directory", dir, error))?;
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Err(error) = Disk.sync_dir(above) {
            log::warn!("cannot sync {}, so a power loss may take the new directory in it: {error}", above.display());
        }
        let path = dir.join(LOCK);
        let Some(_lock) = Lock::take(&path).map_err(|error| Error::io("lock", &path, error))? else {
            let message = format!("{} is being written by another process", dir.display());
            return Err(Error::new(ErrorKind::Locked, message));
        };
        self.save_to(&|| Box::new(Disk), dir)
    }

    /// The members in a directory, each with the directory that is its own, every file checked.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without an index, [`ErrorKind::Corrupt`] naming the file, [`ErrorKind::Io`].
    pub(crate) fn load(dir: &Path) -> Result<(Self, Vec<PathBuf>)> {
        Self::load_from(&|| Box::new(Disk), dir)
    }

    pub(crate) fn save_to(&self, disk: Open<'_>, dir: &Path) -> Result<()> {
        let storage = disk();
        storage.create_dir_all(dir).map_err(|error| Error::io("make the directory", dir, error))?;
        let saved = numbered(&*storage, dir).map_err(|error| Error::io("list", dir, error))?;
        let number = saved.iter().map(|(number, _)| *number).max().unwrap_or(0).checked_add(1).ok_or_else(|| {
            Error::new(ErrorKind::Io, format!("{} has the last possible {PREFIX} directory", dir.display()))
        })?;
        let ours = dir.join(format!("{PREFIX}{number}"));
        let index = match self.write_members(disk, &*storage, dir, &ours, number) {
            Ok(index) => index,
            Err(error) => {
                let _ = storage.remove_dir_all(&ours);
                return Err(error);
            }
        };
        let temporary = dir.join(TEMPORARY_INDEX);
        let path = dir.join(INDEX);
        let written = remove(&*storage, &temporary)
            .and_then(|()| storage.write_new(&temporary, &[&index]))
            .and_then(|()| storage.rename(&temporary, &path));
        if let Err(error) = written {
            let _ = storage.remove_dir_all(&ours);
            return Err(Error::io("write", &path, error));
        }
        storage.sync_dir(dir).map_err(|error| {
            let message =
                format!("{} is written, but whether it would survive a power loss is not confirmed", path.display());
            Error::with_source(ErrorKind::NotDurable, message, error)
        })?;
        // Only now does nothing point to them any more.
        for (_, path) in saved {
            if let Err(error) = storage.remove_dir_all(&path) {
                log::warn!("cannot delete {}: {error}", path.display());
            }
        }
        Ok(())
    }

    /// Writes every member into a store of its own, makes them durable, and returns the index that will name them.
    fn write_members(
        &self,
        disk: Open<'_>,
        storage: &dyn Storage,
        dir: &Path,
        ours: &Path,
        number: u64,
    ) -> Result<Vec<u8>> {
        let make = |path: &Path| storage.create_dir(path).map_err(|error| Error::io("make the directory", path, error));
        let sync = |path: &Path| storage.sync_dir(path).map_err(|error| Error::io("sync", path, error));
        make(ours)?;
        let mut members = Vec::with_capacity(self.snapshots.len());
        for (place, (snapshot, &weight)) in self.snapshots.iter().zip(&self.weights).enumerate() {
            let member = member_dir(ours, place);
            make(&member)?;
            let mut store = Store::with_storage(disk(), member.join("checkpoints"), Access::Write)?;
            store.save(snapshot, &Retention::last(0), &Monitor::default())?;
            // Read back, since the store fills in the checksums; and nothing is pointed to that cannot be read.
            let files = store.load(snapshot.step)?.state.files;
            members.push(Entry { step: snapshot.step, weight, files });
            sync(&member)?;
        }
        sync(ours)?;
        sync(dir)?;
        Index { number, rule: self.rule.clone(), members }.to_bytes()
    }

    pub(crate) fn load_from(disk: Open<'_>, dir: &Path) -> Result<(Self, Vec<PathBuf>)> {
        let mut before = read_index(disk, dir)?;
        for _ in 0..ATTEMPTS {
            let outcome = Self::load_listed(disk, dir, &before);
            // A save that ends meanwhile takes the members away that the index named before it.
            match read_index(disk, dir) {
                Ok(now) if outcome.is_err() && now != before => before = now,
                _ => return outcome,
            }
        }
        let message = format!("{} was replaced {ATTEMPTS} times while it was read", dir.display());
        Err(Error::new(ErrorKind::Io, message))
    }

    /// The members that the index lists.
    fn load_listed(disk: Open<'_>, dir: &Path, index: &[u8]) -> Result<(Self, Vec<PathBuf>)> {
        let index = Index::from_bytes(index).map_err(|error| error.at(dir.join(INDEX).display()))?;
        // Paths follow from numbers, so that no file can point elsewhere.
        let ours = dir.join(format!("{PREFIX}{}", index.number));
        let mut found = Self { snapshots: Vec::new(), weights: Vec::new(), rule: index.rule };
        let mut dirs = Vec::new();
        for (place, entry) in index.members.into_iter().enumerate() {
            let member = member_dir(&ours, place);
            let checkpoints = member.join("checkpoints");
            let path = checkpoints.join(dir_name(entry.step));
            let snapshot = Store::with_storage(disk(), checkpoints, Access::Read)?.load_path(&path);
            let snapshot = snapshot.map_err(|error| match error.kind() {
                ErrorKind::NotFound => Error::with_source(
                    ErrorKind::Corrupt,
                    format!("member {place} of the ensemble in {} is missing", dir.display()),
                    error,
                ),
                _ => error,
            })?;
            if snapshot.step != entry.step || snapshot.state.files != entry.files {
                let message = format!("{} is not the member that the index of the ensemble lists", path.display());
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            found.snapshots.push(snapshot);
            found.weights.push(entry.weight);
            dirs.push(member);
        }
        Ok((found, dirs))
    }
}

fn read_index(disk: Open<'_>, dir: &Path) -> Result<Vec<u8>> {
    let path = dir.join(INDEX);
    disk().read(&path, LARGEST_INDEX).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::InvalidData => ErrorKind::Corrupt,
            _ => ErrorKind::Io,
        };
        Error::with_source(kind, format!("no ensemble can be read from {}", path.display()), error)
    })
}

fn member_dir(ours: &Path, place: usize) -> PathBuf {
    ours.join(format!("{place:03}"))
}

/// The directories of all saves, whole or not.
fn numbered(storage: &dyn Storage, dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let number = |path: &Path| {
        let digits = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        // Only names that we would write.
        digits.parse::<u64>().ok().filter(|number| number.to_string() == digits)
    };
    let directories = storage.list(dir)?.into_iter().filter(|(_, kind)| *kind == Kind::Directory);
    Ok(directories.filter_map(|(path, _)| Some((number(&path)?, path))).collect())
}

fn remove(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::faulty::FaultyDisk;
    use crate::checkpoint::{State, Tensors};

    fn members(value: f32, count: u64) -> Members {
        let tensors = |step| Tensors::new(vec![("weight".to_owned(), vec![2], vec![value, step as f32])]).unwrap();
        let snapshot = |step| Snapshot {
            step,
            model: tensors(step),
            optimizer: Tensors::default(),
            hyper_parameters: b"{}".to_vec(),
            state: State::new(step, 7),
            metrics: None,
        };
        let snapshots: Vec<_> = (0..count).map(|member| snapshot(10 - member)).collect();
        Members { weights: vec![f64::from(value); snapshots.len()], snapshots, rule: "mean".to_owned() }
    }

    fn same(found: &Members, expected: &Members) -> bool {
        found.rule == expected.rule
            && found.weights == expected.weights
            && found.snapshots.len() == expected.snapshots.len()
            && found.snapshots.iter().zip(&expected.snapshots).all(|(a, b)| a.step == b.step && a.model == b.model)
    }

    /// For: the index last, the syncs before it, and deleting the old members after it.
    ///
    /// Guards, as `scripts/mutations.py` shows: the sync of the temporary directory; the sync after the rename; the
    /// temporary name.
    #[test]
    fn a_failed_or_torn_save_leaves_the_old_ensemble_or_the_new_one() {
        let dir = Path::new("/run/ensemble");
        let (old, new) = (members(0.25, 2), members(0.5, 3));
        for (die, cut) in [(false, false), (true, false), (true, true), (false, true)] {
            for n in 0.. {
                let disk = FaultyDisk::default();
                let open = || -> Box<dyn Storage> { Box::new(disk.clone()) };
                old.save_to(&open, dir).unwrap();
                disk.fail_at(n, die);
                let acknowledged = new.save_to(&open, dir).is_ok();
                let failed = disk.has_failed();
                if cut {
                    disk.cut_power();
                } else {
                    disk.heal();
                }
                let (found, _) =
                    Members::load_from(&open, dir).unwrap_or_else(|error| panic!("operation {n}: {error}"));
                assert!(same(&found, &new) || (!acknowledged && same(&found, &old)), "operation {n}");
                // And the next save works, and leaves nothing of the failed one.
                new.save_to(&open, dir).unwrap();
                let (found, dirs) = Members::load_from(&open, dir).unwrap();
                assert!(same(&found, &new), "operation {n}");
                assert_eq!(numbered(&disk, dir).unwrap().len(), 1, "operation {n}");
                assert!(dirs.iter().all(|member| disk.kind(member).is_ok()));
                if !failed {
                    break;
                }
            }
        }
    }

    /// Guards, as `scripts/mutations.py` shows: the temporary name; the checksum.
    #[test]
    fn every_damaged_or_missing_file_is_an_error() {
        let dir = Path::new("/run/ensemble");
        let disk = FaultyDisk::default();
        let open = || -> Box<dyn Storage> { Box::new(disk.clone()) };
        assert_eq!(Members::load_from(&open, dir).unwrap_err().kind(), ErrorKind::NotFound);
        members(0.5, 2).save_to(&open, dir).unwrap();
        for path in disk.paths() {
            let is_cache = path.ends_with("elistimator_meta");
            let Some(bytes) = disk.bytes(&path).filter(|_| path.starts_with(dir) && !is_cache) else { continue };
            for place in [0, bytes.len() / 2, bytes.len() - 1] {
                let mut flipped = bytes.clone();
                flipped[place] ^= 1;
                disk.set_bytes(&path, &flipped);
                assert!(Members::load_from(&open, dir).is_err(), "{} at {place}", path.display());
            }
            disk.set_bytes(&path, &bytes[..bytes.len() - 1]);
            assert_eq!(Members::load_from(&open, dir).unwrap_err().kind(), ErrorKind::Corrupt, "{}", path.display());
            disk.set_bytes(&path, &bytes);
        }
        Members::load_from(&open, dir).unwrap();
    }

    /// Guards, as `scripts/mutations.py` shows: the temporary name.
    #[test]
    fn an_ensemble_that_is_replaced_while_it_is_read_is_the_old_one_or_the_new_one() {
        let dir = Path::new("/run/ensemble");
        for n in 0.. {
            let disk = FaultyDisk::default();
            let open = || -> Box<dyn Storage> { Box::new(disk.clone()) };
            let (old, new) = (members(0.25, 2), members(0.5, 3));
            old.save_to(&open, dir).unwrap();
            let other = disk.clone();
            disk.meanwhile(n, move || members(0.5, 3).save_to(&|| Box::new(other.clone()), dir).unwrap());
            let (found, _) = Members::load_from(&open, dir).unwrap_or_else(|error| panic!("operation {n}: {error}"));
            assert!(same(&found, &old) || same(&found, &new), "operation {n}");
            if disk.is_still_waiting() {
                break;
            }
        }
    }

    /// Guards, as `scripts/mutations.py` shows: the temporary name.
    #[test]
    fn a_missing_member_is_damage_and_no_missing_ensemble() {
        let dir = tempfile::tempdir().unwrap();
        members(0.5, 2).save(dir.path()).unwrap();
        std::fs::remove_dir_all(dir.path().join("members-1/001")).unwrap();
        assert_eq!(Members::load(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    /// For: the files in the index.
    ///
    /// Guards, as `scripts/mutations.py` shows: the temporary name.
    #[test]
    fn a_member_of_another_save_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
        members(0.5, 2).save(&ours).unwrap();
        members(0.75, 2).save(&other).unwrap();
        let place = Path::new("members-1/000");
        std::fs::remove_dir_all(ours.join(place)).unwrap();
        std::fs::rename(other.join(place), ours.join(place)).unwrap();
        assert_eq!(Members::load(&ours).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
