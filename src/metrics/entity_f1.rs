//! How many named entities were found, whole.

use std::collections::BTreeMap;

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::metrics::class_counts::share;
use crate::metrics::entities::{Tag, entities};
use crate::metrics::examples::{as_many_of_each, can_be_summed, class_index};
use crate::metrics::{Metric, argmax};
use crate::nn::Tensor;
use crate::{Device, ModelError, ModelResult};

const NAME: &str = "entity F1";

/// F1 over whole entities, overall and per type, counted as the CoNLL shared tasks' `conlleval` does: an entity is right if
/// its first token, its last token and its type are. For taggers in IOB1, IOB2 and IO alike, which one rule reads: `B-x`
/// starts an entity, and so does `I-x` after `O`, after another type, or at the start of a sentence.
///
/// `value` is the overall F1; `values` adds `precision` and `recall`, and `TYPE/precision`, `TYPE/recall` and `TYPE/f1` for
/// every type (`_` for tags `B` and `I` without one). Ratios of nothing are 0, as in conlleval; without any token all are NaN.
/// A weight is that of a sentence. The state grows with the number of types only.
///
/// ```
/// use elistimator::metrics::{EntityF1, Metric};
///
/// let label = vec![vec!["B-PER", "I-PER", "O", "B-LOC"]];
/// let found = vec![vec!["B-PER", "I-PER", "O", "B-ORG"]];
/// let f1 = EntityF1::from_tags(&found, &label).unwrap();
/// assert_eq!((f1.value(), f1.by_type().count()), (0.5, 3));
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EntityF1 {
    types: BTreeMap<String, EntityCounts>,
    tokens: f64,
    right_tokens: f64,
}

/// Entities of a type, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct EntityCounts {
    /// Found where they are.
    pub correct: f64,
    /// Found: right or wrong.
    pub predicted: f64,
    /// There to be found.
    pub labelled: f64,
}

impl EntityF1 {
    /// From logits `(batch, length, tags)` of padded sentences, as a tagger makes them, or with the first two axes as one; the
    /// rest as in [`from_ids`](Self::from_ids).
    ///
    /// # Errors
    /// Those of [`from_ids`](Self::from_ids).
    pub fn of<S: Shape, D: Device, T>(
        logits: &Tensor<S, D, T>,
        labels: &[usize],
        lengths: &[usize],
        names: &[impl AsRef<str>],
    ) -> ModelResult<Self> {
        Self::from_ids(&argmax(logits), labels, lengths, names)
    }

    /// From tags as numbers, `(batch, length)` padded and flattened, with the length of each sentence and the tags' names.
    /// What lies beyond a sentence's length is not looked at.
    ///
    /// # Errors
    /// When the numbers do not fit, a tag has no name, a label's name is not `O`, `B-x`, `I-x`, `B` or `I`.
    pub fn from_ids(
        predicted: &[i64],
        labels: &[usize],
        lengths: &[usize],
        names: &[impl AsRef<str>],
    ) -> ModelResult<Self> {
        Self::ids_weighted(predicted, labels, lengths, names, &vec![1.0; lengths.len()])
    }

    /// As [`from_ids`](Self::from_ids), with a weight for every sentence, 0 for those that do not count.
    ///
    /// # Errors
    /// Those of [`from_ids`](Self::from_ids), and when weights are missing, negative or not finite.
    pub fn ids_weighted(
        predicted: &[i64],
        labels: &[usize],
        lengths: &[usize],
        names: &[impl AsRef<str>],
        weights: &[f64],
    ) -> ModelResult<Self> {
        as_many_of_each(NAME, &[("predictions", predicted.len()), ("labels", labels.len())])?;
        as_many_of_each(NAME, &[("lengths", lengths.len()), ("weights", weights.len())])?;
        can_be_summed(NAME, weights)?;
        let width = predicted.len().checked_div(lengths.len()).unwrap_or(0);
        if width * lengths.len() != predicted.len() {
            return Err(ModelError::msg(format!(
                "{NAME}: found {} tags for {} sentences, expected as many for each, padded to the longest",
                predicted.len(),
                lengths.len()
            )));
        }
        let tags: Vec<_> = names.iter().map(|name| Tag::parse(name.as_ref())).collect();
        let mut state = Self::default();
        for (sentence, (&length, &weight)) in lengths.iter().zip(weights).enumerate() {
            if weight == 0.0 {
                continue;
            }
            if length > width {
                return Err(ModelError::msg(format!(
                    "{NAME}: found length {length} of sentence {sentence}, expected at most {width}"
                )));
            }
            let tokens = sentence * width..sentence * width + length;
            let mut found = Vec::with_capacity(length);
            let mut label = Vec::with_capacity(length);
            for at in tokens {
                found.push(
                    tags[class_index(NAME, "prediction", predicted[at], at, tags.len())?].unwrap_or(Tag::Outside),
                );
                let id = class_index(NAME, "label", labels[at], at, tags.len())?;
                label.push(tags[id].ok_or_else(|| not_a_tag(names[id].as_ref(), sentence))?);
            }
            state.count(&found, &label, weight);
        }
        Ok(state)
    }

    /// From tags as text, a list for each sentence. A predicted tag that is not `O`, `B-x`, `I-x`, `B` or `I` counts as `O`.
    ///
    /// # Errors
    /// When the numbers of sentences, or of the tokens in one, differ, or a label is not `O`, `B-x`, `I-x`, `B` or `I`.
    pub fn from_tags<P: AsRef<str>, L: AsRef<str>>(predicted: &[Vec<P>], labels: &[Vec<L>]) -> ModelResult<Self> {
        Self::weighted(predicted, labels, &vec![1.0; labels.len()])
    }

    /// As [`from_tags`](Self::from_tags), with a weight for every sentence, 0 for those that do not count.
    ///
    /// # Errors
    /// Those of [`from_tags`](Self::from_tags), and when weights are missing, negative or not finite.
    pub fn weighted<P: AsRef<str>, L: AsRef<str>>(
        predicted: &[Vec<P>],
        labels: &[Vec<L>],
        weights: &[f64],
    ) -> ModelResult<Self> {
        as_many_of_each(
            NAME,
            &[
                ("predicted sentences", predicted.len()),
                ("labelled sentences", labels.len()),
                ("weights", weights.len()),
            ],
        )?;
        can_be_summed(NAME, weights)?;
        let mut state = Self::default();
        for (sentence, ((found, label), &weight)) in predicted.iter().zip(labels).zip(weights).enumerate() {
            if weight == 0.0 {
                continue;
            }
            if found.len() != label.len() {
                return Err(ModelError::msg(format!(
                    "{NAME}: found {} predicted tags for sentence {sentence}, expected {}",
                    found.len(),
                    label.len()
                )));
            }
            let found: Vec<_> = found.iter().map(|tag| Tag::parse(tag.as_ref()).unwrap_or(Tag::Outside)).collect();
            let label = label.iter().map(AsRef::as_ref);
            let parse = |tag| Tag::parse(tag).ok_or_else(|| not_a_tag(tag, sentence));
            let label = label.map(parse).collect::<ModelResult<Vec<_>>>()?;
            state.count(&found, &label, weight);
        }
        Ok(state)
    }

    /// The counts of all types together.
    pub fn overall(&self) -> EntityCounts {
        self.types.values().fold(EntityCounts::default(), |sum, counts| sum.plus(*counts))
    }

    /// The counts of each type that was labelled or predicted, by name.
    pub fn by_type(&self) -> impl Iterator<Item = (&str, EntityCounts)> {
        self.types.iter().map(|(name, counts)| (name.as_str(), *counts))
    }

    /// The share of tokens whose tag is right, `O` among them: conlleval's `accuracy`.
    pub fn accuracy(&self) -> f64 {
        self.right_tokens / self.tokens
    }

    fn count(&mut self, predicted: &[Tag<'_>], labels: &[Tag<'_>], weight: f64) {
        self.tokens += weight * labels.len() as f64;
        self.right_tokens +=
            weight * predicted.iter().zip(labels).filter(|(found, label)| found == label).count() as f64;
        let truth = entities(labels);
        for entity in &truth {
            self.of_type(entity.kind).labelled += weight;
        }
        for entity in entities(predicted) {
            // Entities are in order and do not overlap.
            let right =
                truth.binary_search_by_key(&entity.first, |other| other.first).is_ok_and(|at| truth[at] == entity);
            let counts = self.of_type(entity.kind);
            counts.predicted += weight;
            counts.correct += if right { weight } else { 0.0 };
        }
    }

    fn of_type(&mut self, kind: &str) -> &mut EntityCounts {
        self.types.entry(kind.to_owned()).or_default()
    }

    fn or_nan(&self, value: f64) -> f64 {
        if self.tokens > 0.0 { value } else { f64::NAN }
    }
}

impl EntityCounts {
    /// The share of what was found that is right; 0 if nothing was found.
    pub fn precision(&self) -> f64 {
        share(self.correct, self.predicted)
    }

    /// The share of what is there that was found; 0 if nothing is there.
    pub fn recall(&self) -> f64 {
        share(self.correct, self.labelled)
    }

    /// The harmonic mean of precision and recall; 0 if both are.
    pub fn f1(&self) -> f64 {
        share(2.0 * self.correct, self.predicted + self.labelled)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            correct: self.correct + other.correct,
            predicted: self.predicted + other.predicted,
            labelled: self.labelled + other.labelled,
        }
    }
}

impl Metric for EntityF1 {
    fn merge(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.right_tokens += other.right_tokens;
        for (kind, counts) in other.types {
            let sum = self.types.entry(kind).or_default();
            *sum = sum.plus(counts);
        }
    }

    fn value(&self) -> f64 {
        self.or_nan(self.overall().f1())
    }

    fn values(&self) -> Vec<(String, f64)> {
        let overall = self.overall();
        let mut values = vec![
            (String::new(), self.value()),
            ("precision".to_owned(), self.or_nan(overall.precision())),
            ("recall".to_owned(), self.or_nan(overall.recall())),
        ];
        for (kind, counts) in self.by_type() {
            let kind = if kind.is_empty() { "_" } else { kind };
            values.push((format!("{kind}/precision"), counts.precision()));
            values.push((format!("{kind}/recall"), counts.recall()));
            values.push((format!("{kind}/f1"), counts.f1()));
        }
        values
    }
}

fn not_a_tag(found: &str, sentence: usize) -> ModelError {
    ModelError::msg(format!(
        "{NAME}: found label {found:?} in sentence {sentence}, expected O, B-TYPE or I-TYPE (IOB1, IOB2 or IO)"
    ))
}
