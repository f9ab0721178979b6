//! Several inputs of one stage, taken in turn.

use std::sync::Arc;

use crate::data::concatenate::check_branches;
use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::flat_map::skip_records;
use crate::data::{Dataset, Record};
use crate::{Error, ErrorKind, Result};

struct Interleave {
    branches: Vec<Arc<dyn Stage>>,
    block: u64,
}

impl Dataset {
    /// `block` records of each dataset in turn until all are used up: files of one kind each, mixed without a large shuffle
    /// buffer. One that has ended is left out.
    ///
    /// Opening fails with [`ErrorKind::InvalidArgument`] for no datasets, blocks of 0, or when only some give batches.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let numbers = |values: Vec<i64>| Dataset::from_arrays(Record::new().with("n", values));
    /// let mixed = Dataset::interleave([numbers(vec![1, 2, 3])?, numbers(vec![7])?], 1).batch(4);
    /// assert_eq!(mixed.open(0, 0, 0)?.next().unwrap()?.get("n")?.as_slice::<i64>()?, [1, 7, 2, 3]);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    pub fn interleave(datasets: impl IntoIterator<Item = Self>, block: usize) -> Self {
        let branches = datasets.into_iter().map(|dataset| dataset.stage).collect();
        Self::from_stage(Interleave { branches, block: block as u64 })
    }
}

/// How many records of each there are before a position, and whose turn it is with how many left in its block.
#[derive(Debug, Clone, PartialEq)]
struct Turn {
    taken: Vec<u64>,
    current: usize,
    left: u64,
}

/// The turn at a position, by arithmetic: whole rounds at once until the next dataset runs out.
fn seek(lens: &[u64], block: u64, position: u64) -> Turn {
    let mut turn = Turn { taken: vec![0; lens.len()], current: 0, left: block };
    let mut ahead = position;
    while ahead > 0 {
        let remaining = |turn: &Turn, index: usize| lens[index] - turn.taken[index];
        let active: Vec<usize> = (0..lens.len()).filter(|&index| remaining(&turn, index) > 0).collect();
        let Some(rounds) = active.iter().map(|&index| remaining(&turn, index) / block).min() else { break };
        let rounds = rounds.min(ahead / block.saturating_mul(active.len() as u64));
        active.iter().for_each(|&index| turn.taken[index] += rounds * block);
        ahead -= rounds * block * active.len() as u64;
        // One round piece by piece, in which a dataset may run out or the position be reached.
        for index in 0..lens.len() {
            let step = remaining(&turn, index).min(block).min(ahead);
            turn.taken[index] += step;
            ahead -= step;
            if ahead == 0 {
                (turn.current, turn.left) = (index, block - step);
                return turn;
            }
        }
    }
    turn
}

/// The streams, opened where they are; one that has ended is `None`.
struct Interleaved {
    streams: Vec<Option<Stream>>,
    block: u64,
    current: usize,
    left: u64,
}

impl Iterator for Interleaved {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        // The second time around, every stream has had the chance of a whole block.
        for _ in 0..=self.streams.len() {
            let stream = self.streams.get_mut(self.current)?;
            if self.left > 0
                && let Some(records) = stream
            {
                if let Some(record) = records.next() {
                    self.left -= 1;
                    return Some(record);
                }
                *stream = None;
            }
            self.current = (self.current + 1) % self.streams.len();
            self.left = self.block;
        }
        None
    }
}

impl Stage for Interleave {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        check_branches("interleave", &self.branches)?;
        if self.block == 0 {
            let message = "interleave: found blocks of 0 records, expected at least 1";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let lens = self.branches.iter().map(|branch| if branch.is_endless() { Some(u64::MAX) } else { branch.len() });
        let lens: Option<Vec<u64>> = lens.collect();
        let turn = seek(lens.as_deref().unwrap_or_default(), self.block, position);
        let (turn, skip) = match lens {
            Some(_) => (turn, 0),
            None => (Turn { taken: vec![0; self.branches.len()], current: 0, left: self.block }, position),
        };
        let streams = self.branches.iter().zip(&turn.taken).enumerate();
        let streams = streams.map(|(index, (branch, &taken))| branch.open(pass.branch(index), taken).map(Some));
        let streams = streams.collect::<Result<Vec<_>>>()?;
        skip_records(Interleaved { streams, block: self.block, current: turn.current, left: turn.left }, skip)
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
        out.push_str(&format!("interleave({})", self.block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeking_is_counting() {
        for lens in [vec![5, 0, 9, 2], vec![1], vec![7, 7, 7], vec![0, 0], vec![u64::MAX, 3]] {
            for block in [1, 2, 3, 10, u64::MAX] {
                let (mut taken, mut current, mut left) = (vec![0u64; lens.len()], 0, block);
                for position in 0u64..40 {
                    let found = seek(&lens, block, position);
                    assert_eq!(found.taken, taken, "{lens:?} in blocks of {block} at {position}");
                    // One record further; over when a whole round finds nothing.
                    for _ in 0..=lens.len() {
                        if left > 0 && taken[current] < lens[current] {
                            (taken[current], left) = (taken[current] + 1, left - 1);
                            break;
                        }
                        (current, left) = ((current + 1) % lens.len(), block);
                    }
                }
            }
        }
        assert_eq!(seek(&[u64::MAX, 5], 2, 1 << 60).taken, [(1 << 60) - 5, 5], "at once");
    }
}
