//! Stretches of consecutive records: time series.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::data::dataset::{Indices, Pass, Stage, Stream};
use crate::data::stages::stack;
use crate::data::{Dataset, Record};
use crate::{Error, ErrorKind, Result};

struct Window {
    input: Arc<dyn Stage>,
    size: usize,
    shift: usize,
}

impl Dataset {
    /// Every stretch of `size` consecutive records as one example, its arrays stacked along a new first axis: windows over a
    /// time series, each beginning `shift` records after the one before it. What is left over at the end, too short for a window, is
    /// left out, so that all have one shape. Cut into past and future by [`Array::crop`](crate::data::Array::crop), in `preprocess`
    /// for whole batches.
    ///
    /// Windows do not reach over the end of their input: `take` and `skip` before `window` part a series in time without a value
    /// on both sides. Several series are windows each, put together by `concatenate` or
    /// [`interleave`](Dataset::interleave). Over arrays in memory a window is numbers alone until the batch is gathered, also in
    /// a `shuffle` that comes right after it.
    ///
    /// Opening fails with [`ErrorKind::InvalidArgument`] for a size or shift of 0, or on batches.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let series = Dataset::from_arrays(Record::new().with("load", vec![0f32, 1.0, 2.0, 3.0, 4.0]))?;
    /// let windows = series.window(3, 1).batch(3); // or `.shuffle(n)` before `batch`
    /// let batch = windows.open(0, 0, 0)?.next().unwrap()?;
    /// assert_eq!(batch.get("load")?, &[[0f32, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 4.0]].into());
    /// let future = batch.get("load")?.crop(1, 2..3)?; // the last of each
    /// assert_eq!(future, [[2f32], [3.0], [4.0]].into());
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    #[doc(alias("timeseries_dataset_from_array"))]
    pub fn window(self, size: usize, shift: usize) -> Self {
        Self::from_stage(Window { input: self.stage, size, shift })
    }
}

impl Window {
    fn check(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::new(ErrorKind::InvalidArgument, format!("window: {message}")));
        if self.size == 0 || self.shift == 0 {
            let (size, shift) = (self.size, self.shift);
            return wrong(&format!("found the size {size} and the shift {shift}, expected at least 1 of both"));
        }
        if self.input.is_batched() {
            return wrong("the records are batches already; make windows before `batch`");
        }
        Ok(())
    }

    /// Where in the input a window begins.
    fn start(&self, position: u64) -> u64 {
        position.saturating_mul(self.shift as u64)
    }
}

impl Stage for Window {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        self.check()?;
        let place = |number: u64| move |error: Error| error.at(format_args!("window: element {number}"));
        if let Some(starts) = self.indices(pass, position) {
            let (input, size) = (Arc::clone(&self.input), self.size);
            return Ok(Stream::new(starts.zip(position..).map(move |(start, number)| {
                input.gather(&(start..start.saturating_add(size)).collect::<Vec<_>>()).map_err(place(number))
            })));
        }
        let mut records = self.input.open(pass, self.start(position))?;
        let (size, shift) = (self.size, self.shift);
        let (mut window, mut skip, mut number) = (VecDeque::<Record>::new(), 0, position);
        Ok(Stream::new(std::iter::from_fn(move || {
            while skip > 0 || window.len() < size {
                match records.next()? {
                    Ok(_) if skip > 0 => skip -= 1, // lies between two windows
                    Ok(record) => window.push_back(record),
                    Err(error) => {
                        // Records on both sides of the gap are not consecutive: the next window begins behind it.
                        (skip, number) = (0, number + 1);
                        window.clear();
                        return Some(Err(error));
                    }
                }
            }
            let stacked = stack(window.make_contiguous(), None).map_err(place(number));
            window.drain(..shift.min(size));
            (skip, number) = (shift.saturating_sub(size), number + 1);
            Some(stacked)
        })))
    }

    fn len(&self) -> Option<u64> {
        let after_first = self.input.len()?.checked_sub(self.size as u64);
        Some(after_first.map_or(0, |rest| rest / (self.shift.max(1) as u64) + 1))
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    /// The first row of each window, where the rows of the input follow each other.
    fn indices(&self, pass: Pass, position: u64) -> Option<Indices> {
        self.check().ok()?;
        self.input.len().filter(|_| !self.input.is_endless())?;
        let mut rows = self.input.indices(pass, 0)?;
        let first = rows.next()?;
        let mut count = 1;
        for row in rows {
            if row != first.checked_add(count)? {
                return None;
            }
            count += 1;
        }
        let windows = count.checked_sub(self.size).map_or(0, |rest| rest / self.shift + 1);
        let (shift, position) = (self.shift, usize::try_from(position).unwrap_or(usize::MAX));
        Some(Box::new((position.min(windows)..windows).map(move |window| first + window * shift)))
    }

    fn gather(&self, starts: &[usize]) -> Result<Record> {
        let rows: Vec<usize> = starts.iter().flat_map(|&start| start..start.saturating_add(self.size)).collect();
        let gathered = self.input.gather(&rows)?;
        gathered.iter().try_fold(Record::new(), |batch, (name, array)| {
            let mut dims = vec![starts.len(), self.size];
            dims.extend_from_slice(array.dims().get(1..).unwrap_or_default());
            Ok(batch.with(name, array.reshape(dims)?))
        })
    }

    fn describe(&self, out: &mut String) {
        out.push_str(&format!("window({}, shift {})", self.size, self.shift));
    }
}
