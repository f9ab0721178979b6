//! Training loops that hand control back to you: see the README.

pub mod checkpoint;
pub mod data;
pub mod device;
mod error;
pub mod metrics;
pub mod nn;
pub mod optim;
pub mod progress;
pub mod summary;
mod unwind;

pub use device::{Device, DeviceSpec};
pub use error::{Error, ErrorKind, ModelError, ModelResult, Result};
