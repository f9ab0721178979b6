//! Several inputs of one stage, side by side.

use std::sync::Arc;

use crate::data::concatenate::check_branches;
use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::{Dataset, Record};
use crate::{Error, ErrorKind, Result};

struct Zip {
    branches: [Arc<dyn Stage>; 2],
}

impl Dataset {
    /// Records side by side, each with the arrays of both: images from one source and labels from another. It ends with the
    /// shorter one. Shuffle afterwards: shuffles in the two differ.
    ///
    /// Opening fails with [`ErrorKind::InvalidArgument`] when only one gives batches; a record is an [`ErrorKind::Data`]
    /// error when both have an array of one name.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let x = Dataset::from_arrays(Record::new().with("x", vec![1f32, 2.0]))?;
    /// let y = Dataset::from_arrays(Record::new().with("y", vec![0i64, 1]))?;
    /// let both = x.zip(y).batch(2).open(0, 0, 0)?.next().unwrap()?;
    /// assert_eq!(both.names().collect::<Vec<_>>(), ["x", "y"]);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    pub fn zip(self, other: Self) -> Self {
        Self::from_stage(Zip { branches: [self.stage, other.stage] })
    }
}

impl Stage for Zip {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        check_branches("zip", &self.branches)?;
        let [left, right] = &self.branches;
        let mut left = left.open(pass.branch(0), position)?;
        let mut right = right.open(pass.branch(1), position)?;
        let mut number = position;
        let mut over = false;
        Ok(Stream::new(std::iter::from_fn(move || {
            if over {
                return None;
            }
            // Both are asked even when the first has failed: they stay side by side.
            let (Some(left), Some(right)) = (left.next(), right.next()) else {
                over = true;
                return None;
            };
            number += 1;
            let joined = left.and_then(|left| join(left, &right?));
            Some(joined.map_err(|error| error.at(format_args!("zip: element {}", number - 1))))
        })))
    }

    fn len(&self) -> Option<u64> {
        let ends = self.branches.iter().filter(|branch| !branch.is_endless());
        ends.map(|branch| branch.len()).try_fold(None, |shortest: Option<u64>, len| {
            len.map(|len| Some(shortest.map_or(len, |shortest| shortest.min(len))))
        })?
    }

    fn branches(&self) -> &[Arc<dyn Stage>] {
        &self.branches
    }

    fn is_endless(&self) -> bool {
        self.branches.iter().all(|branch| branch.is_endless())
    }

    fn may_be_endless(&self) -> bool {
        self.branches.iter().all(|branch| branch.may_be_endless())
    }

    fn describe(&self, out: &mut String) {
        out.push_str("zip");
    }
}

fn join(mut left: Record, right: &Record) -> Result<Record> {
    for (name, array) in right.iter() {
        if left.contains(name) {
            let message = format!("both datasets have an array named {name:?}; rename or remove one in a map");
            return Err(Error::new(ErrorKind::Data, message));
        }
        left.insert(name, array.clone());
    }
    Ok(left)
}
