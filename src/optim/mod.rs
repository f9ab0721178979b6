//! Optimisers with state that checkpoints hold, and learning-rate schedules.

mod adaptive;
mod average;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod composed;
mod config;
mod early_stopping;
mod gradient;
mod host;
mod optimizer;
mod own;
mod plateau;
mod schedule;
pub(crate) mod update;

pub use adaptive::{Adagrad, Ftrl, Lamb};
pub use average::WeightAverage;
#[cfg(feature = "cuda")]
pub(crate) use config::Rule;
pub use config::{Adam, OptimizerConfig, RmsProp, Sgd};
pub use early_stopping::EarlyStopping;
pub use optimizer::Optimizer;
pub use own::{ParameterUpdate, UpdateRule};
pub use plateau::ReduceOnPlateau;
pub use schedule::Schedule;
pub(crate) use update::Update;
