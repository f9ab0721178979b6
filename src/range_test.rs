//! The learning-rate range test.

use crate::{Device, Elistimator, Error, ErrorKind, ModelFn, Result};

/// The losses at growing learning rates: what [`Elistimator::range_test`] returns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RangeTest {
    points: Vec<(f64, f64)>,
}

impl RangeTest {
    /// Learning rate and training loss, by step.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// The learning rate at which the loss, averaged over 5 steps, falls fastest on its way to its lowest: a usual choice for
    /// training. What comes after the lowest loss, where training breaks out and may fall back, does not count. `None` when it never
    /// falls.
    pub fn steepest(&self) -> Option<f64> {
        let means = self.points.windows(5).map(|points| points.iter().map(|(_, loss)| loss / 5.0).sum());
        let means: Vec<f64> = means.take_while(|mean: &f64| mean.is_finite()).collect();
        let (lowest, _) = means.iter().enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let falls =
            means[..=lowest].windows(2).map(|pair| pair[1] - pair[0]).enumerate().filter(|(_, slope)| *slope < 0.0);
        let (index, _) = falls.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        self.points.get(index + 2).map(|(rate, _)| *rate)
    }

    /// Draws loss over learning rate, on a logarithmic axis, into an SVG file; a line marks the
    /// [steepest](Self::steepest) fall.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no finite loss to draw, [`ErrorKind::Io`] if the file cannot be written.
    #[cfg(feature = "plot")]
    pub fn plot(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        crate::summary::plot::loss_by_learning_rate(&self.points, self.steepest(), path.as_ref())
    }
}

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// Trains `steps` steps while the learning rate grows geometrically from `low` to `high` (Smith 2017), and stops early
    /// when the loss is not finite or, smoothed over about 10 steps, four times its best. This trains the network: do it on an estimator made for it, and
    /// begin anew with the rate that you chose from the curve.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] unless `0 < low < high`, both finite, and `steps` at least 2; those of
    /// [`train_steps`](Self::train_steps).
    pub fn range_test(&mut self, low: f64, high: f64, steps: u64) -> Result<RangeTest> {
        if !(low > 0.0 && low < high && high.is_finite() && steps >= 2) {
            let message = format!(
                "range test: found {low} to {high} in {steps} steps, expected 0 < low < high, and at least 2 steps"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let fixed = self.fixed_learning_rate;
        let mut test = RangeTest::default();
        let outcome = self.climb(&mut test, low, high, steps);
        self.fixed_learning_rate = fixed;
        outcome.map(|()| test)
    }

    fn climb(&mut self, test: &mut RangeTest, low: f64, high: f64, steps: u64) -> Result<()> {
        // Single batches are too noisy to judge by: an exponential mean, corrected for beginning at 0 as Adam's is.
        let (mut best, mut mean) = (f64::INFINITY, 0.0);
        for step in 0..steps {
            let share = step as f64 / (steps - 1) as f64;
            // Not by their ratio, which may be beyond all numbers.
            let rate = low.powf(1.0 - share) * high.powf(share);
            match self.set_learning_rate(rate).train_steps(1) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFinite => break,
                Err(error) => return Err(error),
            }
            let loss = self.training_log.last_loss();
            test.points.push((rate, loss));
            mean = 0.9 * mean + 0.1 * loss;
            let smooth = mean / (1.0 - 0.9f64.powf(step as f64 + 1.0));
            best = best.min(smooth);
            if !loss.is_finite() || smooth > 4.0 * best.abs() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steepest_fall_is_found() {
        let loss = |i: usize| {
            if i < 10 {
                2.0
            } else if i < 20 {
                2.0 - 0.1 * (i - 10) as f64
            } else {
                1.0
            }
        };
        let test = RangeTest { points: (0..30).map(|i| (i as f64, loss(i))).collect() };
        let rate = test.steepest().unwrap();
        assert!((10.0..20.0).contains(&rate), "{rate}");
        // A peak behind the lowest loss falls faster, and says nothing.
        let peak = [(30.0, 50.0), (31.0, 50.0), (32.0, 50.0), (33.0, 3.0), (34.0, 3.0)];
        let broken_out = RangeTest { points: test.points.iter().copied().chain(peak).collect() };
        assert_eq!(broken_out.steepest(), Some(rate));
        let ended = RangeTest { points: test.points.iter().copied().chain([(30.0, -f64::NAN)]).collect() };
        assert_eq!(ended.steepest(), Some(rate));
        #[cfg(feature = "plot")]
        {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("range.svg");
            test.plot(&path).unwrap();
            let svg = std::fs::read_to_string(&path).unwrap();
            assert!(svg.contains("learning rate") && svg.contains("steepest"), "{svg}");
            let hostile = [(1e-300, 1.0), (1e300, 1e99), (1e-8, f64::NAN), (f64::MIN_POSITIVE, -1e99)];
            RangeTest { points: hostile.to_vec() }.plot(&path).unwrap();
            RangeTest { points: vec![(0.1, 2.0)] }.plot(&path).unwrap();
            assert_eq!(RangeTest::default().plot(&path).unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(test.plot(dir.path().join("missing/x.svg")).unwrap_err().kind(), ErrorKind::Io);
        }
        assert_eq!(RangeTest { points: (0..9).map(|i| (1.0, f64::from(i))).collect() }.steepest(), None);
    }
}
