//! Progress on the terminal: a bar where there is one, plain lines where there is none.
//!
//! An observer: whatever happens to the terminal is reported once through the `log` facade, and never stops training.

mod log_every;
mod output;
mod pass;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod trouble;

pub use log_every::{LogEvery, StepLog};
pub use output::{Progress, ProgressMode};
pub use pass::Pass;
pub use text::{loss_text, metrics_line};
