//! Named arrays: one example, or one batch.

#[cfg(feature = "cuda")]
use std::any::Any;
#[cfg(feature = "cuda")]
use std::panic::{RefUnwindSafe, UnwindSafe};
#[cfg(feature = "cuda")]
use std::sync::Arc;

use crate::data::Array;
use crate::{Error, ErrorKind, Result};

/// Named arrays in the order they were given: an example, a batch, a request, or a model's outputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    entries: Vec<(String, Array)>,
    #[cfg(feature = "cuda")]
    beside: Beside,
}

/// The name that a record has not, and those that it has: for who knows better why.
#[derive(Debug)]
pub(crate) struct Absent {
    pub(crate) name: String,
    known: Vec<String>,
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "known are {:?}", self.known)
    }
}

impl std::error::Error for Absent {}

/// What a device knows of a record and nobody else: no part of its value, and nothing once the record is changed.
#[cfg(feature = "cuda")]
#[derive(Clone, Default)]
struct Beside(Option<Arc<dyn Any + Send + Sync + UnwindSafe + RefUnwindSafe>>);

#[cfg(feature = "cuda")]
impl PartialEq for Beside {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(feature = "cuda")]
impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "something" } else { "nothing" })
    }
}

#[cfg(feature = "cuda")]
impl Record {
    /// Puts something of a device beside the arrays.
    pub(crate) fn set_beside(&mut self, something: Arc<dyn Any + Send + Sync + UnwindSafe + RefUnwindSafe>) {
        self.beside = Beside(Some(something));
    }

    /// What was put there, if it is of this type.
    pub(crate) fn beside<T: 'static>(&self) -> Option<&T> {
        let something: &dyn Any = self.beside.0.as_deref()?;
        something.downcast_ref()
    }
}

impl Record {
    /// No arrays yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more array; one of the same name is replaced.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, array: impl Into<Array>) -> Self {
        self.insert(name, array);
        self
    }

    /// Puts an array under a name; one of the same name is replaced.
    pub fn insert(&mut self, name: impl Into<String>, array: impl Into<Array>) {
        let (name, array) = (name.into(), array.into());
        self.forget();
        match self.entries.iter_mut().find(|(known, _)| *known == name) {
            Some((_, place)) => *place = array,
            None => self.entries.push((name, array)),
        }
    }

    /// Takes an array out.
    pub fn remove(&mut self, name: &str) -> Option<Array> {
        let index = self.entries.iter().position(|(known, _)| known == name)?;
        self.forget();
        Some(self.entries.remove(index).1)
    }

    /// The array of this name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] listing the names that there are.
    pub fn get(&self, name: &str) -> Result<&Array> {
        self.entries.iter().find(|(known, _)| known == name).map(|(_, array)| array).ok_or_else(|| {
            let known = self.names().map(str::to_owned).collect();
            let absent = Absent { name: name.to_owned(), known };
            Error::with_source(ErrorKind::NotFound, format!("no array named {name:?}"), absent)
        })
    }

    /// Whether there is an array of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.iter().any(|(known, _)| known == name)
    }

    /// Arrays of one number per row, such as the columns of a table, side by side: f32 `[rows, names]`, what a dense layer takes.
    ///
    /// ```
    /// use elistimator::data::Record;
    ///
    /// let table = Record::new().with("age", vec![40i64, 31]).with("member", vec![true, false]);
    /// assert_eq!(table.matrix(&["age", "member"])?, [[40f32, 1.0], [31.0, 0.0]].into());
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] listing the names that there are; [`ErrorKind::Signature`] naming an array of text, of another rank
    /// or with another number of rows.
    pub fn matrix(&self, names: &[impl AsRef<str>]) -> Result<Array> {
        let mut columns = Vec::with_capacity(names.len());
        for name in names.iter().map(AsRef::as_ref) {
            let array = self.get(name)?;
            let rows = columns.first().map_or(array.len(), Vec::len);
            if array.dims() != [rows] {
                let message = format!(
                    "column {name:?}: found {} of shape {:?}, expected numbers of shape [{rows}]",
                    array.dtype(),
                    array.dims()
                );
                return Err(Error::new(ErrorKind::Signature, message));
            }
            columns.push(array.to_f32().map_err(|error| error.at(format_args!("column {name:?}")))?);
        }
        let rows = columns.first().map_or(0, Vec::len);
        let mut values = Vec::with_capacity(rows * columns.len());
        for row in 0..rows {
            values.extend(columns.iter().map(|column| column[row]));
        }
        Array::new([rows, columns.len()], values)
    }

    /// Names and arrays, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.entries.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// Forgets what was about the arrays as they were.
    fn forget(&mut self) {
        #[cfg(feature = "cuda")]
        {
            self.beside = Beside::default();
        }
    }

    /// The number of arrays.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no array.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A [`Record`] written down: `inputs! { "images" => array, "mask" => vec![true, false] }`. Values are whatever becomes an
/// [`Array`].
#[macro_export]
macro_rules! inputs {
    ($($name:expr => $array:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut record = $crate::data::Record::new();
        $(record.insert($name, $array);)*
        record
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_are_no_columns_are_named() {
        let table = Record::new()
            .with("age", vec![1f64, 2.0])
            .with("name", vec!["a", "b"])
            .with("short", vec![1i64])
            .with("wide", [[1f32, 2.0], [3.0, 4.0]])
            .with("one", 1i64);
        let error = |names: &[&str]| table.matrix(names).unwrap_err().to_string();
        assert_eq!(error(&["age", "short"]), "column \"short\": found i64 of shape [1], expected numbers of shape [2]");
        assert!(error(&["age", "wide"]).contains("column \"wide\": found f32 of shape [2, 2]"));
        assert!(error(&["one"]).contains("column \"one\": found i64 of shape []"));
        assert!(error(&["age", "name"]).contains("column \"name\""));
        assert!(error(&["age", "years"]).contains("known are"));
        assert_eq!(table.matrix(&["age"]).unwrap(), [[1f32], [2.0]].into());
        assert_eq!(table.matrix(&[""; 0]).unwrap().dims(), [0, 0]);
    }
}
