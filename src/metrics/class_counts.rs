//! What precision, recall and their kin are computed from: the margins and the diagonal of a confusion matrix.

use serde::{Deserialize, Serialize};

use crate::metrics::ConfusionMatrix;
use crate::metrics::examples::{
    MAX_CLASSES, as_many_of_each, can_be_summed, class_count, class_index, is_positive, one_row_each,
};
use crate::{ModelError, ModelResult};

/// How the numbers of the classes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Average {
    /// From the counts summed over classes: every example counts the same, so large classes count more.
    Micro,
    /// The mean of the classes that occur among labels or predictions: every class counts the same.
    #[default]
    Macro,
    /// As `Macro`, and an entry of its own for every class, under its index or its name.
    PerClass,
}

/// Counts per class, for any number of classes; a confusion matrix would need the square of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct ClassCounts {
    correct: Vec<f64>,
    predicted: Vec<f64>,
    labelled: Vec<f64>,
    left_out: Vec<usize>,
    names: Vec<String>,
}

/// The counts of one class.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct ClassCount {
    /// Predicted where it is the label: true positives.
    pub correct: f64,
    /// True and false positives.
    pub predicted: f64,
    /// True positives and false negatives.
    pub labelled: f64,
}

impl ClassCounts {
    pub fn new(
        metric: &str,
        predicted: &[i64],
        labels: &[usize],
        weights: &[f64],
        classes: usize,
    ) -> ModelResult<Self> {
        as_many_of_each(
            metric,
            &[("predictions", predicted.len()), ("labels", labels.len()), ("weights", weights.len())],
        )?;
        can_be_summed(metric, weights)?;
        class_count(metric, classes, MAX_CLASSES)?;
        let zeros = || vec![0.0; classes];
        let mut counts = Self { correct: zeros(), predicted: zeros(), labelled: zeros(), ..Self::default() };
        for (at, ((&class, &label), &weight)) in predicted.iter().zip(labels).zip(weights).enumerate() {
            if weight > 0.0 {
                let class = class_index(metric, "prediction", class, at, classes)?;
                let label = class_index(metric, "label", label, at, classes)?;
                counts.predicted[class] += weight;
                counts.labelled[label] += weight;
                if class == label {
                    counts.correct[class] += weight;
                }
            }
        }
        Ok(counts)
    }

    /// Of examples that may belong to several classes, or to none: rows of `classes` scores, and of a 0 or 1 for each.
    pub fn of_labels(
        metric: &str,
        scores: &[f32],
        labels: &[usize],
        threshold: f32,
        classes: usize,
    ) -> ModelResult<Self> {
        as_many_of_each(metric, &[("scores", scores.len()), ("labels", labels.len())])?;
        class_count(metric, classes, MAX_CLASSES)?;
        one_row_each(metric, scores.len(), classes, scores.len() / classes)?;
        if threshold.is_nan() {
            return Err(ModelError::msg(format!("{metric}: found the threshold NaN, expected a number")));
        }
        let zeros = || vec![0.0; classes];
        let mut counts = Self { correct: zeros(), predicted: zeros(), labelled: zeros(), ..Self::default() };
        for (at, (&score, &label)) in scores.iter().zip(labels).enumerate() {
            let (class, taken) = (at % classes, score >= threshold); // NaN is not taken
            let is_positive = is_positive(metric, label, at / classes)?;
            counts.predicted[class] += f64::from(u8::from(taken));
            counts.labelled[class] += f64::from(u8::from(is_positive));
            counts.correct[class] += f64::from(u8::from(taken && is_positive));
        }
        Ok(counts)
    }

    pub fn from_confusion(matrix: &ConfusionMatrix) -> Self {
        let mut predicted = vec![0.0; matrix.classes()];
        for row in matrix.rows() {
            predicted.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
        let labelled = matrix.rows().map(|row| row.iter().sum()).collect();
        let correct = (0..matrix.classes()).map(|class| matrix.count(class, class)).collect();
        Self { correct, predicted, labelled, ..Self::default() }
    }

    pub fn leave_out(&mut self, metric: &str, classes: &[usize]) -> ModelResult<()> {
        if let Some(class) = classes.iter().find(|class| **class >= self.correct.len()) {
            let last = self.correct.len().saturating_sub(1);
            let message = format!("{metric}: found class {class} to leave out, expected classes from 0 to {last}");
            return Err(ModelError::msg(message));
        }
        self.left_out = classes.to_vec();
        Ok(())
    }

    pub fn set_names(&mut self, metric: &str, names: Vec<String>) -> ModelResult<()> {
        if names.len() != self.correct.len() {
            let (found, expected) = (names.len(), self.correct.len());
            return Err(ModelError::msg(format!("{metric}: found {found} class names, expected {expected}")));
        }
        // The name of an entry: of two with one name, or of one with that of the average, only the last would be seen.
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        if let Some(name) = sorted.first().copied().filter(|name| name.is_empty()).or(twice) {
            return Err(ModelError::msg(format!(
                "{metric}: found the class name {name:?}, expected names that are not empty and differ"
            )));
        }
        self.names = names;
        Ok(())
    }

    pub fn merge(&mut self, other: &Self) {
        for (into, from) in [
            (&mut self.correct, &other.correct),
            (&mut self.predicted, &other.predicted),
            (&mut self.labelled, &other.labelled),
        ] {
            add(into, from);
        }
    }

    /// The classes that are not left out, with their counts.
    fn counted(&self) -> impl Iterator<Item = (usize, ClassCount)> {
        let counts = self.correct.iter().zip(&self.predicted).zip(&self.labelled);
        let counts = counts.map(|((&correct, &predicted), &labelled)| ClassCount { correct, predicted, labelled });
        counts.enumerate().filter(|(class, _)| !self.left_out.contains(class))
    }

    pub fn value(&self, average: Average, ratio: impl Fn(ClassCount) -> f64) -> f64 {
        if average == Average::Micro {
            let mut sum = ClassCount::default();
            for (_, count) in self.counted() {
                sum.correct += count.correct;
                sum.predicted += count.predicted;
                sum.labelled += count.labelled;
            }
            return if sum.occurs() { ratio(sum) } else { f64::NAN };
        }
        let (mut total, mut classes) = (0.0, 0.0);
        for (_, count) in self.counted().filter(|(_, count)| count.occurs()) {
            total += ratio(count);
            classes += 1.0;
        }
        total / classes
    }

    pub fn values(&self, average: Average, ratio: impl Fn(ClassCount) -> f64) -> Vec<(String, f64)> {
        let mut values = vec![(String::new(), self.value(average, &ratio))];
        if average == Average::PerClass {
            values.extend(self.counted().map(|(class, count)| {
                let name = self.names.get(class).cloned().unwrap_or_else(|| class.to_string());
                (name, if count.occurs() { ratio(count) } else { f64::NAN })
            }));
        }
        values
    }
}

impl ClassCount {
    fn occurs(self) -> bool {
        self.predicted > 0.0 || self.labelled > 0.0
    }
}

/// Adds element by element; the shorter counts as having zeros at its end.
fn add(into: &mut Vec<f64>, from: &[f64]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0.0);
    }
    into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
}

/// `part / whole`, and 0 for nothing of nothing: scikit-learn's `zero_division=0`.
pub(crate) fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// A metric made of a formula over the counts of a class: its constructors, settings and averages.
macro_rules! class_metric {
    ($(#[$doc:meta])* $name:ident, $metric:literal $(, $field:ident = $default:literal)?; $ratio:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            counts: $crate::metrics::class_counts::ClassCounts,
            average: $crate::metrics::Average,
            $($field: f64,)?
        }

        impl $name {
            /// From logits or probabilities `(batch, classes)` and a label per example, or `(batch, length, classes)` and one
            /// per step. Where padding is among the steps, take [`of_sequences`](Self::of_sequences); where an example may
            /// have several labels, [`of_labels`](Self::of_labels).
            ///
            /// # Errors
            /// Those of [`from_classes`](Self::from_classes).
            pub fn of<S: dfdx::shapes::Shape, D: $crate::Device, T>(
                logits: &$crate::nn::Tensor<S, D, T>,
                labels: &[usize],
            ) -> $crate::ModelResult<Self> {
                let classes = $crate::metrics::accuracy::last_axis(logits);
                Self::from_classes(&$crate::metrics::argmax(logits), labels, classes)
            }

            /// From logits or probabilities `(batch, length, classes)` of padded sequences and a label per step: what comes
            /// after a sequence's end does not count.
            ///
            /// # Errors
            /// Those of [`from_classes`](Self::from_classes), and when a length is longer than the padded one.
            pub fn of_sequences<S: dfdx::shapes::Shape, D: $crate::Device, T>(
                logits: &$crate::nn::Tensor<S, D, T>,
                labels: &[usize],
                lengths: &[usize],
            ) -> $crate::ModelResult<Self> {
                let classes = $crate::metrics::accuracy::last_axis(logits);
                let weights = $crate::metrics::examples::step_weights($metric, labels.len(), lengths)?;
                Self::weighted(&$crate::metrics::argmax(logits), labels, &weights, classes)
            }

            /// Of examples with several labels each, or none: scores `(batch, classes)`, of which those of at least
            /// `threshold` say that the class is there, and a 0 or 1 for each of them. The threshold is 0 for logits of a
            /// sigmoid and 0.5 for probabilities, or the one that [`PrCurve`](crate::metrics::PrCurve) shows to be best.
            ///
            /// # Errors
            /// When there is no label for each score, a label is neither 0 nor 1, or there are no or more than 2^20 classes.
            #[doc(alias("multilabel", "multi_label"))]
            pub fn of_labels<S: dfdx::shapes::Shape, D: $crate::Device, T>(
                scores: &$crate::nn::Tensor<S, D, T>,
                labels: &[usize],
                threshold: f32,
            ) -> $crate::ModelResult<Self> {
                let classes = $crate::metrics::accuracy::last_axis(scores);
                Self::from_scores(&$crate::nn::read(scores), labels, threshold, classes)
            }

            /// [`of_labels`](Self::of_labels) from rows of scores on the host, `classes` to a row.
            ///
            /// # Errors
            /// Those of [`of_labels`](Self::of_labels), and when the last row is not whole.
            pub fn from_scores(
                scores: &[f32],
                labels: &[usize],
                threshold: f32,
                classes: usize,
            ) -> $crate::ModelResult<Self> {
                $crate::metrics::class_counts::ClassCounts::of_labels($metric, scores, labels, threshold, classes)
                    .map(Self::from_counts)
            }

            /// From predicted classes and labels, each one of `classes`.
            ///
            /// # Errors
            /// When the numbers of predictions and labels differ, a class does not exist, or there are no or more than
            /// 2^20 classes.
            pub fn from_classes(predicted: &[i64], labels: &[usize], classes: usize) -> $crate::ModelResult<Self> {
                Self::weighted(predicted, labels, &vec![1.0; labels.len()], classes)
            }

            /// With a weight for every example, which is what it counts as; one of weight 0 may have any class, even none
            /// that exists.
            ///
            /// # Errors
            /// Those of [`from_classes`](Self::from_classes), and when weights are missing, negative or not finite.
            pub fn weighted(
                predicted: &[i64],
                labels: &[usize],
                weights: &[f64],
                classes: usize,
            ) -> $crate::ModelResult<Self> {
                $crate::metrics::class_counts::ClassCounts::new($metric, predicted, labels, weights, classes)
                    .map(Self::from_counts)
            }

            /// From a confusion matrix that was counted anyway.
            pub fn from_confusion(matrix: &$crate::metrics::ConfusionMatrix) -> Self {
                Self::from_counts($crate::metrics::class_counts::ClassCounts::from_confusion(matrix))
            }

            /// How the classes become one number; [`Average::Macro`](crate::metrics::Average::Macro) unless set.
            #[must_use]
            pub fn average(mut self, average: $crate::metrics::Average) -> Self {
                self.average = average;
                self
            }

            /// Leaves classes out of the average, such as a tagger's `O` or the negative class of two. Their examples are
            /// still wrong for the other classes.
            ///
            /// # Errors
            /// When there is no such class.
            pub fn leave_out(mut self, classes: &[usize]) -> $crate::ModelResult<Self> {
                self.counts.leave_out($metric, classes)?;
                Ok(self)
            }

            /// Names for the entries of [`Average::PerClass`](crate::metrics::Average::PerClass), one for each class.
            ///
            /// # Errors
            /// When there are not as many names as classes, one is empty, or two are the same.
            pub fn class_names<S: Into<String>>(
                mut self,
                names: impl IntoIterator<Item = S>,
            ) -> $crate::ModelResult<Self> {
                self.counts.set_names($metric, names.into_iter().map(Into::into).collect())?;
                Ok(self)
            }

            fn from_counts(counts: $crate::metrics::class_counts::ClassCounts) -> Self {
                Self { counts, average: $crate::metrics::Average::default(), $($field: $default,)? }
            }

            fn ratio(&self) -> impl Fn($crate::metrics::class_counts::ClassCount) -> f64 {
                let ratio = $ratio;
                $(let $field = self.$field;)?
                move |count| ratio(count $(, $field)?)
            }
        }

        impl $crate::metrics::Metric for $name {
            /// The settings stay those of the first; a class that only one of the two has counts as 0 in the other.
            fn merge(&mut self, other: Self) {
                self.counts.merge(&other.counts);
            }

            fn value(&self) -> f64 {
                self.counts.value(self.average, self.ratio())
            }

            fn values(&self) -> Vec<(String, f64)> {
                self.counts.values(self.average, self.ratio())
            }
        }
    };
}
pub(crate) use class_metric;
