//! The linear-chain conditional random field.

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::backend::Transitions;
use crate::nn::mask::check_lengths;
use crate::nn::{Init, Network, Parameter, Tensor, Visitor, VisitorMut, read};
use crate::{Device, ModelError, ModelResult};

/// A linear-chain conditional random field (Lafferty et al. 2001): the last layer of a tagger, which scores whole sequences
/// of tags by their emissions `(batch, length, tags)`, by transitions from tag to tag, and by which tags start and end.
///
/// ```
/// use elistimator::nn::{Crf, Tensor};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let crf = Crf::new(&device, 3)?;
/// let emissions: Tensor<(usize, usize, usize), Cpu> =
///     dfdx::tensor::TensorFromVec::tensor_from_vec(&device, vec![0.1; 24], (2, 4, 3));
/// let losses = crf.negative_log_likelihood(emissions.clone(), &[0, 1, 2, 0, 1, 1, 0, 0], &[4, 2])?; // one per sequence
/// let paths = crf.decode(&emissions, &[4, 2])?;
/// assert_eq!(paths[1].tags.len(), 2);
/// # drop(losses);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Crf<D: Device, K: Dim = usize> {
    /// `(tags, tags)`: the score of going from a tag (row) to the next (column).
    pub transitions: Parameter<D>,
    /// `(tags)`: the score of starting with a tag.
    pub start: Parameter<D>,
    /// `(tags)`: the score of ending with a tag.
    pub end: Parameter<D>,
    tags: K,
}

/// The best tags of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct TagPath {
    /// A tag per step.
    pub tags: Vec<usize>,
    /// The path's score, before normalisation.
    pub score: f32,
}

impl<D: Device, K: Dim> Crf<D, K> {
    /// A field over so many tags, with scores uniform in ±0.1.
    ///
    /// # Errors
    /// When there is no tag or memory runs out.
    pub fn new(device: &D, tags: K) -> ModelResult<Self> {
        let count = tags.size();
        if count == 0 {
            return Err(ModelError::msg("conditional random field: found 0 tags, expected at least 1"));
        }
        let init = Init::Uniform(-0.1, 0.1);
        Ok(Self {
            transitions: Parameter::new(device, &[count, count], &init, (count, count))?,
            start: Parameter::new(device, &[count], &init, (1, count))?,
            end: Parameter::new(device, &[count], &init, (count, 1))?,
            tags,
        })
    }

    /// `-log p(tags | emissions)` of each sequence: `(batch)`. Tags are `(batch, length)` in row-major order; those after a
    /// sequence's end count for nothing. A sequence of length 0 has the value 0.
    ///
    /// # Errors
    /// When the numbers of tags or lengths do not fit, or a tag or length is impossible.
    pub fn negative_log_likelihood<B: Dim, L: Dim, T: Tape<f32, D>>(
        &self,
        emissions: Tensor<(B, L, K), D, T>,
        tags: &[usize],
        lengths: &[usize],
    ) -> ModelResult<Tensor<(B,), D, T>> {
        let batch = emissions.shape().0;
        let dims = self.check(emissions.shape(), lengths)?;
        if tags.len() != dims.0 * dims.1 {
            return Err(ModelError::msg(format!(
                "conditional random field: found {} tags, expected {} for {} sequences of {}",
                tags.len(),
                dims.0 * dims.1,
                dims.0,
                dims.1
            )));
        }
        for (row, end) in lengths.iter().enumerate() {
            for (step, tag) in tags[row * dims.1..][..*end].iter().enumerate() {
                if *tag >= dims.2 {
                    return Err(ModelError::msg(format!(
                        "conditional random field: found the tag {tag} at step {step} of sequence {row}, expected one below \
                         {}",
                        dims.2
                    )));
                }
            }
        }
        let emissions = emissions.try_reshape_like(&dims)?;
        if dims.1 == 0 {
            // Without a step there is nothing to be wrong about, but the tape has to go on.
            let zeros = emissions.device().try_tensor_from_vec(vec![0.0; dims.0], (batch,))?;
            let (_, tape) = dfdx::tensor::SplitTape::split_tape(emissions);
            return Ok(dfdx::tensor::PutTape::put_tape(zeros, tape));
        }
        let transitions = Transitions { between: &self.transitions, start: &self.start, end: &self.end };
        Ok(D::crf(emissions, transitions, tags, lengths)?.try_reshape_like(&(batch,))?)
    }

    /// The best path of each sequence and its score, by the algorithm of Viterbi (1967). Of equal paths the one with lower
    /// tags wins. Reads the emissions from the device.
    ///
    /// # Errors
    /// When the number of lengths does not fit, or one is impossible.
    pub fn decode<B: Dim, L: Dim, T>(
        &self,
        emissions: &Tensor<(B, L, K), D, T>,
        lengths: &[usize],
    ) -> ModelResult<Vec<TagPath>> {
        let (_, length, count) = self.check(emissions.shape(), lengths)?;
        if length == 0 {
            return Ok(lengths.iter().map(|_| TagPath { tags: Vec::new(), score: 0.0 }).collect());
        }
        let emissions = read(emissions);
        let (between, start, end) = (self.transitions.values(), self.start.values(), self.end.values());
        let sequences = emissions.chunks_exact(length * count).zip(lengths);
        Ok(sequences.map(|(emissions, steps)| best(&emissions[..steps * count], &between, &start, &end)).collect())
    }

    fn check<B: Dim, L: Dim>(&self, shape: &(B, L, K), lengths: &[usize]) -> ModelResult<(usize, usize, usize)> {
        let dims = (shape.0.size(), shape.1.size(), shape.2.size());
        if dims.2 != self.tags.size() {
            return Err(ModelError::msg(format!(
                "conditional random field: found emissions of {} tags, expected {}",
                dims.2,
                self.tags.size()
            )));
        }
        check_lengths("conditional random field", lengths, dims.0, dims.1)?;
        Ok(dims)
    }
}

fn best(emissions: &[f32], between: &[f32], start: &[f32], end: &[f32]) -> TagPath {
    let count = start.len();
    let mut scores = Vec::new();
    let mut came_from = Vec::with_capacity(emissions.len());
    for (step, emissions) in emissions.chunks_exact(count).enumerate() {
        if step == 0 {
            scores = start.iter().zip(emissions).map(|(s, e)| s + e).collect();
            continue;
        }
        let mut next = Vec::with_capacity(count);
        for tag in 0..count {
            let paths = scores.iter().enumerate().map(|(from, score)| score + between[from * count + tag]);
            let (from, score) = first_largest(paths);
            came_from.push(from);
            next.push(score + emissions[tag]);
        }
        scores = next;
    }
    if scores.is_empty() {
        return TagPath { tags: Vec::new(), score: 0.0 };
    }
    let (mut tag, score) = first_largest(scores.iter().zip(end).map(|(s, e)| s + e));
    let mut tags = vec![tag];
    for step in came_from.chunks_exact(count).rev() {
        tag = step[tag];
        tags.push(tag);
    }
    tags.reverse();
    TagPath { tags, score }
}

/// The first of the largest values, with its index.
fn first_largest(values: impl Iterator<Item = f32>) -> (usize, f32) {
    values.enumerate().fold((0, f32::NEG_INFINITY), |best, (at, value)| if value > best.1 { (at, value) } else { best })
}

impl<D: Device, K: Dim> Network<D> for Crf<D, K> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.parameter("transitions", &self.transitions)?;
        visitor.parameter("start", &self.start)?;
        visitor.parameter("end", &self.end)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.parameter("transitions", &mut self.transitions)?;
        visitor.parameter("start", &mut self.start)?;
        visitor.parameter("end", &mut self.end)
    }
}
