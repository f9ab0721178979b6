//! Optimisers with state that checkpoints hold, and learning-rate schedules.

mod config;
mod early_stopping;
mod optimizer;
mod schedule;
pub(crate) mod update;

pub use config::{Adam, OptimizerConfig, RmsProp, Sgd};
pub use early_stopping::EarlyStopping;
pub use optimizer::Optimizer;
pub use schedule::Schedule;
