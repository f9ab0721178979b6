//! The operations of [`Backend`](crate::nn::backend::Backend) composed of dfdx's own: they hold on every device, and are
//! what the faster ones are compared with.

mod basic;
mod convolution;
mod embedding;
mod loss;
mod recurrent;

pub use basic::{activation, dropout, linear};
pub(crate) use convolution::counts;
pub use convolution::{conv_block, conv2d, pool2d};
pub use embedding::{embedding, embedding_bag};
pub use loss::cross_entropy;
pub use recurrent::recurrent;
