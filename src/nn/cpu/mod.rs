//! The operations of [`Backend`](crate::nn::backend::Backend) on the CPU. Work is cut into pieces whose number depends on
//! the sizes alone, and sums over pieces run in order, so results do not depend on the number of threads.

mod attention;
mod cells;
mod concatenate;
mod convolution;
mod convolution_plan;
mod crf;
mod ctc;
mod elementwise;
mod embedding;
mod images;
mod linear;
mod loss;
mod math;
mod matmul;
mod norm;
mod packed;
mod pool;
mod record;
mod recurrent;
mod scratch;
mod sum;
mod winograd;

pub(crate) use attention::attention;
pub(crate) use concatenate::concatenate;
pub(crate) use convolution::{conv_block, conv2d};
pub(crate) use crf::crf;
#[cfg(feature = "cuda")]
pub(crate) use ctc::ctc_losses;
pub(crate) use ctc::{ctc, log_sum_exp};
pub(crate) use elementwise::{activation, dropout};
pub(crate) use embedding::{embedding, embedding_bag};
pub(crate) use linear::linear;
pub(crate) use loss::cross_entropy;
pub(crate) use norm::{batch_norm, layer_norm};
pub(crate) use pool::pool2d;
pub(crate) use recurrent::recurrent;
pub(crate) use sum::{row_sums, sum};

/// Runs a loop over floats compiled for the widest vectors that this CPU has.
fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}
