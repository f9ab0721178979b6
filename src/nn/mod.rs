//! Networks: the trait that names their parameters, and the layers.

mod activation;
#[doc(hidden)]
pub mod backend;
mod conv2d;
mod conv_block;
mod cpu;
mod dfdx_module;
mod dropout;
mod flatten;
mod init;
mod layer;
mod linear;
mod loss;
mod network;
mod parameter;
mod pattern;
mod pool2d;
mod random;
#[doc(hidden)]
pub mod reference;
pub(crate) mod variables;
mod window;

pub use activation::Activation;
pub use conv_block::{ConvBlock, ConvBlockBuilder};
pub use conv2d::{Conv2D, Conv2DBuilder};
pub use dfdx_module::Dfdx;
pub use dropout::Dropout;
pub use flatten::{Flatten, FlattenLayer, flatten};
pub use init::Init;
pub use layer::Layer;
pub use linear::{Linear, LinearBuilder};
pub use loss::sparse_cross_entropy;
pub use network::{Network, Part, PartMut, Visitor, VisitorMut};
pub(crate) use parameter::read;
pub use parameter::{Parameter, host_reads};
pub(crate) use pattern::matches;
pub use pool2d::{AvgPool2D, GlobalPool2D, MaxPool2D};
pub use random::RandomStream;
#[doc(hidden)]
pub use window::Window;
pub use window::{Padding, Size2};

/// A tensor of dfdx on device `D`: `Tensor<(usize, Const<10>), D>`; with a third parameter, the tape that records it.
pub type Tensor<S, D, T = dfdx::tensor::NoneTape> = dfdx::tensor::Tensor<S, f32, D, T>;

/// The tape of a training step on device `D`: what the tensors of a forward pass carry while it is recorded.
pub type StepTape<D> = dfdx::tensor::OwnedTape<f32, D>;

/// The gradients of a backward pass on device `D`, by tensor.
pub type Gradients<D> = dfdx::tensor::Gradients<f32, D>;
