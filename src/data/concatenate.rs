//! Several inputs of one stage, one after the other.

use std::sync::Arc;

use crate::data::Dataset;
use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::flat_map::skip_records;
use crate::{Error, ErrorKind, Result};

/// Batches and single examples cannot come from one stage.
pub(crate) fn check_branches(stage: &str, branches: &[Arc<dyn Stage>]) -> Result<()> {
    let Some(first) = branches.first() else {
        let message = format!("{stage}: found no dataset, expected at least one");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    };
    if branches.iter().any(|branch| branch.is_batched() != first.is_batched()) {
        let message =
            format!("{stage}: some datasets give batches and others examples; batch all of them, or the result");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(())
}

struct Concatenate {
    branches: [Arc<dyn Stage>; 2],
}

impl Dataset {
    /// The records of this one and then those of the other: two files of one format, or data and its augmented copy.
    /// Shuffle afterwards to mix them. Opening fails with [`ErrorKind::InvalidArgument`] when only one gives batches.
    #[must_use]
    pub fn concatenate(self, other: Self) -> Self {
        Self::from_stage(Concatenate { branches: [self.stage, other.stage] })
    }
}

impl Stage for Concatenate {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        check_branches("concatenate", &self.branches)?;
        let [first, second] = &self.branches;
        let len = if first.is_endless() { Some(u64::MAX) } else { first.len() };
        if let Some(len) = len.filter(|&len| position >= len) {
            return second.open(pass.branch(1), position - len);
        }
        let start = if len.is_some() { position } else { 0 };
        let mut records = first.open(pass.branch(0), start)?;
        let mut second = Some(Arc::clone(second));
        let both = std::iter::from_fn(move || {
            loop {
                if let Some(record) = records.next() {
                    return Some(record);
                }
                match second.take()?.open(pass.branch(1), 0) {
                    Ok(more) => records = more,
                    Err(error) => return Some(Err(error)),
                }
            }
        });
        skip_records(both, position - start)
    }

    fn len(&self) -> Option<u64> {
        self.branches.iter().try_fold(0u64, |sum, branch| sum.checked_add(branch.len()?))
    }

    fn branches(&self) -> &[Arc<dyn Stage>] {
        &self.branches
    }

    fn is_endless(&self) -> bool {
        self.branches.iter().any(|branch| branch.is_endless())
    }

    fn describe(&self, out: &mut String) {
        out.push_str("concatenate");
    }
}
