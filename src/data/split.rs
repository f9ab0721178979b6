//! Parts of a table: training, validation, test.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::{Record, signature};
use crate::{Error, ErrorKind, Result};

impl Record {
    /// The rows with these indices of every array: one fold of a cross-validation, a table in another order.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] when the first axes differ, or an array is a scalar; [`ErrorKind::InvalidArgument`] when an index
    /// is not a row.
    pub fn gather_rows(&self, rows: &[usize]) -> Result<Self> {
        signature::batch_size(self)?;
        self.iter().try_fold(Self::new(), |record, (name, array)| {
            let array = array.gather_rows(rows).map_err(|error| error.at(format_args!("array {name:?}")))?;
            Ok(record.with(name, array))
        })
    }

    /// The rows in random parts of these shares, which sum to 1: training, validation and test data of a table, also one that is
    /// sorted. The parts have no row in common and follow from the seed alone, so another program finds the same test data.
    ///
    /// ```
    /// use elistimator::data::Record;
    ///
    /// let table = Record::new().with("x", (0..100i64).collect::<Vec<_>>());
    /// let [train, validation, test] = table.split([0.7, 0.15, 0.15], 7)?;
    /// assert_eq!([&train, &validation, &test].map(|part| part.get("x").unwrap().rows()), [70, 15, 15]);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for shares that are not above 0 or do not sum to 1, and when there are so few rows that a
    /// part has none; [`ErrorKind::Signature`] when the first axes differ, or an array is a scalar.
    #[doc(alias("train_test_split", "random_split"))]
    pub fn split<const N: usize>(&self, shares: [f64; N], seed: u64) -> Result<[Self; N]> {
        let invalid = |message: String| Error::new(ErrorKind::InvalidArgument, message);
        // NaN is not above 0.
        let is_whole = (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6;
        if !is_whole || !shares.iter().all(|&share| share > 0.0) {
            return Err(invalid(format!("split: found shares {shares:?}, expected numbers above 0 that sum to 1")));
        }
        let count = signature::batch_size(self)?;
        let mut rows: Vec<usize> = (0..count).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for last in (1..count).rev() {
            rows.swap(last, rng.gen_range(0..=last));
        }
        let (mut start, mut share) = (0, 0.0);
        let ends: [usize; N] = shares.map(|part| {
            share += part;
            ((share * count as f64).round() as usize).min(count)
        });
        let mut parts = [const { None }; N];
        for (part, end) in parts.iter_mut().zip(ends) {
            if end <= start {
                return Err(invalid(format!("split: {count} rows are too few for shares of {shares:?}")));
            }
            *part = Some(self.gather_rows(&rows[start..end])?);
            start = end;
        }
        Ok(parts.map(Option::unwrap_or_default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Array;

    fn table(rows: i64) -> Record {
        Record::new()
            .with("id", (0..rows).collect::<Vec<i64>>())
            .with("text", (0..rows).map(|n| n.to_string()).collect::<Vec<String>>())
    }

    fn ids(part: &Record) -> Vec<i64> {
        part.get("id").unwrap().as_slice::<i64>().unwrap().to_vec()
    }

    #[test]
    fn parts_share_no_row_and_are_all() {
        let parts = table(1000).split([0.7, 0.2, 0.1], 7).unwrap();
        assert_eq!(parts.each_ref().map(|part| ids(part).len()), [700, 200, 100]);
        let mut all: Vec<i64> = parts.iter().flat_map(ids).collect();
        assert_ne!(all, (0..1000).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        for part in &parts {
            let texts: Vec<String> = ids(part).iter().map(i64::to_string).collect();
            assert_eq!(part.get("text").unwrap().as_slice::<String>().unwrap(), texts);
            // A sorted table is mixed: the mean of each part is about that of all.
            let mean = ids(part).iter().sum::<i64>() / ids(part).len() as i64;
            assert!((400..600).contains(&mean), "{mean}");
        }
        assert_eq!(table(1000).split([0.7, 0.2, 0.1], 7).unwrap(), parts);
        assert_ne!(table(1000).split([0.7, 0.2, 0.1], 8).unwrap(), parts);
        let thirds = table(10).split([1.0 / 3.0; 3], 0).unwrap();
        assert_eq!(thirds.iter().map(|part| ids(part).len()).sum::<usize>(), 10);
        assert_eq!(ids(&table(5).split([1.0], 0).unwrap()[0]).len(), 5);
    }

    #[test]
    fn shares_that_cannot_be_are_refused() {
        for shares in [[0.5, 0.6], [0.5, 0.4], [1.5, -0.5], [1.0, 0.0], [f64::NAN, 1.0], [f64::INFINITY, 0.0]] {
            let error = table(100).split(shares, 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("sum to 1"), "{error}");
        }
        let error = table(3).split([0.9, 0.1], 0).unwrap_err().to_string();
        assert!(error.contains("3 rows are too few"), "{error}");
        assert!(table(3).split([], 0).is_err());
        assert_eq!(table(3).with("x", vec![1f32]).split([0.5, 0.5], 0).unwrap_err().kind(), ErrorKind::Signature);
    }

    #[test]
    fn rows_are_gathered_from_every_array() {
        let some = table(5).gather_rows(&[4, 0]).unwrap();
        assert_eq!(ids(&some), [4, 0]);
        assert_eq!(some.get("text").unwrap(), &Array::from(vec!["4", "0"]));
        let error = table(5).gather_rows(&[5]).unwrap_err();
        assert!(error.to_string().contains("array \"id\""), "{error}");
        assert_eq!(table(3).with("x", vec![1f32]).gather_rows(&[0]).unwrap_err().kind(), ErrorKind::Signature);
    }
}
