//! Batches of examples of about one length.

use std::sync::Arc;

use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::stages::stack;
use crate::data::{Dataset, Padding, Record};
use crate::{Error, ErrorKind, Result};

#[derive(Clone)]
struct Buckets {
    input: Arc<dyn Stage>,
    name: String,
    boundaries: Vec<usize>,
    sizes: Vec<usize>,
    padding: Padding,
    drop_remainder: bool,
}

impl Dataset {
    /// Padded batches of examples of about one length, so that little of a batch is padding: sentences, spectrograms. The
    /// length is that of the first axis of the array `name`. Bucket 0 takes lengths below `boundaries[0]`, bucket `i` those
    /// from `boundaries[i - 1]` on and below `boundaries[i]`, and a last one the rest; each gives a batch when it has
    /// `sizes[i]` examples, so there is one size more than there are boundaries. At the end of the pass come batches of
    /// what is left, unless [`drop_remainder`](Dataset::drop_remainder) follows.
    ///
    /// Up to the sum of `sizes` examples are held. A position is reached by reading the examples before it again.
    ///
    /// # Errors
    /// Opening fails with [`ErrorKind::InvalidArgument`] when boundaries do not grow, a size is 0, or their numbers do not
    /// fit; an example without the array, or where it is a scalar, is an error in place.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Padding, Record};
    ///
    /// let ids = [1usize, 9, 2, 8].map(|len| Record::new().with("ids", vec![7i64; len]));
    /// let sentences = Dataset::from_records(ids.to_vec());
    /// let batches = sentences.bucket_by_length("ids", &[5], &[2, 2], Padding::new());
    /// let shapes: Vec<Vec<usize>> =
    ///     batches.open(0, 0, 0)?.map(|batch| Ok(batch?.get("ids")?.dims().to_vec())).collect::<Result<_, elistimator::Error>>()?;
    /// assert_eq!(shapes, [[2, 2], [2, 9]]);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    pub fn bucket_by_length(&self, name: &str, boundaries: &[usize], sizes: &[usize], padding: Padding) -> Self {
        let (boundaries, sizes) = (boundaries.to_vec(), sizes.to_vec());
        let input = Arc::clone(&self.stage);
        Self::from_stage(Buckets { input, name: name.to_owned(), boundaries, sizes, padding, drop_remainder: false })
    }
}

impl Buckets {
    fn check(&self) -> Result<()> {
        let (boundaries, sizes) = (&self.boundaries, &self.sizes);
        let message = if self.input.is_batched() {
            "the records are batches already; batch once".to_owned()
        } else if !boundaries.is_sorted_by(|left, right| left < right) {
            format!("found the boundaries {boundaries:?}, expected each to be above the one before")
        } else if sizes.len() != boundaries.len() + 1 {
            format!("found {} sizes for {} boundaries, expected one more than those", sizes.len(), boundaries.len())
        } else if sizes.contains(&0) {
            format!("found the batch sizes {sizes:?}, expected at least 1 each")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidArgument, format!("bucket_by_length: {message}")))
    }

    fn bucket(&self, example: &Record) -> Result<usize> {
        let array = example.get(&self.name)?;
        let Some(&length) = array.dims().first() else {
            return Err(Error::new(ErrorKind::Data, format!("input {:?} is a scalar, which has no length", self.name)));
        };
        Ok(self.boundaries.partition_point(|&boundary| boundary <= length))
    }

    /// The next group of examples that makes a batch.
    fn group(
        &self,
        examples: &mut impl Iterator<Item = (Result<Record>, u64)>,
        buckets: &mut [Vec<Record>],
    ) -> Option<Result<Vec<Record>>> {
        for (example, number) in examples {
            let placed = example.and_then(|example| Ok((self.bucket(&example)?, example)));
            match placed.map_err(|error| error.at(format_args!("bucket_by_length: element {number}"))) {
                Ok((index, example)) => {
                    buckets[index].push(example);
                    if buckets[index].len() == self.sizes[index] {
                        return Some(Ok(std::mem::take(&mut buckets[index])));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
        let rest = buckets.iter_mut().find(|bucket| !bucket.is_empty()).filter(|_| !self.drop_remainder)?;
        Some(Ok(std::mem::take(rest)))
    }
}

impl Stage for Buckets {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        self.check()?;
        let this = self.clone();
        let mut examples = self.input.open(pass, 0)?.fuse().zip(0u64..);
        let mut buckets = vec![Vec::new(); self.sizes.len()];
        // Before the position examples are put together, but not copied into batches.
        for _ in 0..position {
            match this.group(&mut examples, &mut buckets) {
                Some(group) => drop(group?),
                None => break,
            }
        }
        let mut number = position;
        Ok(Stream::new(std::iter::from_fn(move || {
            let group = this.group(&mut examples, &mut buckets)?;
            number += 1;
            Some(group.and_then(|group| {
                stack(&group, Some(&this.padding))
                    .map_err(|error| error.at(format_args!("bucket_by_length: batch {}", number - 1)))
            }))
        })))
    }

    fn len(&self) -> Option<u64> {
        None
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn padding(&self) -> Option<&Padding> {
        Some(&self.padding)
    }

    fn is_batched(&self) -> bool {
        true
    }

    fn batch_size(&self) -> Option<u64> {
        let (first, rest) = self.sizes.split_first()?;
        rest.iter().all(|size| size == first).then_some(*first as u64)
    }

    fn without_remainders(&self) -> Option<Arc<dyn Stage>> {
        Some(Arc::new(Self { drop_remainder: true, ..self.clone() }))
    }

    fn describe(&self, out: &mut String) {
        let rest = if self.drop_remainder { ", no remainders" } else { "" };
        out.push_str(&format!("buckets({} {:?} {:?}{rest})", self.name, self.boundaries, self.sizes));
        self.padding.describe(out);
    }

    fn label(&self) -> String {
        let rest = if self.drop_remainder { ".drop_remainder()" } else { "" };
        format!("bucket_by_length({:?}, {:?}, {:?}){rest}", self.name, self.boundaries, self.sizes)
    }
}
