//! What is measured: states that merge, and the numbers they give.

mod accuracy;
mod class_counts;
mod confusion_matrix;
mod examples;
mod f_beta;
mod mean;
mod mean_absolute_error;
mod mean_iou;
mod mean_squared_error;
mod metric;
mod precision;
mod r2;
mod recall;
mod values;

pub use accuracy::{Accuracy, argmax};
pub use class_counts::Average;
pub use confusion_matrix::ConfusionMatrix;
pub use f_beta::FBeta;
pub use mean::Mean;
pub use mean_absolute_error::MeanAbsoluteError;
pub use mean_iou::MeanIou;
pub use mean_squared_error::MeanSquaredError;
pub use metric::{Metric, MetricState};
pub use precision::Precision;
pub use r2::R2;
pub use recall::Recall;
pub use values::Metrics;
