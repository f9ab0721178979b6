//! Weights of words by how rare they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind, Result};

/// The most ids that are weighted, as in a vocabulary.
const LARGEST: usize = 1 << 24;

/// TF-IDF: turns the ids of a document into weights that favour words which few documents have. For bags of words, and for
/// weighted means of embeddings. It counts documents as they are added, and weighs with what has been counted so far.
///
/// With `n` documents, of which `df(t)` have the id `t`, and `tf(t, d)` occurrences in the document `d`:
///
/// > idf(t) = ln((1 + n) / (1 + df(t))) + 1, weight(t, d) = tf(t, d) · idf(t), divided by the document's L2 norm
///
/// That is scikit-learn's default (`TfidfTransformer(smooth_idf=True)`,
/// <https://scikit-learn.org/stable/modules/feature_extraction.html#tfidf-term-weighting>). What is saved is the counts.
///
/// ```
/// use elistimator::text::TfIdf;
///
/// let tf_idf = TfIdf::fit(4, [vec![0i64, 1], vec![0, 2, 2]])?;
/// let weights = tf_idf.weights(&[0, 2])?; // 2 is the rarer one
/// assert!(weights[0].0 == 0 && weights[1].0 == 2 && weights[1].1 > weights[0].1);
/// # Ok::<(), elistimator::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TfIdf {
    documents: u64,
    frequencies: Vec<u64>,
    sublinear: bool,
    normalized: bool,
}

impl TfIdf {
    /// No documents yet, of ids in `0..size`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for more than 2^24 ids.
    pub fn new(size: usize) -> Result<Self> {
        if size > LARGEST {
            let message = format!("found {size} ids to weigh, expected at most {LARGEST}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { documents: 0, frequencies: vec![0; size], sublinear: false, normalized: true })
    }

    /// Counts these documents, each given as its ids, without padding.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`add`](Self::add); the document is named.
    pub fn fit<I: AsRef<[i64]>>(size: usize, documents: impl IntoIterator<Item = I>) -> Result<Self> {
        let mut tf_idf = Self::new(size)?;
        for (index, document) in documents.into_iter().enumerate() {
            tf_idf.add(document.as_ref()).map_err(|error| error.at(format_args!("document {index}")))?;
        }
        Ok(tf_idf)
    }

    /// Counts one more document.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming an id that is not in `0..size`; nothing is counted then.
    pub fn add(&mut self, ids: &[i64]) -> Result<()> {
        let counts = self.count(ids)?;
        self.documents += 1;
        counts.into_keys().for_each(|id| self.frequencies[id] += 1);
        Ok(())
    }

    /// Dampens frequent words: 1 + ln(tf) in place of tf, as scikit-learn's `sublinear_tf`.
    #[must_use]
    pub fn sublinear(mut self, sublinear: bool) -> Self {
        self.sublinear = sublinear;
        self
    }

    /// Whether a document's weights are divided by their L2 norm; they are unless this says no (`norm=None`).
    #[must_use]
    pub fn normalized(mut self, normalized: bool) -> Self {
        self.normalized = normalized;
        self
    }

    /// The number of ids.
    pub fn size(&self) -> usize {
        self.frequencies.len()
    }

    /// The number of documents that were counted.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// The inverse document frequency of an id; `None` for one that is not in `0..size`.
    pub fn idf(&self, id: i64) -> Option<f64> {
        let frequency = self.frequencies.get(usize::try_from(id).ok()?)?;
        Some(((1.0 + self.documents as f64) / (1.0 + *frequency as f64)).ln() + 1.0)
    }

    /// Each different id of a document with its weight, in the order of the ids.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming an id that is not in `0..size`.
    pub fn weights(&self, ids: &[i64]) -> Result<Vec<(i64, f64)>> {
        let counts = self.count(ids)?;
        let weigh = |(id, count): (usize, u64)| {
            let count = count as f64;
            let frequency = if self.sublinear { 1.0 + count.ln() } else { count };
            (id as i64, frequency * self.idf(id as i64).unwrap_or(0.0))
        };
        let mut weights: Vec<(i64, f64)> = counts.into_iter().map(weigh).collect();
        if self.normalized {
            let norm = weights.iter().map(|(_, weight)| weight * weight).sum::<f64>().sqrt();
            // Every weight is above zero, so that only an empty document has no norm.
            weights.iter_mut().for_each(|(_, weight)| *weight /= norm);
        }
        Ok(weights)
    }

    /// A document's weights as a row `[size]`, zero for ids that it does not have: the features of a linear model.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    pub fn row(&self, ids: &[i64]) -> Result<Vec<f32>> {
        let mut row = vec![0.0; self.size()];
        self.weights(ids)?.into_iter().for_each(|(id, weight)| row[id as usize] = weight as f32);
        Ok(row)
    }

    /// A weight for each place of a document, in order: an id's weight is shared among its occurrences, so that the weighted
    /// sum of the embeddings at the places is that over the different ids.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    pub fn place_weights(&self, ids: &[i64]) -> Result<Vec<f32>> {
        let counts = self.count(ids)?;
        let weights: BTreeMap<i64, f64> = self.weights(ids)?.into_iter().collect();
        let weight = |id: &i64| weights.get(id).copied().unwrap_or(0.0);
        Ok(ids.iter().map(|id| (weight(id) / counts.get(&(*id as usize)).map_or(1.0, |&n| n as f64)) as f32).collect())
    }

    fn count(&self, ids: &[i64]) -> Result<BTreeMap<usize, u64>> {
        let mut counts = BTreeMap::new();
        for (place, &id) in ids.iter().enumerate() {
            let Some(id) = usize::try_from(id).ok().filter(|&id| id < self.size()) else {
                let message = format!("id {id} at place {place}, expected one in 0..{}", self.size());
                return Err(Error::new(ErrorKind::Data, message));
            };
            *counts.entry(id).or_insert(0) += 1;
        }
        Ok(counts)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored<L> {
    documents: u64,
    #[serde(default)]
    sublinear: bool,
    normalized: bool,
    frequencies: L,
}

impl Serialize for TfIdf {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self { documents, frequencies, sublinear, normalized } = self;
        Stored { documents: *documents, sublinear: *sublinear, normalized: *normalized, frequencies }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TfIdf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Stored { documents, sublinear, normalized, frequencies } = Stored::<Vec<u64>>::deserialize(deserializer)?;
        let most = frequencies.iter().copied().max().unwrap_or(0);
        // More documents than f64 counts exactly are as wrong as an id in more documents than there are.
        if frequencies.len() > LARGEST || most > documents || documents > 1 << 53 {
            let message =
                format!("TF-IDF of {} ids: one in {most} of {documents} documents cannot be", frequencies.len());
            return Err(serde::de::Error::custom(message));
        }
        Ok(Self { documents, frequencies, sublinear, normalized })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_are_errors_and_not_counted() {
        let mut tf_idf = TfIdf::new(3).unwrap();
        tf_idf.add(&[0, 0, 2]).unwrap();
        for outside in [3, -1, i64::MAX] {
            let error = tf_idf.add(&[1, outside]).unwrap_err();
            assert!(error.to_string().contains(&format!("id {outside} at place 1")), "{error}");
            assert!(tf_idf.weights(&[outside]).is_err() && tf_idf.idf(outside).is_none());
        }
        assert_eq!((tf_idf.documents(), tf_idf.frequencies.as_slice()), (1, &[1, 0, 1][..]));
        let error = TfIdf::fit(3, [vec![0i64], vec![7]]).unwrap_err();
        assert!(error.to_string().starts_with("document 1: id 7"), "{error}");
        assert!(TfIdf::new(usize::MAX).is_err());
    }

    #[test]
    fn places_share_the_weight_of_their_id() {
        let tf_idf = TfIdf::fit(3, [vec![0i64, 1], vec![1, 2]]).unwrap();
        let weights = tf_idf.weights(&[2, 1, 2]).unwrap();
        let places = tf_idf.place_weights(&[2, 1, 2]).unwrap();
        assert_eq!(places[0], places[2]);
        assert!((f64::from(places[0]) * 2.0 - weights[1].1).abs() < 1e-6 && weights[1].0 == 2);
        assert!((f64::from(places[1]) - weights[0].1).abs() < 1e-6 && weights[0].0 == 1);
        assert_eq!(tf_idf.row(&[]).unwrap(), [0.0; 3]);
        assert!(tf_idf.weights(&[]).unwrap().is_empty() && tf_idf.place_weights(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_saved_is_the_counts() {
        let tf_idf = TfIdf::fit(3, [vec![0i64, 1], vec![1]]).unwrap().sublinear(true);
        let json = serde_json::to_string(&tf_idf).unwrap();
        assert_eq!(json, r#"{"documents":2,"sublinear":true,"normalized":true,"frequencies":[1,2,0]}"#);
        assert_eq!(serde_json::from_str::<TfIdf>(&json).unwrap(), tf_idf);
        assert!(serde_json::from_str::<TfIdf>(&json.replace("[1,2,0]", "[1,3,0]")).is_err());
        assert!(
            serde_json::from_str::<TfIdf>(&json.replace("\"documents\":2", "\"documents\":18446744073709551615"))
                .is_err()
        );
    }
}
