//! Data on the host: named arrays, recipes for streams of them, and what is inferred from them.

#[cfg(any(test, feature = "cuda"))]
pub(crate) mod ahead;
mod array;
mod axes;
mod bucket;
mod cache;
mod cache_file;
mod concatenate;
mod csv;
mod csv_column;
mod csv_quotes;
pub(crate) mod dataset;
mod description;
mod dtype;
mod flat_map;
mod idx;
#[cfg(feature = "image")]
mod image_folder;
pub(crate) mod input_file;
mod interleave;
mod json;
mod mnist;
mod npy;
mod npy_header;
mod npz;
mod own_source;
mod padding;
mod parallel_map;
mod prefetch;
mod random_map;
pub(crate) mod record;
mod record_bytes;
mod safetensors;
mod sample;
mod shard;
mod shuffle;
pub(crate) mod signature;
mod source;
mod split;
mod stages;
mod standard_scaler;
mod text_lines;
mod window;
mod zip;

pub use array::Array;
pub use csv::Csv;
pub use dataset::{Dataset, Stream};
pub use dtype::{Dtype, Element};
#[cfg(test)]
pub(crate) use idx::from_reader as idx_from_reader;
pub use idx::{parse_idx, read_idx};
#[cfg(feature = "image")]
pub use image_folder::ImageFolder;
pub use mnist::Mnist;
pub use npy::{read_npy, write_npy};
pub use npz::read_npz;
pub use own_source::Source;
pub use padding::Padding;
pub use random_map::Random;
pub use record::Record;
#[cfg(test)]
pub(crate) use record_bytes::{read as record_from_bytes, write as record_to_bytes};
pub use safetensors::read_safetensors;
pub use signature::{InputSpec, Signature};
pub use standard_scaler::StandardScaler;
pub use text_lines::{Encoding, TextLines};
