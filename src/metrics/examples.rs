//! What every metric checks before it counts: as many of each, weights that can be summed, classes that exist.

use crate::nn::{check_lengths, mask_values};
use crate::{ModelError, ModelResult};

/// The most classes that counts per class are kept for (24 MiB of counts).
pub(crate) const MAX_CLASSES: usize = 1 << 20;

/// `found` are names with numbers, such as `("labels", 4)`; all numbers have to be equal.
pub(crate) fn as_many_of_each(metric: &str, found: &[(&str, usize)]) -> ModelResult<()> {
    if found.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        return Ok(());
    }
    let counts: Vec<_> = found.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let (last, first) = counts.split_last().map_or((String::new(), &[][..]), |(last, first)| (last.clone(), first));
    Err(ModelError::msg(format!("{metric}: found {} and {last}, expected as many of each", first.join(", "))))
}

/// A weight for each step of padded sequences: 1 before a sequence's end, 0 after it.
pub(crate) fn step_weights(metric: &str, steps: usize, lengths: &[usize]) -> ModelResult<Vec<f64>> {
    // With no sequences there are no steps, of whatever length.
    let length = steps.checked_div(lengths.len()).unwrap_or(0);
    if length * lengths.len() != steps {
        return Err(ModelError::msg(format!(
            "{metric}: found {steps} labels for {} sequences, expected as many for each, padding included",
            lengths.len()
        )));
    }
    check_lengths(metric, lengths, lengths.len(), length)?;
    Ok(mask_values(lengths, length).into_iter().map(f64::from).collect())
}

/// Weights are finite and not negative.
pub(crate) fn can_be_summed(metric: &str, weights: &[f64]) -> ModelResult<()> {
    match weights.iter().position(|weight| !weight.is_finite() || *weight < 0.0) {
        None => Ok(()),
        Some(at) => Err(ModelError::msg(format!(
            "{metric}: found weight {} for example {at}, expected a finite number of at least 0",
            weights[at]
        ))),
    }
}

/// `values` are rows of `classes` numbers, one row for each of `examples`.
pub(crate) fn one_row_each(metric: &str, values: usize, classes: usize, examples: usize) -> ModelResult<()> {
    if classes == 0 {
        return Err(ModelError::msg(format!("{metric}: found 0 classes, expected at least 1")));
    }
    match examples.checked_mul(classes) {
        Some(expected) if expected == values => Ok(()),
        _ => Err(ModelError::msg(format!(
            "{metric}: found {values} values for {examples} examples, expected {classes} for each"
        ))),
    }
}

/// How many classes there are, within bounds.
pub(crate) fn class_count(metric: &str, classes: usize, at_most: usize) -> ModelResult<()> {
    if (1..=at_most).contains(&classes) {
        return Ok(());
    }
    Err(ModelError::msg(format!("{metric}: found {classes} classes, expected 1 to {at_most}")))
}

/// The class as an index, one of `classes`; `what` is `label` or `prediction`.
pub(crate) fn class_index(
    metric: &str,
    what: &str,
    class: impl TryInto<usize> + Copy + std::fmt::Display,
    example: usize,
    classes: usize,
) -> ModelResult<usize> {
    class.try_into().ok().filter(|index| *index < classes).ok_or_else(|| {
        ModelError::msg(format!(
            "{metric}: found {what} {class} for example {example}, expected a class from 0 to {}",
            classes.saturating_sub(1)
        ))
    })
}

/// Whether this is no probability but a logit, say. One that has been rounded, as the mean of several can be, is one; NaN is for
/// the metric to judge.
pub(crate) fn is_outside_unit(p: f32) -> bool {
    !p.is_nan() && !(-1e-4..=1.0 + 1e-4).contains(&p)
}

/// Whether the label of a two-class problem is the positive class: 0 or 1, nothing else.
pub(crate) fn is_positive(metric: &str, label: usize, example: usize) -> ModelResult<bool> {
    class_index(metric, "label", label, example, 2).map(|label| label == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: ModelResult<T>) -> String {
        result.unwrap_err().into_error().to_string()
    }

    #[test]
    fn messages_say_what_was_found_and_expected() {
        let found = message(as_many_of_each("recall", &[("predictions", 3), ("labels", 4), ("weights", 4)]));
        assert!(
            found.contains("recall: found 3 predictions, 4 labels and 4 weights, expected as many of each"),
            "{found}"
        );
        assert!(as_many_of_each("recall", &[("predictions", 3), ("labels", 3)]).is_ok());
        let found = message(can_be_summed("recall", &[1.0, -0.5]));
        assert!(found.contains("found weight -0.5 for example 1"), "{found}");
        assert!(can_be_summed("recall", &[f64::NAN]).is_err());
        assert!(can_be_summed("recall", &[f64::INFINITY]).is_err());
        let found = message(class_index("recall", "prediction", -1_i64, 2, 4));
        assert!(found.contains("found prediction -1 for example 2, expected a class from 0 to 3"), "{found}");
        assert_eq!(class_index("recall", "label", 3_usize, 0, 4).unwrap(), 3);
        assert!(one_row_each("recall", 6, 3, 2).is_ok());
        assert!(one_row_each("recall", 7, 3, 2).is_err());
        assert!(one_row_each("recall", 0, usize::MAX, 2).is_err());
        assert!(one_row_each("recall", 0, 0, 0).is_err());
    }
}
