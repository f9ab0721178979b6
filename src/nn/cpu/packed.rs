//! Padded batches of sequences without their padding.

/// Where the real steps of a batch are.
#[derive(Debug)]
pub(super) struct Packed {
    /// Sequences by falling length.
    pub(super) order: Vec<usize>,
    lengths: Vec<usize>,
    /// For each step, its first packed row; one more for the end. The rows of a step are the first ones of `order`.
    starts: Vec<usize>,
    length: usize,
}

impl Packed {
    pub(super) fn new(lengths: &[usize], length: usize) -> Self {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|row| std::cmp::Reverse(lengths[*row]));
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut starts = vec![0];
        for step in 0..longest {
            starts.push(starts[step] + lengths.iter().filter(|length| **length > step).count());
        }
        Self { order, lengths: lengths.to_vec(), starts, length }
    }

    pub(super) fn steps(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) fn rows(&self) -> usize {
        self.starts[self.steps()]
    }

    /// The packed rows of a step.
    pub(super) fn step(&self, step: usize) -> std::ops::Range<usize> {
        self.starts[step]..self.starts[step + 1]
    }

    /// Calls `f` with each packed row and the row of `(batch, length)` it stands for.
    pub(super) fn each(&self, backward: bool, mut f: impl FnMut(usize, usize)) {
        for step in 0..self.steps() {
            for (rank, packed) in self.step(step).enumerate() {
                let row = self.order[rank];
                let place = if backward { self.lengths[row] - 1 - step } else { step };
                f(packed, row * self.length + place);
            }
        }
    }
}
