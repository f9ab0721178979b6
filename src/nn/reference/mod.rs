//! The operations of [`Backend`](crate::nn::backend::Backend) composed of dfdx's own: they hold on every device, and are
//! what the faster ones are compared with.

mod attention;
mod basic;
mod convolution;
mod crf;
mod embedding;
mod loss;
mod norm;
mod recurrent;

pub use attention::attention;
pub use basic::{activation, concatenate, dropout, linear};
pub(crate) use convolution::counts;
pub use convolution::{conv_block, conv2d, pool2d};
pub use crf::crf;
pub use embedding::{embedding, embedding_bag};
pub use loss::cross_entropy;
pub use norm::{batch_norm, layer_norm};
pub use recurrent::recurrent;
