//! Recipes for streams of records.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::data::own_source::{Own, Source};
use crate::data::prefetch::Prefetch;
use crate::data::random_map::MapFn;
use crate::data::shuffle::Shuffle;
use crate::data::source::{Arrays, FromFn, Records};
use crate::data::stages::{Batch, Cast, Filter, Map, Repeat, Skip, Take};
use crate::data::{Dtype, Record, TextLines};
use crate::{Error, ErrorKind, Result};

/// The records of one pass, in order. It is an iterator; a record that cannot be had is an error in its place.
///
/// The lock is never waited for, since every use has the stream to itself: it makes the stream, and so an estimator with one
/// open, shareable between threads.
pub struct Stream(Mutex<Box<dyn Iterator<Item = Result<Record>> + Send>>);

impl Stream {
    pub(crate) fn new(records: impl Iterator<Item = Result<Record>> + Send + 'static) -> Self {
        Self(Mutex::new(Box::new(records)))
    }
}

impl Iterator for Stream {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).next()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

/// Which pass over the data: shuffles draw their order from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) seed: u64,
    pub(crate) epoch: u64,
}

impl Pass {
    /// The seed of the `depth`-th random stage. Fixed for ever: saved positions depend on it.
    pub(crate) fn stage_seed(self, depth: u64) -> u64 {
        [self.seed, self.epoch, depth].iter().fold(0x243f_6a88_85a3_08d3, |hash: u64, &part| {
            let mut x = hash ^ part.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_add(hash << 6);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        })
    }
}

impl Pass {
    /// The pass of the `index`-th of several inputs of one stage, so that equal shuffles in them differ.
    pub(crate) fn branch(self, index: usize) -> Self {
        Self { seed: self.stage_seed((1 << 62) | index as u64), epoch: self.epoch }
    }
}

/// Example numbers of one pass, for sources whose examples can be asked for by number.
pub(crate) type Indices = Box<dyn Iterator<Item = usize> + Send>;

/// One stage of a recipe.
pub(crate) trait Stage: Send + Sync + 'static {
    /// The records from the `position`-th on.
    fn open(&self, pass: Pass, position: u64) -> Result<Stream>;

    /// How many records a pass has, where that is known without making one. `None` also for endless data.
    fn len(&self) -> Option<u64>;

    /// How many random stages there are up to here, along the longest way.
    fn depth(&self) -> u64 {
        self.input().into_iter().chain(self.branches()).map(|input| input.depth()).max().unwrap_or(0)
    }

    /// The stage before, if there is one.
    fn input(&self) -> Option<&Arc<dyn Stage>> {
        None
    }

    /// The stages before, where there are several; then there is no [`Stage::input`].
    fn branches(&self) -> &[Arc<dyn Stage>] {
        &[]
    }

    /// Whether it is known that a pass never ends.
    fn is_endless(&self) -> bool {
        self.input().is_some_and(|input| input.is_endless())
    }

    /// Whether a pass never ends, unless there is no record at all: whether there is one is not always known beforehand.
    fn may_be_endless(&self) -> bool {
        self.input().into_iter().chain(self.branches()).any(|input| input.may_be_endless())
    }

    /// Where examples can be had by number: the numbers of this pass, from the `position`-th on. Shuffling numbers and
    /// gathering rows by them spares a record for every example.
    fn indices(&self, pass: Pass, position: u64) -> Option<Indices> {
        let _ = (pass, position);
        None
    }

    /// The examples of these numbers as one batch.
    fn gather(&self, rows: &[usize]) -> Result<Record> {
        let _ = rows;
        Err(Error::new(ErrorKind::Data, "this source has no examples by number"))
    }

    /// Whether the records are batches.
    fn is_batched(&self) -> bool {
        self.input().or(self.branches().first()).is_some_and(|input| input.is_batched())
    }

    /// The number of examples in a batch, where it is fixed.
    fn batch_size(&self) -> Option<u64> {
        let mut sizes = self.input().into_iter().chain(self.branches()).map(|input| input.batch_size());
        let first = sizes.next()?;
        sizes.all(|size| size == first).then_some(first).flatten()
    }

    /// The same stage without batches that are not full, where it makes batches of several sizes.
    fn without_remainders(&self) -> Option<Arc<dyn Stage>> {
        None
    }

    /// How examples of unequal shapes became batches, where they did.
    fn padding(&self) -> Option<&crate::data::Padding> {
        self.input().into_iter().chain(self.branches()).find_map(|input| input.padding())
    }

    /// What the stage is, for the comparison of a resumed run's data with the saved one's.
    fn describe(&self, out: &mut String);

    /// What the stage is, for a reader: also what makes no difference to a resumed run.
    fn label(&self) -> String {
        let mut out = String::new();
        self.describe(&mut out);
        out
    }

    /// For a prefetch stage, its input and how many records it keeps ready.
    fn as_prefetch(&self) -> Option<(&Arc<dyn Stage>, usize)> {
        None
    }
}

/// A recipe for data: a source and stages. It is cheap to clone, and gives a fresh [`Stream`] whenever it is opened: with
/// the seed and the number of the pass, which decide the order of shuffles, and the position to begin at.
///
/// ```
/// use elistimator::data::{Dataset, Record};
///
/// let numbers = Dataset::from_arrays(Record::new().with("n", vec![1i64, 2, 3, 4, 5]))?;
/// let batches: Vec<Record> = numbers.shuffle(5).batch(2).open(7, 0, 0)?.collect::<Result<_, _>>()?;
/// assert_eq!(batches.iter().map(|batch| batch.get("n").unwrap().len()).collect::<Vec<_>>(), [2, 2, 1]);
/// # Ok::<(), elistimator::Error>(())
/// ```
#[derive(Clone)]
#[doc(alias("DataLoader"))]
pub struct Dataset {
    pub(crate) stage: Arc<dyn Stage>,
}

impl Dataset {
    pub(crate) fn from_stage(stage: impl Stage) -> Self {
        Self { stage: Arc::new(stage) }
    }

    /// Arrays in memory whose first axes count the examples: MNIST, a table.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] when the first axes differ, or an array is a scalar.
    pub fn from_arrays(arrays: Record) -> Result<Self> {
        Ok(Self::from_stage(Arrays::new(arrays)?))
    }

    /// Records in memory: examples of different lengths.
    pub fn from_records(records: Vec<Record>) -> Self {
        Self::from_stage(Records::new(records))
    }

    /// Records from an iterator that `open` makes for every pass: a generator, a file read line by line. Errors and panics
    /// of the iterator reach the caller with the number of the record. A position in it is reached by skipping.
    pub fn from_fn<I>(open: impl Fn() -> Result<I> + Send + Sync + 'static) -> Self
    where
        I: Iterator<Item = Result<Record>> + Send + 'static,
    {
        Self::from_stage(FromFn::new(open))
    }

    /// Records from a [`Source`] of one's own, which can be entered at any position without making the records before it.
    pub fn from_source(source: impl Source) -> Self {
        Self::from_stage(Own::new(source))
    }

    /// The lines of a UTF-8 text file, gzipped where its name ends in `.gz`: records `{"line": text}`. [`TextLines`] has more
    /// to set. The file is opened with every pass.
    pub fn text_lines(path: impl Into<PathBuf>) -> Self {
        TextLines::new(path).dataset()
    }

    /// The lines of several text files one after another, as [`text_lines`](Self::text_lines) gives them.
    pub fn text_files<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        TextLines::files(paths).dataset()
    }

    /// The lines of several text files side by side: records `{name: text, ...}`, for sentences and their translations or
    /// tags. A file that ends before another one is an error that names both.
    pub fn zip_lines<N: Into<String>, P: Into<PathBuf>>(files: impl IntoIterator<Item = (N, P)>) -> Self {
        TextLines::zip(files).dataset()
    }

    /// Says that the records are batches already, as an iterator of one's own may give them.
    #[must_use]
    pub fn already_batched(self) -> Self {
        Self::from_stage(crate::data::stages::Batched { input: self.stage })
    }

    /// Turns every record into another one. An error or a panic in `f` reaches the caller with the record's number. What is
    /// random goes into [`random_map`](Self::random_map): a generator of your own is in no checkpoint.
    #[must_use]
    pub fn map(self, f: impl Fn(Record) -> Result<Record> + Send + Sync + 'static) -> Self {
        Self::from_stage(Map { input: self.stage, f: MapFn::Plain(Arc::new(f)) })
    }

    /// The same, but in front of a prefetch stage at the end, so that it runs on its thread.
    #[must_use]
    pub(crate) fn map_before_prefetch(self, f: impl Fn(Record) -> Result<Record> + Send + Sync + 'static) -> Self {
        let Some((input, ahead)) = self.stage.as_prefetch() else { return self.map(f) };
        Self { stage: Arc::clone(input) }.map(f).prefetch(ahead)
    }

    /// Converts an array's elements, for whole batches at a time: pixels kept as bytes become `f32`.
    #[must_use]
    pub fn cast(self, name: &str, dtype: Dtype) -> Self {
        Self::from_stage(Cast { input: self.stage, name: name.to_owned(), dtype })
    }

    /// Only the records for which `keep` says so.
    #[must_use]
    pub fn filter(self, keep: impl Fn(&Record) -> Result<bool> + Send + Sync + 'static) -> Self {
        Self::from_stage(Filter { input: self.stage, keep: Arc::new(keep) })
    }

    /// A new order in every pass, from a buffer of so many records: each record is drawn from the buffer, and the next one
    /// takes its place. A buffer as long as the data gives every order the same chance; opening fails with
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for one of 0.
    #[must_use]
    pub fn shuffle(self, buffer: usize) -> Self {
        Self::from_stage(Shuffle { input: self.stage, buffer })
    }

    /// Batches of `size` examples, each array stacked along a new first axis; the last batch has what is left.
    #[must_use]
    pub fn batch(&self, size: usize) -> Self {
        Self::from_stage(Batch::new(Arc::clone(&self.stage), size))
    }

    /// Batches of `size` examples of different lengths, padded at their ends to the longest of the batch; see
    /// [`Padding`](crate::data::Padding).
    #[must_use]
    pub fn padded_batch(&self, size: usize, padding: crate::data::Padding) -> Self {
        Self::from_stage(Batch::padded(Arc::clone(&self.stage), size, padding))
    }

    /// Leaves out a last batch that is not full. It costs least right after `batch` or
    /// `padded_batch`, where the number of full batches is known; later every batch is looked at.
    #[must_use]
    pub fn drop_remainder(self) -> Self {
        if let Some(stage) = self.stage.without_remainders() {
            return Self { stage };
        }
        match self.stage.batch_size() {
            Some(size) if self.is_batched() => {
                // Only right after `batch` does the stage before count examples; later it counts batches.
                let examples = self.stage.input().filter(|input| !input.is_batched()).and_then(|input| input.len());
                match examples {
                    Some(examples) => self.take(examples / size.max(1)),
                    None => self.filter(move |batch| Ok(crate::data::signature::batch_size(batch)? as u64 == size)),
                }
            }
            _ => self,
        }
    }

    /// The first `count` records. Behind a `shuffle` these are others in every pass: to hold data back for validation, take and
    /// skip before it, or use [`Record::split`].
    #[must_use]
    pub fn take(self, count: u64) -> Self {
        Self::from_stage(Take { input: self.stage, count })
    }

    /// All but the first `count` records.
    #[must_use]
    pub fn skip(self, count: u64) -> Self {
        Self::from_stage(Skip { input: self.stage, count })
    }

    /// So many passes as one, each in its own order.
    #[must_use]
    pub fn repeat(self, times: u64) -> Self {
        Self::from_stage(Repeat { input: self.stage, times: Some(times) })
    }

    /// Pass after pass without end: train with `train_steps`.
    #[must_use]
    pub fn repeat_forever(self) -> Self {
        Self::from_stage(Repeat { input: self.stage, times: None })
    }

    /// Makes up to `ahead` records ready on a thread of its own while the last one is used. Put it last. Opening fails with
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for more than 2^20.
    #[must_use]
    pub fn prefetch(self, ahead: usize) -> Self {
        Self::from_stage(Prefetch { input: self.stage, ahead })
    }

    /// The records of the `epoch`-th pass of a run with this seed, from the `position`-th on: exactly those that an unbroken
    /// pass would give from there.
    ///
    /// # Errors
    /// When the source cannot be opened.
    pub fn open(&self, seed: u64, epoch: u64, position: u64) -> Result<Stream> {
        self.stage.open(Pass { seed, epoch }, position)
    }

    /// How many records a pass has, where that is known without making one.
    #[allow(clippy::len_without_is_empty)] // whether a pass is empty is known only by making one
    pub fn len(&self) -> Option<u64> {
        self.stage.len()
    }

    /// Whether the records are batches.
    pub fn is_batched(&self) -> bool {
        self.stage.is_batched()
    }

    pub(crate) fn padding(&self) -> Option<&crate::data::Padding> {
        self.stage.padding()
    }

    /// The number of examples in a batch, where it is fixed.
    pub fn batch_size(&self) -> Option<u64> {
        self.stage.batch_size()
    }
}
