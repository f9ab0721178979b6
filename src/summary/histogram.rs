//! How values are distributed.

use protobuf::Message;
use std::sync::LazyLock;
use tensorboard_proto::summary::{HistogramProto, Summary_Value};

/// Upper limits of the buckets above zero, growing by a tenth each, as TensorFlow's default histogram has them
/// (`tensorflow/core/lib/histogram/histogram.cc`).
static LIMITS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let mut limits = Vec::new();
    let mut limit = 1e-12;
    while limit < 1e20 {
        limits.push(limit);
        limit *= 1.1;
    }
    limits.push(f64::MAX);
    limits
});

/// The distribution of a tensor's values, for TensorBoard's pages of histograms and distributions: weights, gradients, activations.
/// Fill it in one go with [`of`](Self::of), or from several batches with [`add`](Self::add).
///
/// Buckets are TensorFlow's: their limits grow by a tenth each, from 1e-12 to 1e20 on both sides of zero. NaN and infinity go into no
/// bucket and are counted apart.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// One for each limit: the negative ones mirrored, then the positive ones; zero belongs to the first positive one.
    negative: Vec<u64>,
    positive: Vec<u64>,
    min: f64,
    max: f64,
    count: u64,
    sum: f64,
    sum_squares: f64,
    not_finite: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// Without any value.
    pub fn new() -> Self {
        Self {
            negative: vec![0; LIMITS.len()],
            positive: vec![0; LIMITS.len()],
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            count: 0,
            sum: 0.0,
            sum_squares: 0.0,
            not_finite: 0,
        }
    }

    /// Of these values.
    pub fn of(values: &[f32]) -> Self {
        let mut histogram = Self::new();
        histogram.add(values);
        histogram
    }

    /// With these values too.
    pub fn add(&mut self, values: &[f32]) {
        for &value in values {
            let value = f64::from(value);
            if !value.is_finite() {
                self.not_finite += 1;
                continue;
            }
            let size = value.abs();
            let bucket = LIMITS.partition_point(|&limit| limit <= size).min(LIMITS.len() - 1);
            if value < 0.0 {
                self.negative[bucket] += 1;
            } else {
                self.positive[bucket] += 1;
            }
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.count += 1;
            self.sum += value;
            self.sum_squares += value * value;
        }
    }

    /// How many finite values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many values were NaN or infinite.
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    pub(super) fn value(&self) -> Summary_Value {
        let mut proto = HistogramProto::new();
        let mut value = Summary_Value::new();
        if self.count > 0 {
            proto.set_min(self.min);
            proto.set_max(self.max);
            proto.set_num(self.count as f64);
            proto.set_sum(self.sum);
            proto.set_sum_squares(self.sum_squares);
            let (limits, counts) = self.buckets();
            proto.set_bucket_limit(limits);
            proto.set_bucket(counts);
        }
        debug_assert!(proto.is_initialized());
        value.set_histo(proto);
        value
    }

    /// Right edges and counts from the first bucket that holds a value to the last one. Runs of empty buckets are merged, as
    /// TensorFlow does.
    fn buckets(&self) -> (Vec<f64>, Vec<f64>) {
        // The right edge of the negative bucket i is minus its lower limit.
        let lower = |i: usize| if i == 0 { 0.0 } else { -LIMITS[i - 1] };
        let negative = self.negative.iter().enumerate().rev().map(|(i, &count)| (lower(i), count));
        let positive = LIMITS.iter().copied().zip(self.positive.iter().copied());
        let all: Vec<(f64, u64)> = negative.chain(positive).collect();
        let first = all.iter().position(|&(_, count)| count > 0).unwrap_or(0);
        let last = all.iter().rposition(|&(_, count)| count > 0).unwrap_or(0);
        // The empty bucket before the first one gives it its left edge.
        let (mut limits, mut counts) = (Vec::new(), Vec::new());
        for (i, &(limit, count)) in all.iter().enumerate().take(last + 1).skip(first.saturating_sub(1)) {
            let next_is_empty = i < last && all[i + 1].1 == 0;
            if count == 0 && next_is_empty {
                continue;
            }
            limits.push(limit);
            counts.push(count as f64);
        }
        (limits, counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The count of the values in [limits[i - 1], limits[i]) by looking at each.
    #[test]
    fn buckets_hold_what_lies_between_their_limits() {
        let values: Vec<f32> = (-500..500).map(|i| (i as f32 / 100.0).powi(3)).chain([1e30, -1e30, 1e-30]).collect();
        let histogram = Histogram::of(&values);
        let (limits, counts) = histogram.buckets();
        assert!(limits.is_sorted_by(|a, b| a < b));
        assert_eq!(counts.iter().sum::<f64>(), 1003.0);
        let mut left = f64::NEG_INFINITY;
        for (&right, &count) in limits.iter().zip(&counts) {
            // A negative value that lies on a limit goes to its left, a positive one to its right.
            let inside = |&&value: &&f32| {
                let value = f64::from(value);
                if value < 0.0 { left < value && value <= right } else { left <= value && value < right }
            };
            let expected = values.iter().filter(inside).count();
            assert_eq!(count, expected as f64, "{left} {right}");
            left = right;
        }
    }

    #[test]
    fn values_that_are_no_numbers_are_counted_apart() {
        let histogram = Histogram::of(&[1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -3.0, f32::MAX]);
        assert_eq!((histogram.count(), histogram.not_finite()), (3, 3));
        assert_eq!((histogram.min, histogram.max), (-3.0, f64::from(f32::MAX)));
        assert_eq!(Histogram::of(&[f32::NAN]).value().get_histo().get_bucket().len(), 0);
    }

    #[test]
    fn batches_add_up() {
        let mut histogram = Histogram::of(&[1.0, 2.0]);
        histogram.add(&[-3.0]);
        assert_eq!(histogram.value(), Histogram::of(&[1.0, 2.0, -3.0]).value());
        assert_eq!((histogram.sum, histogram.sum_squares), (0.0, 14.0));
    }
}
