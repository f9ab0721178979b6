//! Data on the host: named arrays, recipes for streams of them, and what is inferred from them.

mod array;
mod dataset;
mod idx;
mod mnist;
mod padding;
mod prefetch;
mod record;
mod shuffle;
pub(crate) mod signature;
mod source;
mod stages;

pub use array::{Array, Dtype, Element};
pub use dataset::{Dataset, Stream};
#[cfg(test)]
pub(crate) use idx::from_reader as idx_from_reader;
pub use idx::{parse_idx, read_idx};
pub use mnist::Mnist;
pub use padding::Padding;
pub use record::Record;
pub use signature::{InputSpec, Signature};
