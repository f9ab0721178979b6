//! Several inputs of one stage, drawn from by chance.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::Dataset;
use crate::data::concatenate::check_branches;
use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::flat_map::skip_records;
use crate::{Error, ErrorKind, Result};

struct Sample {
    branches: Vec<Arc<dyn Stage>>,
    weights: Vec<f64>,
}

impl Dataset {
    /// Each record from a dataset drawn by weight: classes of unequal size brought to equal shares, or corpora mixed. The
    /// draws follow from the seed of the run and the pass. A dataset that has ended is no longer drawn, and the weights of
    /// the others decide; with [`repeat_forever`](Dataset::repeat_forever) on each, the shares hold throughout.
    ///
    /// Opening fails with [`ErrorKind::InvalidArgument`] for no datasets, weights that are not finite and above 0, or when
    /// only some give batches.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let only = |n: i64| Dataset::from_records(vec![Record::new().with("n", n)]).repeat_forever();
    /// let mixed = Dataset::sample_weighted([(only(0), 3.0), (only(1), 1.0)]).batch(1000);
    /// let batch = mixed.open(7, 0, 0)?.next().unwrap()?;
    /// let ones: i64 = batch.get("n")?.as_slice::<i64>()?.iter().sum();
    /// assert!((200..300).contains(&ones));
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    pub fn sample_weighted(datasets: impl IntoIterator<Item = (Self, f64)>) -> Self {
        let (branches, weights) = datasets.into_iter().map(|(dataset, weight)| (dataset.stage, weight)).unzip();
        Self::from_stage(Sample { branches, weights })
    }
}

/// Draws datasets until all have ended. Fixed for ever: saved positions depend on it.
struct Draw {
    rng: ChaCha8Rng,
    weights: Vec<f64>,
}

impl Draw {
    fn next(&mut self) -> Option<usize> {
        let total: f64 = self.weights.iter().sum();
        if total <= 0.0 {
            return None;
        }
        let mut rest = self.rng.r#gen::<f64>() * total;
        let chosen = self.weights.iter().position(|&weight| {
            rest -= weight;
            rest < 0.0
        });
        // Rounding may leave a little over at the end.
        chosen.or_else(|| self.weights.iter().rposition(|&weight| weight > 0.0))
    }

    fn has_ended(&mut self, index: usize) {
        self.weights[index] = 0.0;
    }
}

impl Stage for Sample {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        check_branches("sample_weighted", &self.branches)?;
        if let Some(bad) = self.weights.iter().find(|&&weight| !(weight > 0.0 && weight.is_finite())) {
            let message = format!("sample_weighted: found the weight {bad}, expected finite numbers above 0");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if !self.weights.iter().sum::<f64>().is_finite() {
            let message = "sample_weighted: the sum of the weights is too large for a number";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let rng = ChaCha8Rng::seed_from_u64(pass.stage_seed(self.depth()));
        let mut draw = Draw { rng, weights: self.weights.clone() };
        let mut taken = vec![0u64; self.branches.len()];
        let lens = self.branches.iter().map(|branch| if branch.is_endless() { Some(u64::MAX) } else { branch.len() });
        let lens: Option<Vec<u64>> = lens.collect();
        // With lengths known, only the draws before the position are made again, and not the records.
        let mut skip = position;
        while let (Some(lens), 1..) = (&lens, skip) {
            let Some(index) = draw.next() else { break };
            if taken[index] == lens[index] {
                draw.has_ended(index);
            } else {
                (taken[index], skip) = (taken[index] + 1, skip - 1);
            }
        }
        let streams = self.branches.iter().zip(&taken).enumerate();
        let streams = streams.map(|(index, (branch, &taken))| branch.open(pass.branch(index), taken));
        let mut streams = streams.collect::<Result<Vec<Stream>>>()?;
        let records = std::iter::from_fn(move || {
            loop {
                let index = draw.next()?;
                match streams[index].next() {
                    Some(record) => return Some(record),
                    None => draw.has_ended(index),
                }
            }
        });
        skip_records(records, if lens.is_some() { 0 } else { position })
    }

    fn len(&self) -> Option<u64> {
        self.branches.iter().try_fold(0u64, |sum, branch| sum.checked_add(branch.len()?))
    }

    fn depth(&self) -> u64 {
        self.branches.iter().map(|branch| branch.depth()).max().unwrap_or(0) + 1
    }

    fn branches(&self) -> &[Arc<dyn Stage>] {
        &self.branches
    }

    fn is_endless(&self) -> bool {
        self.branches.iter().any(|branch| branch.is_endless())
    }

    fn describe(&self, out: &mut String) {
        out.push_str(&format!("sample_weighted({:?})", self.weights));
    }
}
