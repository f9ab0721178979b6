//! A new order in every pass.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::Record;
use crate::data::dataset::{Indices, Pass, Stage, Stream};
use crate::data::flat_map::skip_records;
use crate::{Error, ErrorKind, Result};

pub(crate) struct Shuffle {
    pub(crate) input: Arc<dyn Stage>,
    pub(crate) buffer: usize,
}

impl Shuffle {
    fn rng(&self, pass: Pass) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(pass.stage_seed(self.depth()))
    }
}

/// Draws from a buffer that is refilled from behind.
struct Shuffled<I: Iterator> {
    input: I,
    buffer: Vec<I::Item>,
    capacity: usize,
    rng: ChaCha8Rng,
    is_error: fn(&I::Item) -> bool,
}

impl<I: Iterator> Iterator for Shuffled<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        while self.buffer.len() < self.capacity {
            match self.input.next() {
                // At once: behind an error often comes nothing, and a buffer that is not refilled gives another order than the
                // one that goes on from here when the pass is opened again.
                Some(item) if (self.is_error)(&item) => return Some(item),
                Some(item) => self.buffer.push(item),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let chosen = self.rng.gen_range(0..self.buffer.len());
        Some(self.buffer.swap_remove(chosen))
    }
}

impl Stage for Shuffle {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        if self.buffer == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "shuffle: found a buffer of 0, expected at least 1"));
        }
        if let Some(indices) = self.indices(pass, position) {
            let input = Arc::clone(&self.input);
            return Ok(Stream::new(indices.zip(position..).map(move |(row, number)| {
                let row = input.gather(&[row]).and_then(|batch| first_row(&batch));
                row.map_err(|error| error.at(format_args!("shuffle: element {number}")))
            })));
        }
        let input = self.input.open(pass, 0)?;
        let shuffled = Shuffled {
            input,
            buffer: Vec::new(),
            capacity: self.buffer,
            rng: self.rng(pass),
            is_error: Result::is_err,
        };
        skip_records(shuffled, position)
    }

    fn len(&self) -> Option<u64> {
        self.input.len()
    }

    fn depth(&self) -> u64 {
        self.input.depth() + 1
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn indices(&self, pass: Pass, position: u64) -> Option<Indices> {
        // Without rows by number the next stage opens this one, which refuses a buffer of 0.
        if self.buffer == 0 {
            return None;
        }
        let input = self.input.indices(pass, 0)?;
        let shuffled =
            Shuffled { input, buffer: Vec::new(), capacity: self.buffer, rng: self.rng(pass), is_error: |_| false };
        Some(Box::new(shuffled.skip(usize::try_from(position).unwrap_or(usize::MAX))))
    }

    fn gather(&self, rows: &[usize]) -> Result<Record> {
        self.input.gather(rows)
    }

    fn describe(&self, out: &mut String) {
        out.push_str(&format!("shuffle({})", self.buffer));
    }
}

/// The only example of a batch of one.
pub(crate) fn first_row(batch: &Record) -> Result<Record> {
    batch.iter().try_fold(Record::new(), |record, (name, array)| Ok(record.with(name, array.row(0)?)))
}
