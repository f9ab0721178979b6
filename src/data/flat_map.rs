//! Several records, or none, from each one.

use std::sync::Arc;

use crate::Result;
use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::stages::guard;
use crate::data::{Dataset, Record};

type FlatMapFn = dyn Fn(Record) -> Result<Vec<Record>> + Send + Sync;

struct FlatMap {
    input: Arc<dyn Stage>,
    f: Arc<FlatMapFn>,
}

impl Dataset {
    /// Turns every record into several, or none: a document into its sentences, an image into crops. An error or a panic in
    /// `f` reaches the caller with the number of the record that `f` was given. A position is reached by skipping.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let texts = Dataset::from_records(vec![Record::new().with("text", "a b"), Record::new().with("text", "c")]);
    /// let words = texts.flat_map(|record| {
    ///     let text = record.get("text")?.as_slice::<String>()?[0].clone();
    ///     Ok(text.split(' ').map(|word| Record::new().with("word", word)).collect())
    /// });
    /// assert_eq!(words.open(0, 0, 0)?.count(), 3);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    pub fn flat_map(self, f: impl Fn(Record) -> Result<Vec<Record>> + Send + Sync + 'static) -> Self {
        Self::from_stage(FlatMap { input: self.stage, f: Arc::new(f) })
    }
}

impl Stage for FlatMap {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        let f = Arc::clone(&self.f);
        // How many records each one gives is not known, so they are counted from the beginning.
        let groups = self
            .input
            .open(pass, 0)?
            .zip(0u64..)
            .map(move |(record, number)| record.and_then(|record| guard("flat_map", number, || f(record))));
        let records = groups.flat_map(|group| {
            let (records, error) = match group {
                Ok(records) => (records, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            records.into_iter().map(Ok).chain(error.map(Err))
        });
        skip_records(records, position)
    }

    fn len(&self) -> Option<u64> {
        None
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn batch_size(&self) -> Option<u64> {
        None
    }

    fn describe(&self, out: &mut String) {
        out.push_str("flat_map");
    }
}

/// Reaches a position by making the records before it; an error among them is one of opening.
pub(crate) fn skip_records(
    mut records: impl Iterator<Item = Result<Record>> + Send + 'static,
    position: u64,
) -> Result<Stream> {
    for _ in 0..position {
        match records.next() {
            Some(record) => drop(record?),
            None => break,
        }
    }
    Ok(Stream::new(records))
}
