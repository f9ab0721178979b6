//! The training data and how far the run is in it.

use std::time::{Duration, Instant};

use crate::data::{Dataset, Record, Stream};
use crate::{Error, ErrorKind, Result};

/// Where a run is in its data: so many whole passes, and so many batches of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) batch: u64,
}

/// Hands out the training batches one after another, across calls of the verbs, and knows when an epoch is over.
pub(crate) struct Feed {
    dataset: Dataset,
    seed: u64,
    position: Position,
    /// One batch ahead where the length is unknown: only so is the end of an epoch seen when its last batch is done.
    ahead: Option<Record>,
    stream: Option<Stream>,
    epoch_length: Option<u64>,
    /// How long it took to go to a place within an epoch, until somebody is told.
    sought: Option<(Position, Duration)>,
}

impl Feed {
    pub(crate) fn new(dataset: Dataset, seed: u64, position: Position) -> Self {
        let epoch_length = dataset.len();
        Self { dataset, seed, position, stream: None, ahead: None, epoch_length, sought: None }
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Batches in an epoch: known from the data set, or from the first whole pass.
    pub(crate) fn epoch_length(&self) -> Option<u64> {
        self.epoch_length
    }

    /// Goes to another place; the next batch comes from there.
    pub(crate) fn seek(&mut self, position: Position) {
        (self.ahead, self.stream, self.position) = (None, None, position);
    }

    /// The next batch, without taking it: the first one fixes the signature.
    pub(crate) fn peek(&mut self) -> Result<Option<&Record>> {
        if self.ahead.is_none() {
            self.ahead = self.pull()?;
        }
        Ok(self.ahead.as_ref())
    }

    /// The next batch of this epoch.
    ///
    /// # Errors
    /// Those of the data; and when an epoch has no batch at all.
    pub(crate) fn next(&mut self) -> Result<Record> {
        let batch = match self.ahead.take() {
            Some(batch) => Some(batch),
            None => self.pull()?,
        };
        let Some(batch) = batch else {
            let message = format!(
                "the training data gave no batch in epoch {} after {} batches, expected at least one",
                self.position.epoch + 1,
                self.position.batch
            );
            self.seek(Position { epoch: self.position.epoch, batch: 0 });
            return Err(Error::new(ErrorKind::Data, message));
        };
        self.position.batch += 1;
        Ok(batch)
    }

    /// So many batches, at least one, but none of the next epoch. When one after the first fails, none counts as taken.
    ///
    /// # Errors
    /// Those of [`next`](Self::next).
    pub(crate) fn next_group(&mut self, count: usize) -> Result<Vec<Record>> {
        let start = self.position;
        let mut batches = vec![self.next()?];
        while batches.len() < count {
            match self.is_over().and_then(|over| if over { Ok(None) } else { self.next().map(Some) }) {
                Ok(Some(batch)) => batches.push(batch),
                Ok(None) => break,
                Err(error) => {
                    self.seek(start);
                    return Err(error);
                }
            }
        }
        Ok(batches)
    }

    fn is_over(&mut self) -> Result<bool> {
        match self.dataset.len() {
            Some(length) => Ok(self.position.batch >= length),
            None => Ok(self.peek()?.is_none()),
        }
    }

    /// Looks whether the last batch ended the epoch, and begins the next one if so.
    pub(crate) fn ends_epoch(&mut self) -> Result<bool> {
        let over = self.is_over()?;
        if over {
            self.epoch_length = Some(self.position.batch);
            self.seek(Position { epoch: self.position.epoch + 1, batch: 0 });
        }
        Ok(over)
    }

    fn pull(&mut self) -> Result<Option<Record>> {
        let seeking = (self.stream.is_none() && self.position.batch > 0).then(Instant::now);
        let stream = match &mut self.stream {
            Some(stream) => stream,
            closed => closed.insert(self.dataset.open(self.seed, self.position.epoch, self.position.batch)?),
        };
        // A stream that failed is not asked again: the next call opens it anew, at the batch that failed.
        let batch = stream.next().transpose().inspect_err(|_| self.stream = None)?;
        // A stage that prefetches opens what is behind it when it is asked for a batch.
        self.sought = seeking.map(|begun| (self.position, begun.elapsed())).or(self.sought);
        Ok(batch)
    }

    /// How long it took to go to a place within an epoch, the first time that this is asked after it was done.
    pub(crate) fn take_sought(&mut self) -> Option<(Position, Duration)> {
        self.sought.take()
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Feed at {:?}", self.position)
    }
}
