//! What a metric has to show beside numbers.

use crate::metrics::{ConfusionMatrix, PrCurve};

/// What a metric is best looked at as. `validate` puts the figures of all metrics into the event files of TensorBoard, and
/// confusion matrices also into the history, from where `plot` draws them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Figure {
    /// Which classes are taken for which.
    ConfusionMatrix(ConfusionMatrix),
    /// Precision over recall.
    PrCurve(PrCurve),
}

impl From<ConfusionMatrix> for Figure {
    fn from(matrix: ConfusionMatrix) -> Self {
        Self::ConfusionMatrix(matrix)
    }
}

impl From<PrCurve> for Figure {
    fn from(curve: PrCurve) -> Self {
        Self::PrCurve(curve)
    }
}
