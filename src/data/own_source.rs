//! Sources of one's own.

use std::sync::Arc;

use crate::data::Record;
use crate::data::dataset::{Pass, Stage, Stream};
use crate::{Error, ErrorKind, Result, unwind};

/// Records from a place of your own that can be entered anywhere: a database, a file with an index, a service. Where it can
/// only be read from its beginning, [`Dataset::from_fn`](crate::data::Dataset::from_fn) is less to write.
///
/// Every pass must give the same records in the same order; `shuffle` and the other stages do the rest. Panics of the three
/// functions and of the iterator become errors of [`ErrorKind::Data`] with the number of the record.
///
/// ```
/// use elistimator::Result;
/// use elistimator::data::{Dataset, Record, Source};
///
/// struct Squares;
///
/// impl Source for Squares {
///     fn len(&self) -> Option<u64> {
///         Some(100)
///     }
///
///     fn open(&self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> {
///         Ok(Box::new((position..100).map(|n| Ok(Record::new().with("square", (n * n) as i64)))))
///     }
///
///     fn describe(&self) -> String {
///         "squares up to 99".to_owned()
///     }
/// }
///
/// let last = Dataset::from_source(Squares).open(0, 0, 99)?.next();
/// assert_eq!(last.unwrap()?.get("square")?.as_slice::<i64>()?, [9801]);
/// # Ok::<(), elistimator::Error>(())
/// ```
#[allow(clippy::len_without_is_empty)] // whether there are none is known only by making one
pub trait Source: Send + Sync + 'static {
    /// How many records there are, where that is known without making them: progress bars and schedules use it.
    fn len(&self) -> Option<u64> {
        None
    }

    /// The records from the `position`-th on, which must be those that are left after so many of `open(0)`; beyond the end,
    /// none.
    ///
    /// # Errors
    /// When they cannot be had, with a message that says what was looked for and where.
    fn open(&self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>>;

    /// What the data is, in a few words that change when the data does: a resumed run compares them with the saved one's.
    fn describe(&self) -> String;
}

/// A source as the first stage of a recipe.
pub(crate) struct Own<S> {
    source: Arc<S>,
}

impl<S: Source> Own<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source: Arc::new(source) }
    }
}

impl<S: Source> Stage for Own<S> {
    fn open(&self, _: Pass, position: u64) -> Result<Stream> {
        let opened = unwind::catch(|| self.source.open(position)).map_err(|panic| {
            Error::new(
                ErrorKind::Data,
                format!("the source panicked when it was opened at element {position}: {panic}"),
            )
        })?;
        Ok(Stream::new(numbered(opened?, position)))
    }

    fn len(&self) -> Option<u64> {
        // A source that panics here has no length; `open` will say more.
        unwind::catch(|| self.source.len()).unwrap_or_default()
    }

    fn describe(&self, out: &mut String) {
        let words = unwind::catch(|| self.source.describe());
        out.push_str(&words.unwrap_or_else(|panic| format!("a source whose description panicked: {panic}")));
    }
}

/// Records whose errors and panics carry the number of the record, and which end with the first of them: what an iterator
/// gives after that is anyone's guess.
pub(crate) fn numbered(
    mut records: impl Iterator<Item = Result<Record>>,
    first: u64,
) -> impl Iterator<Item = Result<Record>> {
    let mut number = first;
    let mut over = false;
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        let item = match unwind::catch(|| records.next()) {
            Ok(item) => item.map(|item| item.map_err(|error| error.at(format_args!("input: element {number}")))),
            Err(panic) => {
                let message = format!("input: element {number}: the input panicked: {panic}");
                Some(Err(Error::new(ErrorKind::Data, message)))
            }
        };
        number = number.saturating_add(1);
        over = !matches!(item, Some(Ok(_)));
        item
    })
}
