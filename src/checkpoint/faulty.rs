//! A disk for tests: in memory, it fails when told to, and forgets at a power cut what was not made durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::checkpoint::fs::{Kind, Storage};

/// A file's bytes, or a directory (no bytes).
type Node = Option<Vec<u8>>;

#[derive(Debug, Default, Clone)]
struct Files {
    /// What processes see.
    now: BTreeMap<PathBuf, Node>,
    /// What survives a power cut.
    durable: BTreeMap<PathBuf, Node>,
    /// Names whose directory was synced since they were given. A directory that is renamed takes along those in it.
    synced: BTreeSet<PathBuf>,
    /// Names that were given to other directories than they durably belong to.
    renamed: BTreeSet<PathBuf>,
    operations: u64,
    fail_at: Option<u64>,
    /// Whether everything fails from the failing operation on, as after a crash.
    dies: bool,
    dead: bool,
    free: Option<u64>,
}

/// What another process does between two operations.
struct Meanwhile {
    left: u64,
    run: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meanwhile(in {} operations)", self.left)
    }
}

/// The shared disk; clones see the same files, as a restarted process does.
#[derive(Debug, Default, Clone)]
pub(crate) struct FaultyDisk {
    files: Arc<Mutex<Files>>,
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
}

impl FaultyDisk {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap()
    }

    /// The `n`-th operation from now fails; and all after it, if the machine is to `die`.
    pub(crate) fn fail_at(&self, n: u64, die: bool) {
        let mut files = self.files();
        (files.operations, files.fail_at, files.dies, files.dead) = (0, Some(n), die, false);
    }

    /// Whether the failure has come.
    pub(crate) fn has_failed(&self) -> bool {
        let files = self.files();
        files.fail_at.is_some_and(|n| files.operations > n)
    }

    /// Before the `n`-th operation from now, another process does this.
    pub(crate) fn meanwhile(&self, n: u64, run: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Meanwhile { left: n, run: Box::new(run) });
    }

    /// Whether the other process has not had its turn yet; it will not get one any more.
    pub(crate) fn is_still_waiting(&self) -> bool {
        self.meanwhile.lock().unwrap().take().is_some()
    }

    /// How much room it says there is.
    pub(crate) fn set_free(&self, bytes: u64) {
        self.files().free = Some(bytes);
    }

    pub(crate) fn heal(&self) {
        let mut files = self.files();
        (files.fail_at, files.dead) = (None, false);
    }

    /// What was not made durable is gone.
    pub(crate) fn cut_power(&self) {
        let mut files = self.files();
        // What is durable in a directory whose own name is not cannot be reached any more.
        let durable = &files.durable;
        let is_reached = |path: &PathBuf| {
            let known = |above: &&Path| durable.contains_key(*above);
            let first = path.ancestors().skip(1).filter(known).last();
            first.is_none_or(|first| {
                path.ancestors().skip(1).take_while(|above| above.starts_with(first)).all(|a| known(&a))
            })
        };
        let now = durable.iter().filter(|(path, _)| is_reached(path)).map(|(path, node)| (path.clone(), node.clone()));
        files.now = now.collect();
        files.durable = files.now.clone();
        files.synced = files.now.keys().cloned().collect();
        files.renamed.clear();
        (files.fail_at, files.dead) = (None, false);
    }

    pub(crate) fn remove(&self, path: &Path) {
        let mut files = self.files();
        files.now.remove(path);
        files.durable.remove(path);
    }

    pub(crate) fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        self.files().now.get(path).cloned().flatten()
    }

    pub(crate) fn set_bytes(&self, path: &Path, bytes: &[u8]) {
        self.files().now.insert(path.to_owned(), Some(bytes.to_vec()));
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.files().now.keys().cloned().collect()
    }

    /// Counts an operation, and fails it if it is the one.
    fn operate(&self) -> io::Result<MutexGuard<'_, Files>> {
        let due = {
            let mut meanwhile = self.meanwhile.lock().unwrap();
            match meanwhile.as_mut() {
                Some(Meanwhile { left: 0, .. }) => meanwhile.take(),
                Some(other) => {
                    other.left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some(Meanwhile { run, .. }) = due {
            run();
        }
        let mut files = self.files();
        files.operations += 1;
        if files.dead || files.fail_at.is_some_and(|n| files.operations == n + 1) {
            files.dead = files.dies;
            return Err(io::Error::other("the disk refuses"));
        }
        Ok(files)
    }
}

fn below<'f>(files: &'f BTreeMap<PathBuf, Node>, dir: &'f Path) -> impl Iterator<Item = &'f PathBuf> {
    files.keys().filter(move |path| path.starts_with(dir) && *path != dir)
}

impl Storage for FaultyDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut files = self.operate()?;
        if !files.now.contains_key(path) {
            files.now.insert(path.to_owned(), None);
            files.durable.insert(path.to_owned(), None);
            files.synced.insert(path.to_owned());
        }
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut files = self.operate()?;
        if files.now.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        files.now.insert(path.to_owned(), None);
        Ok(())
    }

    fn write_new(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let bytes = parts.concat();
        // A failed write leaves half of the bytes behind.
        let outcome = self.operate().map(drop);
        let mut files = self.files();
        if files.now.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let half = if outcome.is_ok() { bytes.len() } else { bytes.len() / 2 };
        files.now.insert(path.to_owned(), Some(bytes[..half].to_vec()));
        outcome?;
        // The bytes are durable, under whatever name the directory durably has for them.
        let written = files.now[path].clone();
        files.durable.insert(PathBuf::from("bytes of").join(path.strip_prefix("/").unwrap()), written);
        Ok(())
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let files = self.operate()?;
        match files.now.get(path) {
            Some(Some(bytes)) if bytes.len() as u64 <= limit => Ok(bytes.clone()),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.operate()?;
        let Some(node) = files.now.get(from).cloned() else { return Err(io::ErrorKind::NotFound.into()) };
        if files.now.contains_key(to) && (node.is_none() || files.now[to].is_none()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if node.is_none() {
            files.renamed.insert(to.to_owned());
        }
        let moved: Vec<PathBuf> = below(&files.now, from).cloned().chain([from.to_owned()]).collect();
        for path in moved {
            let target = if path == from { to.to_owned() } else { to.join(path.strip_prefix(from).unwrap()) };
            let node = files.now.remove(&path).unwrap();
            // What is durable inside a renamed directory stays so; the directory's own name waits for a sync of its parent.
            let synced = PathBuf::from("bytes of").join(path.strip_prefix("/").unwrap());
            if let Some(bytes) = files.durable.remove(&synced) {
                files.durable.insert(PathBuf::from("bytes of").join(target.strip_prefix("/").unwrap()), bytes);
            }
            if files.synced.remove(&path) && path != from {
                files.synced.insert(target.clone());
            } else {
                files.synced.remove(&target);
            }
            files.now.insert(target, node);
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut files = self.operate()?;
        let names: Vec<PathBuf> = below(&files.now, path).filter(|name| name.parent() == Some(path)).cloned().collect();
        let gone: Vec<PathBuf> = below(&files.durable, path)
            .filter(|name| {
                !files.now.contains_key(path.join(name.strip_prefix(path).unwrap().iter().next().unwrap()).as_path())
            })
            .cloned()
            .collect();
        for name in gone {
            files.durable.remove(&name);
        }
        for name in names {
            // A directory's name becomes durable with the names in it that are; a file's with its synced bytes.
            files.synced.insert(name.clone());
            if files.renamed.remove(&name) {
                files.durable.retain(|path, _| !path.starts_with(&name));
            }
            let contents: Vec<PathBuf> = below(&files.now, &name).cloned().chain([name.clone()]).collect();
            let is_reached = |path: &&PathBuf| {
                path.ancestors().take_while(|above| above.starts_with(&name)).all(|above| files.synced.contains(above))
            };
            let contents: Vec<PathBuf> = contents.iter().filter(is_reached).cloned().collect();
            for path in contents {
                let node = match &files.now[&path] {
                    None => None,
                    Some(_) => {
                        let synced = PathBuf::from("bytes of").join(path.strip_prefix("/").unwrap());
                        Some(files.durable.get(&synced).cloned().flatten().unwrap_or_default())
                    }
                };
                files.durable.insert(path, node);
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut files = self.operate()?;
        match files.now.get(path) {
            Some(Some(_)) => {
                files.now.remove(path);
                files.synced.remove(path);
                Ok(())
            }
            Some(None) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut files = self.operate()?;
        if !files.now.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        files.now.retain(|name, _| !name.starts_with(path));
        // The worst case: a deletion is durable at once, before the renames around it are.
        files.durable.retain(|name, _| !name.starts_with(path));
        files.synced.retain(|name| !name.starts_with(path));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        let files = self.operate()?;
        if !files.now.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let kind = |name: &PathBuf| if files.now[name].is_some() { Kind::File } else { Kind::Directory };
        Ok(below(&files.now, path)
            .filter(|name| name.parent() == Some(path))
            .map(|name| (name.clone(), kind(name)))
            .collect())
    }

    fn free_space(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(self.operate()?.free)
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let files = self.operate()?;
        match files.now.get(path) {
            Some(Some(_)) => Ok(Kind::File),
            Some(None) => Ok(Kind::Directory),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
