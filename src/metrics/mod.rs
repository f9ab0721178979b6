//! What is measured: states that merge, and the numbers they give.

mod accuracy;
mod mean;
mod metric;
mod values;

pub use accuracy::{Accuracy, argmax};
pub use mean::Mean;
pub use metric::{Metric, MetricState};
pub use values::Metrics;
