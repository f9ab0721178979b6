//! What a metric is.

use std::any::Any;

use crate::metrics::Figure;
use crate::{Error, ErrorKind, Result};

/// A metric as a state that grows: make one from every batch, merge them, and ask for the value at the end. Implement it
/// for a metric of your own; what it holds should not grow with the data.
///
/// ```
/// use elistimator::metrics::Metric;
///
/// /// The largest error seen.
/// struct WorstError(f64);
///
/// impl Metric for WorstError {
///     fn merge(&mut self, other: Self) {
///         self.0 = self.0.max(other.0);
///     }
///     fn value(&self) -> f64 {
///         self.0
///     }
/// }
/// ```
pub trait Metric: Send + 'static {
    /// Takes in what another part of the data gave: the result must not depend on how the data was cut into batches.
    fn merge(&mut self, other: Self)
    where
        Self: Sized;

    /// The metric over all that was merged; NaN where it is undefined.
    fn value(&self) -> f64;

    /// All its values with their names after the metric's own: by default the one value without a name.
    fn values(&self) -> Vec<(String, f64)> {
        vec![(String::new(), self.value())]
    }

    /// What `validate` draws of it beside its numbers; nothing unless the metric says so.
    fn figure(&self) -> Option<Figure> {
        None
    }
}

/// Any [`Metric`] behind a pointer; implemented for all of them.
pub trait MetricState: Send {
    /// Merges a state of the same type.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when it is of another type: one name stood for two metrics.
    fn merge_dyn(&mut self, other: Box<dyn MetricState>) -> Result<()>;

    /// The metric's values.
    fn values(&self) -> Vec<(String, f64)>;

    /// What there is to draw of it.
    fn figure(&self) -> Option<Figure> {
        None
    }

    /// The state as itself, to be merged.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<M: Metric> MetricState for M {
    fn merge_dyn(&mut self, other: Box<dyn MetricState>) -> Result<()> {
        let other = other.into_any().downcast::<M>().map_err(|_| {
            let message = format!("two metrics of one name: expected {} again", std::any::type_name::<M>());
            Error::new(ErrorKind::InvalidArgument, message)
        })?;
        self.merge(*other);
        Ok(())
    }

    fn values(&self) -> Vec<(String, f64)> {
        Metric::values(self)
    }

    fn figure(&self) -> Option<Figure> {
        Metric::figure(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
