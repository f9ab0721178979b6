//! Summaries: what TensorBoard shows of a run.
//!
//! [`SummaryWriter`] is the one to use: trouble with the disk is reported once through the `log` facade and never stops
//! training. [`EventWriter`] below it returns every error.

mod event_writer;
mod writer;

pub use event_writer::EventWriter;
pub use writer::SummaryWriter;
