//! Summaries: what TensorBoard shows of a run.
//!
//! [`SummaryWriter`] is the one to use: trouble with the disk is reported once through the `log` facade and never stops
//! training. [`EventWriter`] below it returns every error.

mod cut;
mod event_writer;
mod figure;
mod histogram;
mod history;
mod history_writer;
mod hyper_parameters;
mod image;
mod layout;
#[cfg(feature = "plot")]
pub mod plot;
mod pr_curve;
mod projector;
mod tensor;
mod writer;

pub(crate) use cut::cut;
#[cfg(test)]
pub(crate) use cut::without_events;
pub use event_writer::EventWriter;
pub use histogram::Histogram;
pub use history::{History, Record};
pub use history_writer::HistoryWriter;
pub use hyper_parameters::{HyperParameter, HyperParameters};
pub use image::Image;
pub use layout::{Chart, Layout};
pub use pr_curve::PrCurve;
pub use projector::Embedding;
pub use writer::SummaryWriter;
