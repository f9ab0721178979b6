//! The only file that touches the disk for checkpoints.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// What a name in a directory is, without following links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Other,
}

/// The operations that saving and loading need. Crash tests put another implementation in place of the disk.
pub(crate) trait Storage: Send + Sync {
    /// Makes a directory and its parents; one that exists is fine.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory that must not exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Writes a file that must not exist, from its parts in their order, and waits until its bytes are durable.
    fn write_new(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()>;
    /// Reads a regular file of at most `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Puts a file or a directory in another's place; a directory only where none is.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Waits until the names in a directory are durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Deletes a file or link, never what a link points to.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Deletes a directory and all in it, never what links in it point to.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, with what they are.
    fn list(&self, path: &Path) -> io::Result<Vec<(PathBuf, Kind)>>;
    /// What a path is, without following a link at its end.
    fn kind(&self, path: &Path) -> io::Result<Kind>;
    /// The bytes that may still be written where this path is; `None` where that cannot be asked.
    fn free_space(&self, path: &Path) -> io::Result<Option<u64>>;
}

/// The disk.
#[derive(Debug)]
pub(crate) struct Disk;

impl Storage for Disk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn write_new(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        // Only what is small is gathered.
        let mut file = BufWriter::with_capacity(1 << 16, file);
        for part in parts {
            file.write_all(part)?;
        }
        file.into_inner()?.sync_all()
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = open_regular(OpenOptions::new().read(true), path)?;
        let length = file.metadata()?.len();
        if length > limit {
            let message = format!("it has {length} bytes, expected at most {limit}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(length).map_err(io::Error::other)?)?;
        file.take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it became shorter while it was read"));
        }
        Ok(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        // The standard library tries again by itself for files, not for directories.
        let entries = loop {
            match fs::read_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                entries => break entries?,
            }
        };
        entries.map(|entry| entry.and_then(|entry| Ok((entry.path(), kind(entry.file_type()?))))).collect()
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        Ok(kind(fs::symlink_metadata(path)?.file_type()))
    }

    #[cfg(unix)]
    fn free_space(&self, path: &Path) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    #[cfg(not(unix))]
    fn free_space(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")
}

/// Opens a regular file and nothing else: links are not followed, and a FIFO is not waited for.
#[cfg(unix)]
fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    // The kind is asked of what was opened, so that nothing can be put in its place in between.
    match options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(not_regular()),
        // A link; a socket, or a FIFO without a reader; a directory opened to write.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO | libc::EISDIR)) => {
            Err(not_regular())
        }
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(not_regular());
    }
    options.open(path)
}

fn kind(file_type: fs::FileType) -> Kind {
    if file_type.is_file() {
        Kind::File
    } else if file_type.is_dir() {
        Kind::Directory
    } else {
        Kind::Other
    }
}

/// Makes a file that grows above the process's limit an error like a full disk: unless something takes the signal that comes
/// with it, it ends the process.
pub(crate) fn outlive_size_limit() {
    #[cfg(unix)]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // Nobody reads the flag: the failed write says it all.
            if let Err(error) = signal_hook::flag::register(libc::SIGXFSZ, Default::default()) {
                log::warn!("a file above the size limit will end the process: {error}");
            }
        });
    }
}

/// The write lock of a directory: it dies with its holder.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock; `None` when another holds it.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = open_regular(OpenOptions::new().create(true).truncate(false).write(true), path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether the lock is the file at this path, which it is not when the directory was removed or replaced.
    #[cfg(unix)]
    pub(crate) fn is_at(&self, path: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;

        let held = self.file.metadata()?;
        match fs::symlink_metadata(path) {
            Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn is_at(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }
}

impl Drop for Lock {
    /// Closing the file alone is not enough: a program that another thread starts at this moment has the file too until it has
    /// come so far as to run, and would hold the lock for as long.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            log::debug!("the lock is given up when its file is closed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule: the lock ends with its holder, whoever else has the file still open, as a program has that another thread of
    /// this one is about to start.
    #[test]
    fn a_lock_that_is_dropped_is_free_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::take(&path).unwrap().unwrap();
        let inherited = held.file.try_clone().unwrap();
        assert!(Lock::take(&path).unwrap().is_none());
        drop(held);
        assert!(Lock::take(&path).unwrap().is_some());
        drop(inherited);
    }

    /// Rule: what is longer than it may be is not read, and takes no memory.
    ///
    /// Guards, as `scripts/mutations.py` shows: the limit on what is read.
    #[test]
    fn a_file_that_is_too_long_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.bin");
        fs::write(&path, b"twelve bytes").unwrap();
        assert_eq!(Disk.read(&path, 12).unwrap(), b"twelve bytes");
        let error = Disk.read(&path, 11).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("12 bytes, expected at most 11"), "{error}");
    }

    /// The kernel's own files say that they are longer than what can be read of them, as does a file that another process
    /// cuts between the question and the reading.
    ///
    /// Guards, as `scripts/mutations.py` shows: the limit on what is read.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_is_cut_while_it_is_read_is_an_error() {
        let path = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
        let other = Path::new("/sys/kernel/uevent_seqnum");
        let Some(path) = [path, other].into_iter().find(|path| path.exists()) else { return };
        let error = Disk.read(path, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("became shorter"), "{error}");
        let error = Disk.read(path, 10).unwrap_err();
        assert!(error.to_string().contains("at most 10"), "{error}");
    }
}
