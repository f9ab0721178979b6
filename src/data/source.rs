//! Where records come from.

use std::sync::Arc;

use crate::data::dataset::{Indices, Pass, Stage, Stream};
use crate::data::own_source::numbered;
use crate::data::{Record, signature};
use crate::{Error, ErrorKind, Result, unwind};

/// Arrays in memory, their rows the examples.
pub(crate) struct Arrays {
    arrays: Record,
    examples: usize,
}

impl Arrays {
    pub(crate) fn new(arrays: Record) -> Result<Self> {
        let examples = signature::batch_size(&arrays)?;
        Ok(Self { arrays, examples })
    }
}

impl Stage for Arrays {
    fn open(&self, _: Pass, position: u64) -> Result<Stream> {
        let arrays = self.arrays.clone();
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(self.examples);
        Ok(Stream::new((start..self.examples).map(move |row| {
            arrays.iter().try_fold(Record::new(), |record, (name, array)| Ok(record.with(name, array.row(row)?)))
        })))
    }

    fn len(&self) -> Option<u64> {
        Some(self.examples as u64)
    }

    fn indices(&self, _: Pass, position: u64) -> Option<Indices> {
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(self.examples);
        Some(Box::new(start..self.examples))
    }

    fn gather(&self, rows: &[usize]) -> Result<Record> {
        let gathered = self.arrays.iter().map(|(name, array)| Ok((name, array.gather_rows(rows)?)));
        gathered
            .collect::<Result<Vec<_>>>()
            .map(|entries| entries.into_iter().fold(Record::new(), |record, (name, array)| record.with(name, array)))
    }

    fn describe(&self, out: &mut String) {
        let arrays: Vec<_> = self
            .arrays
            .iter()
            .map(|(name, array)| {
                format!("{name} {}{:?} crc {:08x}", array.dtype(), &array.dims()[1..], array.sample_checksum())
            })
            .collect();
        out.push_str(&format!("arrays({} examples; {})", self.examples, arrays.join("; ")));
    }
}

/// How many records a description looks at.
const SAMPLED: usize = 64;

/// Records in memory.
pub(crate) struct Records {
    records: Arc<Vec<Record>>,
}

impl Records {
    pub(crate) fn new(records: Vec<Record>) -> Self {
        Self { records: Arc::new(records) }
    }
}

impl Stage for Records {
    fn open(&self, _: Pass, position: u64) -> Result<Stream> {
        let records = Arc::clone(&self.records);
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(records.len());
        Ok(Stream::new((start..records.len()).map(move |index| Ok(records[index].clone()))))
    }

    fn len(&self) -> Option<u64> {
        Some(self.records.len() as u64)
    }

    fn describe(&self, out: &mut String) {
        // Records from the first to the last, evenly spread: not only their values, but what they are called and how they lie.
        let (count, last) = (self.records.len(), self.records.len().saturating_sub(1));
        let sampled = (0..count.min(SAMPLED)).map(|at| if count <= SAMPLED { at } else { at * last / (SAMPLED - 1) });
        let mut hasher = crc32fast::Hasher::new();
        for (name, array) in sampled.filter_map(|at| self.records.get(at)).flat_map(Record::iter) {
            let words = format!("{name:?} {}{:?} {:08x};", array.dtype(), array.dims(), array.sample_checksum());
            hasher.update(words.as_bytes());
        }
        out.push_str(&format!("records({count} examples, crc {:08x})", hasher.finalize()));
    }
}

type Open = dyn Fn() -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> + Send + Sync;

/// Records from an iterator of the user's.
pub(crate) struct FromFn {
    open: Box<Open>,
}

impl FromFn {
    pub(crate) fn new<I>(open: impl Fn() -> Result<I> + Send + Sync + 'static) -> Self
    where
        I: Iterator<Item = Result<Record>> + Send + 'static,
    {
        Self { open: Box::new(move || Ok(Box::new(open()?))) }
    }
}

impl Stage for FromFn {
    fn open(&self, _: Pass, position: u64) -> Result<Stream> {
        let opened = unwind::catch(|| (self.open)());
        let records = opened.map_err(|panic| {
            Error::new(ErrorKind::Data, format!("the input function panicked when it was opened: {panic}"))
        })??;
        let mut records = numbered(records, 0);
        for skipped in 0..position {
            match records.next() {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => {
                    log::warn!("the input has only {skipped} records, expected to skip {position}");
                    break;
                }
            }
        }
        Ok(Stream::new(records))
    }

    fn len(&self) -> Option<u64> {
        None
    }

    fn describe(&self, out: &mut String) {
        out.push_str("function");
    }
}
