//! What metrics have to show, as TensorBoard shows it.

use super::{EventWriter, Image, PrCurve};
use crate::metrics::{ConfusionMatrix, Figure, PrCurve as Curve};
use crate::{Error, ErrorKind, Result};

/// Counts fit beside each other up to so many classes.
const TABLE: usize = 32;
/// The sides of a matrix's picture in pixels, and so the most classes it can have.
const SIDE: usize = 512;
/// The largest square of one count.
const CELL: usize = 32;
/// The usual number of thresholds on the page of PR curves, of which one is the end.
const THRESHOLDS: usize = 200;

impl EventWriter {
    /// What a metric has to show: of a confusion matrix a picture `TAG/matrix` (up to 512 classes) and the counts as a text
    /// `TAG/table` (up to 32), of precision over recall the curve `TAG/curve`. Fails with [`ErrorKind::Io`]; a figure without
    /// any example is left out.
    pub fn figure(&mut self, tag: &str, figure: &Figure, step: u64) -> Result<()> {
        match figure {
            Figure::ConfusionMatrix(matrix) => {
                let classes = matrix.classes();
                if (1..=SIDE).contains(&classes) {
                    self.image(&format!("{tag}/matrix"), &Image::confusion_matrix(matrix)?, step)?;
                }
                if (1..=TABLE).contains(&classes) {
                    self.text(&format!("{tag}/table"), &table(matrix), step)?;
                }
                Ok(())
            }
            Figure::PrCurve(curve) => match PrCurve::of_metric(curve) {
                Ok(curve) => self.pr_curve(&format!("{tag}/curve"), &curve, step),
                // Without positives, say: the metric's value is NaN, which is told already.
                Err(error) if error.kind() == ErrorKind::InvalidArgument => Ok(()),
                Err(error) => Err(error),
            },
        }
    }
}

impl Image {
    /// A confusion matrix: a row of squares for each label, a column for each prediction, from white to a dark blue by the
    /// share of the row, as in the figure of [`plot`](crate::Elistimator). Fails with [`ErrorKind::InvalidArgument`] without
    /// any class, or for more than 512.
    pub fn confusion_matrix(matrix: &ConfusionMatrix) -> Result<Self> {
        let classes = matrix.classes();
        if !(1..=SIDE).contains(&classes) {
            let message = format!("a picture of a confusion matrix takes 1 to {SIDE} classes, not {classes}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let cell = (SIDE / classes).min(CELL);
        let side = classes * cell;
        let shares = matrix.shares();
        let mut pixels = Vec::with_capacity(3 * side * side);
        for y in 0..side {
            for x in 0..side {
                // Thin lines between squares that are large enough for them.
                let is_line = cell >= 8 && (x % cell == cell - 1 || y % cell == cell - 1);
                let share = shares[(y / cell) * classes + x / cell];
                pixels.extend(if is_line { [225; 3] } else { shade(share) });
            }
        }
        let side = u32::try_from(side).unwrap_or(u32::MAX);
        Self::rgb(side, side, pixels)
    }
}

/// From white to a dark blue.
pub(super) fn shade(share: f64) -> [u8; 3] {
    // Between 0 and 255; the conversion from float saturates, and takes NaN to 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    [12.0, 72.0, 130.0].map(|dark| (255.0 + (dark - 255.0) * share.clamp(0.0, 1.0)).round() as u8)
}

/// The counts as a table in Markdown.
fn table(matrix: &ConfusionMatrix) -> String {
    let classes = matrix.classes();
    let mut text = String::from("| label \\ predicted |");
    (0..classes).for_each(|class| text += &format!(" {class} |"));
    text += "\n|---|";
    (0..classes).for_each(|_| text += "---:|");
    for (label, row) in matrix.rows().enumerate() {
        text += &format!("\n| **{label}** |");
        row.iter().for_each(|count| text += &format!(" {count} |"));
    }
    text
}

impl PrCurve {
    /// The curve of the metric [`metrics::PrCurve`](crate::metrics::PrCurve), at 201 thresholds or at one more than it has if
    /// those are fewer; each is moved down to the next one where the metric has a count. Fails with
    /// [`ErrorKind::InvalidArgument`] where states of different thresholds were merged.
    pub fn of_metric(curve: &Curve) -> Result<Self> {
        let points = curve.points();
        let steps = points.len().min(THRESHOLDS);
        let at = |index: usize| (index * points.len() / steps.max(1)).min(points.len() - 1);
        let chosen = || (0..=steps).filter_map(|index| points.get(at(index)));
        if chosen().any(|point| !point.true_positives.is_finite() || !point.false_negatives.is_finite()) {
            let message = "a PR curve of states with different thresholds";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Self::from_counts(
            chosen().map(|point| point.true_positives).collect(),
            chosen().map(|point| point.false_positives).collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_shades() {
        let matrix = ConfusionMatrix::from_classes(&[0, 1, 1], &[0, 0, 1], 2).unwrap();
        let expected = "| label \\ predicted | 0 | 1 |\n|---|---:|---:|\n| **0** | 1 | 1 |\n| **1** | 0 | 1 |";
        assert_eq!(table(&matrix), expected);
        assert_eq!((shade(0.0), shade(1.0), shade(f64::NAN)), ([255; 3], [12, 72, 130], [0; 3]));
        for classes in [1, 2, 10, 33, 511, 512] {
            let matrix = ConfusionMatrix::from_classes(&[0], &[0], classes).unwrap();
            Image::confusion_matrix(&matrix).unwrap();
        }
        let large = ConfusionMatrix::from_classes(&[0], &[0], 513).unwrap();
        for matrix in [large, ConfusionMatrix::default()] {
            assert_eq!(Image::confusion_matrix(&matrix).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn a_curve_of_bins_is_that_of_the_scores() {
        // Scores in the middles of bins, so that no threshold of either is between a score and its bin.
        let scores: Vec<f32> = (0..300).map(|i| (i * 37 % 100) as f32 / 100.0 + 0.005).collect();
        let labels: Vec<usize> = (0..300).map(|i| usize::from(i * 37 % 100 + i % 30 > 60)).collect();
        for bins in [1, 2, 100, 200, 1000] {
            let metric = Curve::with_bins(&scores, &labels, &[1.0; 300], bins).unwrap();
            let found = PrCurve::of_metric(&metric).unwrap();
            let thresholds = bins.min(THRESHOLDS);
            let positive: Vec<bool> = labels.iter().map(|&label| label == 1).collect();
            let expected = PrCurve::of(&positive, &scores, thresholds + 1).unwrap();
            // All but the last threshold, which no score reaches and which the bins cannot know.
            assert_eq!(found.recall()[..thresholds], expected.recall()[..thresholds], "{bins}");
            assert_eq!(found.precision()[..thresholds], expected.precision()[..thresholds], "{bins}");
        }
        let mut mixed = Curve::with_bins(&[0.5], &[1], &[1.0], 4).unwrap();
        crate::metrics::Metric::merge(&mut mixed, Curve::with_bins(&[0.5], &[1], &[1.0], 5).unwrap());
        assert!(PrCurve::of_metric(&mixed).is_err());
    }
}
