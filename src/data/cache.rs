//! Records kept in memory once they are made.

use std::sync::{Arc, Mutex, PoisonError};

use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::{Dataset, Record};
use crate::{Error, ErrorKind, Result};

/// The pass whose records caches keep. It is the same for every run, so that what a resumed run finds in a cache does not
/// depend on the pass in which it was resumed.
pub(crate) const CACHED_PASS: Pass = Pass { seed: 0, epoch: 0 };

struct Cache {
    input: Arc<dyn Stage>,
    kept: Arc<Mutex<Kept>>,
}

/// The records made so far, in order, and the stream that the next one comes from.
#[derive(Default)]
struct Kept {
    records: Vec<Record>,
    stream: Option<Stream>,
    is_complete: bool,
}

impl Dataset {
    /// Makes every record once and keeps it in memory for later passes: after decoding, before augmentation and `shuffle`.
    /// All streams of the dataset and of its clones share the records; what one has made, another does not make again.
    ///
    /// Every pass gives the same records in the same order: a shuffle before the cache is the same in all passes and for
    /// all seeds. Memory grows to the whole data; opening fails with [`ErrorKind::InvalidArgument`] for endless data.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let numbers = Dataset::from_arrays(Record::new().with("n", vec![1i64, 2, 3]))?;
    /// let decoded = numbers.map(|record| Ok(record /* slowly */)).cache();
    /// let train = decoded.shuffle(3).batch(2);
    /// # assert_eq!(train.open(0, 0, 0)?.count(), 2);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    pub fn cache(self) -> Self {
        Self::from_stage(Cache { input: self.stage, kept: Arc::default() })
    }
}

/// Data without end fits no memory and no disk.
pub(crate) fn check_finite(stage: &str, input: &Arc<dyn Stage>) -> Result<()> {
    if input.may_be_endless() {
        let message = format!("{stage}: the data has no end; cache before repeating it");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(())
}

impl Kept {
    /// The record of this number, made if it is the next one.
    fn get(&mut self, number: usize, input: &Arc<dyn Stage>) -> Option<Result<Record>> {
        while self.records.len() <= number {
            if self.is_complete {
                return None;
            }
            let stream = match self.stream.take() {
                Some(stream) => stream,
                // Also after an error: the record may be there when it is asked for again.
                None => match input.open(CACHED_PASS, self.records.len() as u64) {
                    Ok(stream) => stream,
                    Err(error) => return Some(Err(error)),
                },
            };
            let stream = self.stream.insert(stream);
            match stream.next() {
                Some(Ok(record)) => self.records.push(record),
                Some(Err(error)) => {
                    self.stream = None;
                    return Some(Err(error));
                }
                None => (self.stream, self.is_complete) = (None, true),
            }
        }
        self.records.get(number).cloned().map(Ok)
    }
}

impl Stage for Cache {
    fn open(&self, _: Pass, position: u64) -> Result<Stream> {
        check_finite("cache", &self.input)?;
        let (input, kept) = (Arc::clone(&self.input), Arc::clone(&self.kept));
        let mut number = usize::try_from(position).unwrap_or(usize::MAX);
        let mut over = false;
        Ok(Stream::new(std::iter::from_fn(move || {
            if over {
                return None;
            }
            let record = kept.lock().unwrap_or_else(PoisonError::into_inner).get(number, &input);
            number = number.saturating_add(1);
            over = !matches!(record, Some(Ok(_)));
            record
        })))
    }

    fn len(&self) -> Option<u64> {
        self.input.len()
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn describe(&self, out: &mut String) {
        out.push_str("cache");
    }
}
