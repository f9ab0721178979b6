//! The operations of [`Backend`](crate::nn::backend::Backend) on the CPU. Work is cut into pieces whose number depends on
//! the sizes alone, and sums over pieces run in order, so results do not depend on the number of threads.

mod convolution;
mod elementwise;
mod embedding;
mod images;
mod linear;
mod loss;
mod math;
mod matmul;
mod pool;
mod record;
mod recurrent;
mod scratch;

pub(crate) use convolution::{conv_block, conv2d};
pub(crate) use elementwise::{activation, dropout};
pub(crate) use embedding::{embedding, embedding_bag};
pub(crate) use linear::linear;
pub(crate) use loss::cross_entropy;
pub(crate) use pool::pool2d;
pub(crate) use recurrent::recurrent;

/// Runs a loop over floats compiled for the widest vectors that this CPU has.
fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}
