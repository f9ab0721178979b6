//! Networks: the trait that names their parameters, and the layers.

#[doc(hidden)]
pub mod backend;
mod init;
mod network;
mod parameter;
mod random;

pub use init::Init;
pub use network::{Network, Part, PartMut, Visitor, VisitorMut};
pub(crate) use parameter::read;
pub use parameter::{Parameter, host_reads};
pub use random::RandomStream;

/// A tensor of dfdx on device `D`: `Tensor<(usize, Const<10>), D>`; with a third parameter, the tape that records it.
pub type Tensor<S, D, T = dfdx::tensor::NoneTape> = dfdx::tensor::Tensor<S, f32, D, T>;

/// The tape of a training step on device `D`: what the tensors of a forward pass carry while it is recorded.
pub type StepTape<D> = dfdx::tensor::OwnedTape<f32, D>;

/// The gradients of a backward pass on device `D`, by tensor.
pub type Gradients<D> = dfdx::tensor::Gradients<f32, D>;
