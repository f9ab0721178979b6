//! Sequences of one length.

use crate::data::{Array, Element};
use crate::{Error, ErrorKind, Result};

/// Which end of a sequence gives way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Side {
    /// Filled up and cut at its beginning: the last tokens stay.
    Left,
    /// Filled up and cut at its end: the first tokens stay.
    #[default]
    Right,
}

/// Makes a sequence of ids, strings or numbers exactly `length` long: for models that want one length, where
/// `padded_batch` would give each batch its own.
///
/// ```
/// use elistimator::text::{Side, pad_or_truncate};
///
/// assert_eq!(pad_or_truncate(&[4i64, 5], 4, Side::Right, 0)?, [4, 5, 0, 0]);
/// assert_eq!(pad_or_truncate(&[4i64, 5, 6], 2, Side::Left, 0)?, [5, 6]);
/// # Ok::<(), elistimator::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when memory does not hold that length.
pub fn pad_or_truncate<T: Clone>(values: &[T], length: usize, side: Side, pad: T) -> Result<Vec<T>> {
    let mut out = with_capacity(length)?;
    let (kept, filled) = (values.len().min(length), length.saturating_sub(values.len()));
    match side {
        Side::Left => {
            out.resize(filled, pad);
            out.extend_from_slice(&values[values.len() - kept..]);
        }
        Side::Right => {
            out.extend_from_slice(&values[..kept]);
            out.resize(length, pad);
        }
    }
    Ok(out)
}

/// Rows of unequal length, such as the ids of the characters of each word, as one array `[rows, width]`, and their lengths
/// as i64 `[rows]`. The width is that of the longest row; rows longer than `max_width` are cut at their ends, and so are
/// their lengths. `padded_batch` makes `[batch, words, characters]` and `[batch, words]` of such arrays.
///
/// ```
/// use elistimator::text::{Tokenizer, Vocabulary, pad_rows};
///
/// let characters = Vocabulary::builder().padding("").oov_buckets(1).from_tokens(["a", "b", "c"])?;
/// let ids = ["ab", "cab!"].map(|word| characters.ids(&Tokenizer::characters().tokens(word)));
/// let ids = ids.into_iter().collect::<Result<Vec<_>, _>>()?;
/// let (grid, lengths) = pad_rows(&ids, usize::MAX, 0)?;
/// assert_eq!((grid.dims(), grid.as_slice::<i64>()?), (&[2, 4][..], &[1, 2, 0, 0, 3, 1, 2, 4][..]));
/// assert_eq!(lengths.as_slice::<i64>()?, [2, 4]);
/// # Ok::<(), elistimator::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when memory does not hold the array.
pub fn pad_rows<T: Element, R: AsRef<[T]>>(rows: &[R], max_width: usize, pad: T) -> Result<(Array, Array)> {
    let width = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0).min(max_width);
    let mut values = with_capacity(rows.len().saturating_mul(width))?;
    let mut lengths = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let row = &row.as_ref()[..row.as_ref().len().min(width)];
        values.extend_from_slice(row);
        values.resize((index + 1) * width, pad.clone());
        lengths.push(row.len() as i64);
    }
    Ok((Array::new([rows.len(), width], values)?, lengths.into()))
}

fn with_capacity<T>(length: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(length).map_err(|error| {
        Error::with_source(ErrorKind::InvalidArgument, format!("no memory for a sequence of {length}"), error)
    })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_get_their_length_at_either_side() {
        let values = [1i64, 2, 3];
        for (length, left, right) in [
            (0, vec![], vec![]),
            (2, vec![2, 3], vec![1, 2]),
            (3, vec![1, 2, 3], vec![1, 2, 3]),
            (5, vec![9, 9, 1, 2, 3], vec![1, 2, 3, 9, 9]),
        ] {
            assert_eq!(pad_or_truncate(&values, length, Side::Left, 9).unwrap(), left);
            assert_eq!(pad_or_truncate(&values, length, Side::Right, 9).unwrap(), right);
        }
        let words = ["a".to_owned()];
        assert_eq!(pad_or_truncate(&words, 2, Side::Left, String::new()).unwrap(), ["", "a"]);
        assert_eq!(pad_or_truncate(&[], 1, Side::Left, "x").unwrap(), ["x"]);
        for length in [usize::MAX, usize::MAX / 8] {
            let error = pad_or_truncate(&values, length, Side::Right, 9).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn rows_become_a_grid_with_their_lengths() {
        let rows = [vec![1i64, 2, 3], vec![], vec![4]];
        let (grid, lengths) = pad_rows(&rows, 10, 0).unwrap();
        assert_eq!(grid, Array::new([3, 3], vec![1i64, 2, 3, 0, 0, 0, 4, 0, 0]).unwrap());
        assert_eq!(lengths, Array::from(vec![3i64, 0, 1]));
        let (grid, lengths) = pad_rows(&rows, 2, -1).unwrap();
        assert_eq!(grid, Array::new([3, 2], vec![1i64, 2, -1, -1, 4, -1]).unwrap());
        assert_eq!(lengths, Array::from(vec![2i64, 0, 1]));
        let text = [["a".to_owned()].to_vec(), ["b".to_owned(), "c".to_owned()].to_vec()];
        let (grid, _) = pad_rows(&text, 9, String::new()).unwrap();
        assert_eq!(grid.as_slice::<String>().unwrap(), ["a", "", "b", "c"]);
        let (grid, lengths) = pad_rows::<i64, Vec<i64>>(&[], 9, 0).unwrap();
        assert_eq!((grid.dims(), lengths.dims()), (&[0, 0][..], &[0][..]));
    }

    #[test]
    fn batches_pad_words_and_characters() {
        use crate::data::{Dataset, Padding, Record};
        let sentences = [vec![vec![1i64, 2], vec![3]], vec![vec![4, 5, 6]]];
        let records: Vec<Record> = sentences
            .iter()
            .map(|words| {
                let (characters, lengths) = pad_rows(words, 99, 0).unwrap();
                Record::new().with("characters", characters).with("word_lengths", lengths)
            })
            .collect();
        let batches = Dataset::from_records(records).padded_batch(2, Padding::new().lengths("characters", "lengths"));
        let batch = batches.open(0, 0, 0).unwrap().next().unwrap().unwrap();
        let expected = vec![1i64, 2, 0, 3, 0, 0, 4, 5, 6, 0, 0, 0];
        assert_eq!(batch.get("characters").unwrap(), &Array::new([2, 2, 3], expected).unwrap());
        assert_eq!(batch.get("word_lengths").unwrap(), &Array::from([[2i64, 1], [3, 0]]));
        assert_eq!(batch.get("lengths").unwrap(), &Array::from(vec![2i64, 1]));
    }
}
