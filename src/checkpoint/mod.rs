//! Checkpoints on disk: bytes, files, and what is kept. Nothing here knows about networks or devices.
//!
//! The format is described byte by byte in `docs/format.md`.

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod faulty;
mod fs;
mod index;
mod members;
mod retention;
mod state;
mod store;
mod tensors;

pub use index::CheckpointInfo;
pub(crate) use index::Mark;
pub(crate) use members::Members;
pub use retention::{Mode, Monitor, Retention};
pub(crate) use state::State;
pub(crate) use store::{Access, Snapshot, Store};
pub(crate) use tensors::Tensors;

/// The metrics of a checkpoint by name.
pub type MetricValues = std::collections::BTreeMap<String, f64>;

/// What fuzzing needs of the insides.
#[cfg(test)]
pub(crate) mod parsers {
    pub(crate) use super::faulty::FaultyDisk;
    pub(crate) use super::fs::Storage;
    pub(crate) use super::index::{from_bytes as index_from_bytes, to_bytes as index_to_bytes};
    pub(crate) use super::members::Index as EnsembleIndex;
    pub(crate) use super::state::{metrics_from_bytes, metrics_to_bytes};
}
