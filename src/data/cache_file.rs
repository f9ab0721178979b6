//! Records kept in a file once they are made.
//!
//! The file: a head of 8 bytes `ELIRECS1`, the length of a fingerprint (u32) and the fingerprint; the records, each with its
//! CRC-32 after it; the offsets of the records and of their end (u64 each); and 32 bytes at the end: the offset of the
//! offsets (u64), the number of records (u64), the CRC-32 of head, offsets and these two numbers (u32), four zeros, and
//! `ELIRECSE`. Everything is little-endian.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::NamedTempFile;

use crate::data::cache::{CACHED_PASS, check_finite};
use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::{Dataset, Record, record_bytes};
use crate::{Error, ErrorKind, Result};

const HEAD: &[u8; 8] = b"ELIRECS1";
const END: &[u8; 8] = b"ELIRECSE";
const FOOT: u64 = 32;

struct CacheFile {
    input: Arc<dyn Stage>,
    path: PathBuf,
}

impl Dataset {
    /// Makes every record once and keeps it in this file, also for later runs: for records that are slow to make and do not
    /// fit in memory. The first pass from the beginning to the last record writes it, under a temporary name in the same
    /// directory until it is whole; passes that stop early, or begin later, leave no file.
    ///
    /// As with [`cache`](Dataset::cache), every pass gives the same records in the same order. What a closure before the
    /// cache does is not known to the file: after changing one, delete it.
    ///
    /// # Errors
    /// Opening fails with [`ErrorKind::Corrupt`] when the file is damaged or something else, and with
    /// [`ErrorKind::Mismatch`] when it was made from other data or other stages. Every record is checked when it is read.
    /// A file that cannot be written is an [`ErrorKind::Io`] error.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("numbers.records");
    /// let numbers = Dataset::from_arrays(Record::new().with("n", vec![1i64, 2, 3]))?;
    /// let cached = numbers.map(|record| Ok(record /* slowly */)).cache_file(&path);
    /// assert_eq!(cached.open(0, 0, 0)?.count(), 3);
    /// assert!(path.exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn cache_file(self, path: impl Into<PathBuf>) -> Self {
        Self::from_stage(CacheFile { input: self.stage, path: path.into() })
    }
}

/// A file being written. Dropped before it is finished, it disappears.
struct Writer {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
    checksum: crc32fast::Hasher,
    offsets: Vec<u64>,
    end: u64,
    bytes: Vec<u8>,
}

impl Writer {
    fn new(path: &Path, fingerprint: &str) -> Result<Self> {
        let failed = |error| Error::io("write the cache", path, error);
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(failed)?;
        let mut file = BufWriter::new(NamedTempFile::new_in(dir).map_err(failed)?);
        let head = head(fingerprint);
        file.write_all(&head).map_err(failed)?;
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&head);
        let end = head.len() as u64;
        Ok(Self { file, path: path.to_owned(), checksum, offsets: Vec::new(), end, bytes: Vec::new() })
    }

    fn push(&mut self, record: &Record) -> Result<()> {
        self.bytes.clear();
        record_bytes::write(record, &mut self.bytes)?;
        let crc = crc32fast::hash(&self.bytes);
        self.bytes.extend(crc.to_le_bytes());
        self.file.write_all(&self.bytes).map_err(|error| Error::io("write the cache", &self.path, error))?;
        self.offsets.push(self.end);
        self.end += self.bytes.len() as u64;
        Ok(())
    }

    /// Puts the file in its place.
    fn finish(mut self) -> Result<()> {
        let path = std::mem::take(&mut self.path);
        let failed = |error| Error::io("write the cache", &path, error);
        let count = self.offsets.len() as u64;
        self.offsets.push(self.end);
        let mut tail: Vec<u8> = self.offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        tail.extend(self.end.to_le_bytes());
        tail.extend(count.to_le_bytes());
        self.checksum.update(&tail);
        tail.extend(self.checksum.finalize().to_le_bytes());
        tail.extend([0; 4]);
        tail.extend(END);
        self.file.write_all(&tail).map_err(failed)?;
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn head(fingerprint: &str) -> Vec<u8> {
    let mut head = HEAD.to_vec();
    head.extend((fingerprint.len() as u32).to_le_bytes());
    head.extend(fingerprint.as_bytes());
    head
}

/// A finished file, its ends checked, at a position.
struct Reader {
    file: BufReader<File>,
    offsets: std::vec::IntoIter<u64>,
    start: u64,
    number: u64,
    path: PathBuf,
}

fn corrupt(path: &Path, what: impl std::fmt::Display) -> Error {
    let message = format!("the cache {} {what}; delete it to have it made again", path.display());
    Error::new(ErrorKind::Corrupt, message)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.iter().skip(at).take(8).rev().fold(0, |all, &byte| all << 8 | u64::from(byte))
}

impl Reader {
    fn open(path: &Path, fingerprint: &str, position: u64) -> Result<Self> {
        let failed = |error| Error::io("read the cache", path, error);
        let meta = fs::metadata(path).map_err(failed)?;
        if !meta.is_file() {
            return Err(corrupt(path, "is not a file"));
        }
        let size = meta.len();
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut start = [0; 12];
        if size < start.len() as u64 + FOOT || file.read_exact(&mut start).is_err() || !start.starts_with(HEAD) {
            return Err(corrupt(path, "is not a file of records, or is cut off"));
        }
        let found = u64_at(&[&start[8..], &[0; 4]].concat(), 0);
        if found > size - FOOT - start.len() as u64 {
            return Err(corrupt(path, "is cut off"));
        }
        let mut words = vec![0; found as usize];
        file.read_exact(&mut words).map_err(failed)?;
        file.seek(SeekFrom::End(-(FOOT as i64))).map_err(failed)?;
        let mut foot = [0; FOOT as usize];
        file.read_exact(&mut foot).map_err(failed)?;
        let (table, count) = (u64_at(&foot, 0), u64_at(&foot, 8));
        let table_size = count.checked_add(1).and_then(|offsets| offsets.checked_mul(8));
        let whole = table_size.and_then(|table_size| table.checked_add(table_size)?.checked_add(FOOT));
        if !foot.ends_with(END) || whole != Some(size) {
            return Err(corrupt(path, "is cut off, or its end is damaged"));
        }
        file.seek(SeekFrom::Start(table)).map_err(failed)?;
        // No larger than the file, as was just seen.
        let mut offsets = vec![0; table_size.unwrap_or(0) as usize];
        file.read_exact(&mut offsets).map_err(failed)?;
        let mut checksum = crc32fast::Hasher::new();
        [&start, words.as_slice(), &offsets, &foot[..16]].iter().for_each(|part| checksum.update(part));
        if foot[16..20] != checksum.finalize().to_le_bytes() {
            return Err(corrupt(path, "is damaged: the checksum of its head and table is another"));
        }
        if words != fingerprint.as_bytes() {
            let found: String = String::from_utf8_lossy(&words).chars().take(400).collect();
            let message = format!(
                "the cache {} was made from other data or stages: found {found:?}, expected {fingerprint:?}; delete it to have \
                 it made again, or use another path",
                path.display()
            );
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        let number = position.min(count);
        let mut offsets = offsets.chunks(8).map(|bytes| u64_at(bytes, 0)).collect::<Vec<_>>();
        if !offsets.is_sorted() || offsets.last() != Some(&table) {
            return Err(corrupt(path, "is damaged: its table of records makes no sense"));
        }
        let mut offsets = offsets.split_off(number as usize).into_iter();
        let start = offsets.next().unwrap_or(table);
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        Ok(Self { file, offsets, start, number, path: path.to_owned() })
    }

    fn read(&mut self, end: u64) -> Result<Record> {
        let size = usize::try_from(end - self.start).unwrap_or(usize::MAX);
        (self.start, self.number) = (end, self.number + 1);
        let mut bytes = vec![0; size];
        self.file.read_exact(&mut bytes).map_err(|error| Error::io("read the cache", &self.path, error))?;
        match bytes.split_last_chunk::<4>() {
            Some((record, crc)) if crc32fast::hash(record).to_le_bytes() == *crc => record_bytes::read(record),
            _ => Err(corrupt(&self.path, "is damaged: the checksum of a record is another")),
        }
        .map_err(|error| error.at(format_args!("cache_file: element {}", self.number - 1)))
    }
}

impl Iterator for Reader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        let end = self.offsets.next()?;
        Some(self.read(end))
    }
}

impl CacheFile {
    /// What the records are, batch size included.
    fn fingerprint(&self) -> String {
        let input = Dataset { stage: Arc::clone(&self.input) };
        input.batch_size().map_or(input.fingerprint(), |size| format!("{} of {size}", input.fingerprint()))
    }
}

impl Stage for CacheFile {
    fn open(&self, _: Pass, position: u64) -> Result<Stream> {
        check_finite("cache_file", &self.input)?;
        let fingerprint = self.fingerprint();
        match fs::symlink_metadata(&self.path) {
            Ok(_) => return Ok(Stream::new(Reader::open(&self.path, &fingerprint, position)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read the cache", &self.path, error)),
        }
        let records = self.input.open(CACHED_PASS, position)?;
        if position > 0 {
            return Ok(records);
        }
        let mut records = records.fuse();
        let mut writer = Some(Writer::new(&self.path, &fingerprint)?);
        let len = self.input.len();
        let mut behind = None;
        Ok(Stream::new(std::iter::from_fn(move || {
            let record = behind.take().unwrap_or_else(|| records.next());
            // Taken out, it is gone unless it is put back: nothing that has failed becomes a file.
            let written = match (writer.take(), &record) {
                (Some(mut open), Some(Ok(record))) => open.push(record).and_then(|()| {
                    // Who knows the length may not ask for what is behind the last record, where the file would be finished.
                    if len == Some(open.offsets.len() as u64) && behind.insert(records.next()).is_none() {
                        return open.finish();
                    }
                    writer = Some(open);
                    Ok(())
                }),
                (Some(done), None) => done.finish(),
                _ => Ok(()),
            };
            match written {
                Ok(()) => record,
                Err(error) => Some(Err(error.at("cache_file"))),
            }
        })))
    }

    fn len(&self) -> Option<u64> {
        self.input.len()
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    // The path does not change what comes.
    fn describe(&self, out: &mut String) {
        out.push_str("cache");
    }

    fn label(&self) -> String {
        format!("cache_file({})", self.path.display())
    }
}
