//! Networks: the trait that names their parameters, and the layers.

mod activation;
mod attention;
#[doc(hidden)]
pub mod backend;
mod concatenate;
mod conv1d;
mod conv2d;
mod conv_block;
mod cpu;
mod crf;
mod ctc;
mod ctc_beam;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod dfdx_module;
mod dropout;
mod embedding;
mod flatten;
mod ids;
mod init;
mod layer;
mod linear;
mod loss;
mod mask;
mod network;
mod norm;
mod parameter;
mod pattern;
mod pool2d;
mod random;
mod recurrent;
#[doc(hidden)]
pub mod reference;
mod sum;
mod top_k;
mod transformer;
pub(crate) mod variables;
mod window;

pub use activation::Activation;
pub use attention::MultiHeadAttention;
pub use concatenate::{Along, Concatenate, concatenate};
pub use conv_block::{ConvBlock, ConvBlockBuilder};
pub use conv1d::{AvgPool1D, Conv1D, Conv1DBuilder, GlobalPool1D, MaxPool1D};
pub use conv2d::{Conv2D, Conv2DBuilder};
pub use crf::{Crf, TagPath};
pub use ctc::{Ctc, Labelling};
pub use dfdx_module::Dfdx;
pub use dropout::Dropout;
pub use embedding::{Bags, Combiner, Embedding, EmbeddingBag, EmbeddingBuilder};
pub use flatten::{Flatten, FlattenLayer, flatten};
pub use ids::Ids;
pub use init::Init;
pub use layer::Layer;
pub use linear::{Linear, LinearBuilder, LinearInput, linear_with};
pub use loss::{CrossEntropy, Logits, Loss, sparse_cross_entropy};
pub(crate) use mask::{check_lengths, mask_values};
pub use mask::{mask_after_end, max_over_time, mean_over_time, sequence_mask};
pub use network::{Network, Part, PartMut, Visitor, VisitorMut};
pub use norm::{BatchNorm, LayerNorm};
#[cfg(feature = "cuda")]
pub(crate) use parameter::Loan;
pub(crate) use parameter::read;
pub use parameter::{Parameter, host_reads};
pub(crate) use pattern::matches;
pub use pool2d::{AvgPool2D, GlobalPool2D, MaxPool2D};
pub use random::RandomStream;
pub use recurrent::{
    BiGru, BiLstm, Gru, GruBuilder, Lstm, LstmBuilder, RecurrentOutput, RecurrentState, RecurrentWeights,
};
pub use sum::{mean, sum};
pub use top_k::top_k;
pub use transformer::{NormPosition, TransformerBlock, TransformerBlockBuilder};
#[doc(hidden)]
pub use window::Window;
pub use window::{Padding, Size2};

/// A tensor of dfdx on device `D`: `Tensor<(usize, Const<10>), D>`; with a third parameter, the tape that records it.
pub type Tensor<S, D, T = dfdx::tensor::NoneTape> = dfdx::tensor::Tensor<S, f32, D, T>;

/// The tape of a training step on device `D`: what the tensors of a forward pass carry while it is recorded.
pub type StepTape<D> = dfdx::tensor::OwnedTape<f32, D>;

/// The gradients of a backward pass on device `D`, by tensor.
pub type Gradients<D> = dfdx::tensor::Gradients<f32, D>;
