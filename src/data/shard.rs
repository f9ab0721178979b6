//! Every n-th record: the part of one process among several.

use std::sync::Arc;

use crate::data::Dataset;
use crate::data::dataset::{Indices, Pass, Stage, Stream};
use crate::{Error, ErrorKind, Result};

struct Shard {
    input: Arc<dyn Stage>,
    count: u64,
    index: u64,
}

impl Dataset {
    /// The `index`-th of `count` parts: the records `index`, `index + count`, and so on. For processes that each train on a
    /// part, or to keep every tenth record for validation. The parts are disjoint, and together they are everything, as
    /// long as all are made of the same pipeline with the same seed; before `shuffle` it costs least.
    ///
    /// Opening fails with [`ErrorKind::InvalidArgument`] unless `index` is below `count`.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let numbers = Dataset::from_arrays(Record::new().with("n", vec![0i64, 1, 2, 3, 4]))?;
    /// assert_eq!((numbers.clone().shard(2, 0).len(), numbers.shard(2, 1).len()), (Some(3), Some(2)));
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    pub fn shard(self, count: u64, index: u64) -> Self {
        Self::from_stage(Shard { input: self.stage, count, index })
    }
}

impl Shard {
    fn start(&self, position: u64) -> u64 {
        position.saturating_mul(self.count).saturating_add(self.index)
    }
}

impl Stage for Shard {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        let (count, index) = (self.count, self.index);
        if index >= count {
            let message = format!("shard: found part {index} of {count}, expected the part below the number of parts");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut records = self.input.open(pass, self.start(position))?;
        let mut others = 0;
        Ok(Stream::new(std::iter::from_fn(move || {
            // An error in the records of other parts is one here, too: after it, nobody knows what is whose.
            for _ in 0..std::mem::replace(&mut others, count - 1) {
                if let Err(error) = records.next()? {
                    return Some(Err(error.at("shard: in a record of another part")));
                }
            }
            records.next()
        })))
    }

    fn len(&self) -> Option<u64> {
        self.input.len().map(|len| len.saturating_sub(self.index).div_ceil(self.count.max(1)))
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn indices(&self, pass: Pass, position: u64) -> Option<Indices> {
        // A wrong part is reported by `open`, which a stage without numbers is asked for.
        let step = usize::try_from(self.count).ok().filter(|_| self.index < self.count)?;
        Some(Box::new(self.input.indices(pass, self.start(position))?.step_by(step)))
    }

    fn gather(&self, rows: &[usize]) -> Result<crate::data::Record> {
        self.input.gather(rows)
    }

    fn describe(&self, out: &mut String) {
        out.push_str(&format!("shard({} of {})", self.index, self.count));
    }
}
