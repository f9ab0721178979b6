//! Data on the host: named arrays, recipes for streams of them, and what is inferred from them.

mod array;
mod bucket;
mod cache;
mod cache_file;
mod concatenate;
mod dataset;
mod description;
mod flat_map;
mod idx;
mod interleave;
mod mnist;
mod padding;
mod parallel_map;
mod prefetch;
mod record;
mod record_bytes;
mod sample;
mod shard;
mod shuffle;
pub(crate) mod signature;
mod source;
mod stages;
mod zip;

pub use array::{Array, Dtype, Element};
pub use dataset::{Dataset, Stream};
pub use idx::{parse_idx, read_idx};
pub use mnist::Mnist;
pub use padding::Padding;
pub use record::Record;
pub use signature::{InputSpec, Signature};
