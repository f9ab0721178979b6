//! How much of what matters is among the first few.

use dfdx::shapes::{Dim, HasShape};
use serde::{Deserialize, Serialize};

use crate::metrics::examples::{as_many_of_each, can_be_summed, class_index, one_row_each};
use crate::metrics::{Mean, Metric};
use crate::nn::{Tensor, read};
use crate::{Device, ModelError, ModelResult};

const NAME: &str = "recall at k";

/// The share of a query's relevant items that are among the `k` ranked first, averaged over queries: for search and
/// recommendation. Queries without relevant items do not count; an item named twice counts once. A query with more than `k`
/// relevant items cannot reach 1.
///
/// ```
/// use elistimator::metrics::{Metric, RecallAtK};
///
/// let recall = RecallAtK::from_ranked(&[vec![7, 3, 5], vec![1, 2]], &[vec![3, 5], vec![1]], 2).unwrap();
/// assert_eq!(recall.value(), 0.75);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RecallAtK(Mean);

impl RecallAtK {
    /// From scores `(queries, items)` and the relevant items of each query.
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores).
    pub fn of<B: Dim, I: Dim, D: Device, T>(
        scores: &Tensor<(B, I), D, T>,
        relevant: &[Vec<usize>],
        k: usize,
    ) -> ModelResult<Self> {
        Self::from_scores(&read(scores), relevant, scores.shape().1.size(), k)
    }

    /// From scores `(queries, items)`, row by row, and the relevant items of each query. Of equal scores the first item
    /// counts as higher; those that are NaN come last.
    ///
    /// # Errors
    /// When the numbers do not fit, a relevant item does not exist, or `k` is 0.
    pub fn from_scores(scores: &[f32], relevant: &[Vec<usize>], items: usize, k: usize) -> ModelResult<Self> {
        Self::weighted(scores, relevant, &vec![1.0; relevant.len()], items, k)
    }

    /// With a weight for every query, 0 for those that do not count.
    ///
    /// # Errors
    /// Those of [`from_scores`](Self::from_scores), and when weights are missing, negative or not finite.
    pub fn weighted(
        scores: &[f32],
        relevant: &[Vec<usize>],
        weights: &[f64],
        items: usize,
        k: usize,
    ) -> ModelResult<Self> {
        one_row_each(NAME, scores.len(), items, relevant.len())?;
        let mut first = Vec::new();
        over_queries(relevant, weights, k, |query, relevant| {
            for &item in relevant {
                class_index(NAME, "item", item, query, items)?;
            }
            let row = &scores[query * items..][..items];
            first.clear();
            first.extend(0..items);
            if k < items {
                first.select_nth_unstable_by(k, |&a, &b| descending(row[a], row[b]).then(a.cmp(&b)));
                first.truncate(k);
            }
            first.sort_unstable();
            Ok(relevant.iter().filter(|item| first.binary_search(item).is_ok()).count())
        })
    }

    /// From items in the order of their ranks, best first, and the relevant items, for each query: where the ranking is
    /// done elsewhere, or only its head is known. Items are any numbers.
    ///
    /// # Errors
    /// When the numbers of queries differ, or `k` is 0.
    pub fn from_ranked(ranked: &[Vec<usize>], relevant: &[Vec<usize>], k: usize) -> ModelResult<Self> {
        Self::ranked_weighted(ranked, relevant, &vec![1.0; relevant.len()], k)
    }

    /// As [`from_ranked`](Self::from_ranked), with a weight for every query.
    ///
    /// # Errors
    /// Those of [`from_ranked`](Self::from_ranked), and when weights are missing, negative or not finite.
    pub fn ranked_weighted(
        ranked: &[Vec<usize>],
        relevant: &[Vec<usize>],
        weights: &[f64],
        k: usize,
    ) -> ModelResult<Self> {
        as_many_of_each(NAME, &[("ranked lists", ranked.len()), ("lists of relevant items", relevant.len())])?;
        over_queries(relevant, weights, k, |query, relevant| {
            let mut first: Vec<_> = ranked[query].iter().take(k).collect();
            first.sort_unstable();
            Ok(relevant.iter().filter(|item| first.binary_search(item).is_ok()).count())
        })
    }
}

impl Metric for RecallAtK {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    fn value(&self) -> f64 {
        self.0.value()
    }
}

/// The mean over queries of hits among the relevant items, which `hits` gets without duplicates.
fn over_queries(
    relevant: &[Vec<usize>],
    weights: &[f64],
    k: usize,
    mut hits: impl FnMut(usize, &[usize]) -> ModelResult<usize>,
) -> ModelResult<RecallAtK> {
    as_many_of_each(NAME, &[("lists of relevant items", relevant.len()), ("weights", weights.len())])?;
    can_be_summed(NAME, weights)?;
    if k == 0 {
        return Err(ModelError::msg(format!("{NAME}: found k = 0, expected at least 1")));
    }
    let mut recalls = Vec::with_capacity(relevant.len());
    for (query, (relevant, &weight)) in relevant.iter().zip(weights).enumerate() {
        if weight > 0.0 && !relevant.is_empty() {
            let mut relevant = relevant.clone();
            relevant.sort_unstable();
            relevant.dedup();
            recalls.push((hits(query, &relevant)? as f64 / relevant.len() as f64, weight));
        }
    }
    Ok(RecallAtK(Mean::weighted(recalls)))
}

fn descending(a: f32, b: f32) -> std::cmp::Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_first_item_and_nan_comes_last() {
        let recall = |row: &[f32], relevant: &[usize], k| {
            RecallAtK::from_scores(row, &[relevant.to_vec()], row.len(), k).unwrap().value()
        };
        assert_eq!((recall(&[1.0, 1.0, 2.0], &[0], 2), recall(&[1.0, 1.0, 2.0], &[1], 2)), (1.0, 0.0));
        assert_eq!((recall(&[f32::NAN, 1.0, 2.0], &[0], 2), recall(&[f32::NAN, 1.0, 2.0], &[1, 2, 1], 2)), (0.0, 1.0));
        assert_eq!(recall(&[1.0, 2.0], &[0, 1], 9), 1.0);
        assert!(recall(&[1.0, 2.0], &[], 1).is_nan());
        assert!(RecallAtK::from_scores(&[1.0, 2.0], &[vec![2]], 2, 1).is_err());
        assert!(RecallAtK::from_scores(&[1.0, 2.0], &[vec![0], vec![0]], 2, 1).is_err());
        assert!(RecallAtK::from_ranked(&[vec![1]], &[vec![1]], 0).is_err());
        assert!(RecallAtK::from_ranked(&[vec![1]], &[], 1).is_err());
        assert!(RecallAtK::ranked_weighted(&[vec![1]], &[vec![1]], &[], 1).is_err());
    }
}
