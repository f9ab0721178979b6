//! Tables of vectors.

use std::marker::PhantomData;

use dfdx::shapes::Dim;
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::{
    Activation, Ids, Init, Layer, LinearInput, Network, Parameter, Tensor, Visitor, VisitorMut, linear_with,
};
use crate::{Device, Error, ErrorKind, ModelError, ModelResult};

/// A vector for each entry of a vocabulary: [`Ids`] `(batch, length)` to `(batch, length, size)`, or `(batch)` to `(batch,
/// size)`. `weight` is `(entries, size)`. The row of the padding index starts as zeros and is not trained by being looked up.
/// A frozen table is not trained at all.
///
/// ```
/// use elistimator::nn::{Embedding, Ids, Init, Layer};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let words = Embedding::builder(4, 2).padding(0).build(&device)?;
/// let given = Embedding::builder(2, 3).weights(Init::Values(vec![0.5; 6])).frozen().build(&device)?;
/// let vectors = words.forward(Ids::new(vec![1, 2, 3, 1, 0, 0], (2, 3))?)?;
/// assert_eq!(dfdx::shapes::HasShape::shape(&vectors), &(2, 3, 2));
/// # drop(given);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Embedding<D: Device, E: Dim = usize> {
    /// `(entries, size)`.
    pub weight: Parameter<D>,
    entries: usize,
    size: E,
    padding: Option<usize>,
}

/// The options of an [`Embedding`] before it is built.
#[derive(Debug, Clone)]
pub struct EmbeddingBuilder<D, E: Dim> {
    entries: usize,
    size: E,
    padding: Option<usize>,
    weights: Init,
    frozen: bool,
    device: PhantomData<fn(&D)>,
}

impl<D: Device, E: Dim> Embedding<D, E> {
    /// A trainable table with normally distributed values of variance 1 / `size`.
    ///
    /// # Errors
    /// When a size is 0 or memory runs out.
    pub fn new(device: &D, entries: usize, size: E) -> ModelResult<Self> {
        Self::builder(entries, size).build(device)
    }

    /// A table with options.
    pub fn builder(entries: usize, size: E) -> EmbeddingBuilder<D, E> {
        let weights = Init::Normal(0.0, 1.0 / (size.size().max(1) as f32).sqrt());
        EmbeddingBuilder { entries, size, padding: None, weights, frozen: false, device: PhantomData }
    }

    /// The number of entries of the vocabulary.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The products of each vector with every entry's: `(batch, size)` to `(batch, entries)`, or `(batch, length, size)` to
    /// `(batch, length, entries)` as a language model needs. An output layer whose weights are tied to the table (Press and
    /// Wolf 2017), which is saved once and receives the gradients of both. The padding's entry is a class like any other here, and
    /// its vector is trained by being one, as in PyTorch.
    ///
    /// ```
    /// use elistimator::nn::{Embedding, Ids, Layer};
    /// use elistimator::{Device, DeviceSpec, device::Cpu};
    /// # fn main() -> elistimator::ModelResult<()> {
    /// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
    /// let words = Embedding::new(&device, 100, 16)?;
    /// let vectors = words.forward(Ids::new(vec![1, 2, 3, 1, 0, 0], (2, 3))?)?;
    /// let logits = words.logits(vectors)?;
    /// assert_eq!(dfdx::shapes::HasShape::shape(&logits), &(2, 3, 100));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn logits<X: LinearInput<D, Inputs = E>>(&self, x: X) -> ModelResult<X::Output> {
        linear_with(x, &self.weight, None, Activation::Identity)
    }

    fn look_up<T: Tape<f32, D>>(&self, ids: Vec<usize>, tape: T) -> ModelResult<Tensor<(usize, usize), D, T>> {
        check_ids("embedding", &ids, self.entries)?;
        D::embedding(&self.weight, ids, self.padding, tape)
    }
}

/// Refuses ids that are not in the table, which are undefined behaviour or a crash on some devices.
pub(crate) fn check_ids(layer: &str, ids: &[usize], entries: usize) -> ModelResult<()> {
    match ids.iter().position(|id| *id >= entries) {
        Some(at) => {
            let id = ids[at];
            let message = format!(
                "{layer}: found the id {id} at position {at}, expected one below the {entries} entries of the table"
            );
            Err(Error::new(ErrorKind::Signature, message).into())
        }
        None => Ok(()),
    }
}

impl<D: Device, E: Dim> EmbeddingBuilder<D, E> {
    /// How the vectors start; give those of another program as [`Init::Values`].
    #[must_use]
    pub fn weights(mut self, init: Init) -> Self {
        self.weights = init;
        self
    }

    /// The entry that stands for nothing: its vector starts as zeros, unless values are given, and is not trained.
    #[must_use]
    pub fn padding(mut self, id: usize) -> Self {
        self.padding = Some(id);
        self
    }

    /// Keeps the table out of training.
    #[must_use]
    pub fn frozen(mut self) -> Self {
        self.frozen = true;
        self
    }

    /// Makes the table.
    ///
    /// # Errors
    /// When a size is 0, the padding is no entry, given values do not fit, or memory runs out.
    pub fn build(self, device: &D) -> ModelResult<Embedding<D, E>> {
        let size = self.size.size();
        if self.entries == 0 || size == 0 {
            let message =
                format!("embedding: found {} entries of {size} values, expected at least 1 of each", self.entries);
            return Err(ModelError::msg(message));
        }
        let dims = [self.entries, size];
        let mut weight = Parameter::new(device, &dims, &self.weights, (self.entries, size))?;
        if let Some(padding) = self.padding {
            check_ids("padding of the embedding", &[padding], self.entries)?;
            if !matches!(self.weights, Init::Values(_)) {
                let mut values = weight.values();
                values[padding * size..(padding + 1) * size].fill(0.0);
                weight.set_values(&values)?;
            }
        }
        weight.set_trainable(!self.frozen);
        Ok(Embedding { weight, entries: self.entries, size: self.size, padding: self.padding })
    }
}

impl<D: Device, E: Dim> Network<D> for Embedding<D, E> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight", &self.weight)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight", &mut self.weight)
    }
}

impl<B: Dim, D: Device, E: Dim, T: Tape<f32, D>> Layer<Ids<(B,), T>> for Embedding<D, E> {
    type Output = Tensor<(B, E), D, T>;

    fn forward(&self, ids: Ids<(B,), T>) -> ModelResult<Self::Output> {
        Ok(self.look_up(ids.values, ids.tape)?.try_reshape_like(&(ids.shape.0, self.size))?)
    }
}

impl<B: Dim, L: Dim, D: Device, E: Dim, T: Tape<f32, D>> Layer<Ids<(B, L), T>> for Embedding<D, E> {
    type Output = Tensor<(B, L, E), D, T>;

    fn forward(&self, ids: Ids<(B, L), T>) -> ModelResult<Self::Output> {
        Ok(self.look_up(ids.values, ids.tape)?.try_reshape_like(&(ids.shape.0, ids.shape.1, self.size))?)
    }
}

/// How an [`EmbeddingBag`] makes one vector of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Combiner {
    /// The weighted mean.
    #[default]
    Mean,
    /// The weighted sum.
    Sum,
    /// The weighted sum divided by the root of the sum of squared weights (TensorFlow's `sqrtn`).
    SqrtN,
}

/// Bags of ids, one for each example, of any sizes, with a weight for each id if wanted.
///
/// ```
/// use elistimator::nn::Bags;
/// # fn main() -> elistimator::ModelResult<()> {
/// let bags = Bags::new([vec![3, 1, 4], vec![], vec![1]]);
/// let weighted = Bags::new([vec![3, 1], vec![4]]).weighted([vec![0.5, 0.5], vec![2.0]])?;
/// # drop((bags, weighted));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Bags<T = dfdx::tensor::NoneTape> {
    ids: Vec<usize>,
    sizes: Vec<usize>,
    weights: Option<Vec<f32>>,
    tape: T,
}

impl Bags {
    /// Bags of ids.
    pub fn new<B: AsRef<[usize]>>(bags: impl IntoIterator<Item = B>) -> Self {
        let (mut ids, mut sizes) = (Vec::new(), Vec::new());
        for bag in bags {
            ids.extend_from_slice(bag.as_ref());
            sizes.push(bag.as_ref().len());
        }
        Self { ids, sizes, weights: None, tape: dfdx::tensor::NoneTape }
    }

    /// Gives each id a weight.
    ///
    /// # Errors
    /// When a bag has another number of weights than ids.
    pub fn weighted<W: AsRef<[f32]>>(mut self, weights: impl IntoIterator<Item = W>) -> ModelResult<Self> {
        let (mut all, mut sizes) = (Vec::with_capacity(self.ids.len()), Vec::new());
        for weights in weights {
            all.extend_from_slice(weights.as_ref());
            sizes.push(weights.as_ref().len());
        }
        if sizes != self.sizes {
            let message = format!("bags: found weights for bags of sizes {sizes:?}, expected {:?}", self.sizes);
            return Err(ModelError::msg(message));
        }
        self.weights = Some(all);
        Ok(self)
    }

    /// The same bags with the tape of a training step.
    pub fn traced<T>(self, tape: T) -> Bags<T> {
        Bags { ids: self.ids, sizes: self.sizes, weights: self.weights, tape }
    }
}

/// One vector for each bag of ids: the mean, sum or root-scaled sum of their vectors. The bag-of-words model's first layer.
/// [`Bags`] of `batch` bags to `(batch, size)`; an empty bag gives zeros. `weight` is `(entries, size)`.
///
/// ```
/// use elistimator::nn::{Bags, Combiner, Embedding, EmbeddingBag, Layer};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let layer = EmbeddingBag::new(Embedding::new(&device, 100, 16)?, Combiner::Mean);
/// let vectors = layer.forward(Bags::new([vec![3, 1, 4], vec![1]]))?;
/// assert_eq!(dfdx::shapes::HasShape::shape(&vectors), &(2, 16));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EmbeddingBag<D: Device, E: Dim = usize> {
    table: Embedding<D, E>,
    combiner: Combiner,
}

impl<D: Device, E: Dim> EmbeddingBag<D, E> {
    /// Bags over a table. Ids equal to the table's padding count for nothing.
    pub fn new(table: Embedding<D, E>, combiner: Combiner) -> Self {
        Self { table, combiner }
    }

    /// The table.
    pub fn table(&self) -> &Embedding<D, E> {
        &self.table
    }
}

impl<D: Device, E: Dim> Network<D> for EmbeddingBag<D, E> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        self.table.visit(visitor)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        self.table.visit_mut(visitor)
    }
}

impl<D: Device, E: Dim, T: Tape<f32, D>> Layer<Bags<T>> for EmbeddingBag<D, E> {
    type Output = Tensor<(usize, E), D, T>;

    fn forward(&self, bags: Bags<T>) -> ModelResult<Self::Output> {
        check_ids("embedding bag", &bags.ids, self.table.entries)?;
        let mut factors = bags.weights.unwrap_or_else(|| vec![1.0; bags.ids.len()]);
        let mut start = 0;
        for size in &bags.sizes {
            let (ids, factors) = (&bags.ids[start..start + size], &mut factors[start..start + size]);
            start += size;
            for (factor, id) in factors.iter_mut().zip(ids) {
                if Some(*id) == self.table.padding {
                    *factor = 0.0;
                }
            }
            let divisor = match self.combiner {
                Combiner::Sum => 1.0,
                Combiner::Mean => factors.iter().sum::<f32>(),
                Combiner::SqrtN => factors.iter().map(|factor| factor * factor).sum::<f32>().sqrt(),
            };
            if divisor != 0.0 {
                factors.iter_mut().for_each(|factor| *factor /= divisor);
            }
        }
        let count = bags.sizes.len();
        let y = D::embedding_bag(&self.table.weight, bags.ids, bags.sizes, factors, bags.tape)?;
        Ok(y.try_reshape_like(&(count, self.table.size))?)
    }
}
