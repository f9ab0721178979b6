//! A map on several threads whose results keep their order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::random_map::MapFn;
use crate::data::stages::guard;
use crate::data::{Dataset, Record};
use crate::{Error, ErrorKind, Result, unwind};

/// More threads than any machine has use for: a slip of the hand, not a setting.
const MOST_THREADS: usize = 1024;

pub(crate) struct ParallelMap {
    pub(crate) input: Arc<dyn Stage>,
    pub(crate) threads: usize,
    pub(crate) f: MapFn,
}

impl ParallelMap {
    fn name(&self) -> &'static str {
        self.f.name("parallel_map", "parallel_random_map")
    }
}

impl Dataset {
    /// [`map`](Dataset::map) on so many threads, for work that one thread does too slowly: decoding images, tokenising. The
    /// records come in the order of the input whatever the number of threads; at most twice as many as there are threads are
    /// ready or being made at a time. The threads belong to the stream, and end when it is dropped.
    ///
    /// An error or a panic in `f` reaches the caller in the place of the record, with its number. Opening fails with
    /// [`ErrorKind::InvalidArgument`] for no threads, or more than 1024.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let numbers = Dataset::from_arrays(Record::new().with("n", vec![1i64, 2, 3]))?;
    /// let squares = numbers.parallel_map(2, |record| {
    ///     let n = record.get("n")?.as_slice::<i64>()?[0];
    ///     Ok(Record::new().with("square", n * n))
    /// });
    /// let squares: Vec<Record> = squares.open(0, 0, 0)?.collect::<Result<_, _>>()?;
    /// assert_eq!(squares[2].get("square")?.as_slice::<i64>()?, [9]);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    pub fn parallel_map(self, threads: usize, f: impl Fn(Record) -> Result<Record> + Send + Sync + 'static) -> Self {
        Self::from_stage(ParallelMap { input: self.stage, threads, f: MapFn::Plain(Arc::new(f)) })
    }
}

type Numbered = (u64, Result<Record>);

/// What the threads take records from, in turn; nothing once it is over, or nobody waits for more.
struct Input {
    records: Option<Stream>,
    number: u64,
}

/// The work of one thread. A permit is taken before a record, so that there is never more under way than permits.
fn work(
    stage: &str,
    input: &Mutex<Input>,
    permits: &Receiver<()>,
    results: &Sender<Numbered>,
    f: impl Fn(Record, u64) -> Result<Record>,
) {
    while permits.recv().is_ok() {
        let (number, record) = {
            let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(records) = &mut input.records else { return };
            let next = unwind::catch(|| records.next());
            if !matches!(next, Ok(Some(_))) {
                input.records = None;
            }
            let record = match next {
                Ok(None) => return,
                Ok(Some(record)) => record,
                Err(panic) => {
                    let message = format!("{stage}: element {}: the pipeline panicked: {panic}", input.number);
                    Err(Error::new(ErrorKind::Data, message))
                }
            };
            input.number += 1;
            (input.number - 1, record)
        };
        let result = record.and_then(|record| guard(stage, number, || f(record, number)));
        if results.send((number, result)).is_err() {
            return;
        }
    }
}

/// Puts the results in order. Dropping it takes the input away, which ends the threads after the record each is making.
struct Mapped {
    input: Arc<Mutex<Input>>,
    results: Receiver<Numbered>,
    early: BTreeMap<u64, Result<Record>>,
    number: u64,
    permits: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Iterator for Mapped {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        let result = loop {
            if let Some(result) = self.early.remove(&self.number) {
                break result;
            }
            // All senders are gone once the input is over and every thread has seen that.
            let (number, result) = self.results.recv().ok()?;
            self.early.insert(number, result);
        };
        self.number += 1;
        if let Some(permits) = &self.permits {
            // It fails only when no thread is left to take it.
            let _ = permits.send(());
        }
        Some(result)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.permits = None;
        // Permits still in the channel would let the threads go on.
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner).records.take();
        drop(input);
        for thread in self.threads.drain(..) {
            // Its panics were sent as errors, so there is nothing left to say.
            let _ = thread.join();
        }
    }
}

impl Stage for ParallelMap {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        if !(1..=MOST_THREADS).contains(&self.threads) {
            let message = format!("{}: found {} threads, expected 1 to {MOST_THREADS}", self.name(), self.threads);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let records = self.input.open(pass, position)?;
        let input = Arc::new(Mutex::new(Input { records: Some(records), number: position }));
        let (permits, taken) = unbounded();
        (0..2 * self.threads).for_each(|_| {
            let _ = permits.send(());
        });
        let (sender, results) = unbounded();
        let early = BTreeMap::new();
        let shared = Arc::clone(&input);
        let permits = Some(permits);
        let mut mapped = Mapped { input: shared, results, early, number: position, permits, threads: Vec::new() };
        let (stage, f) = (self.name(), self.f.in_pass(pass, self.depth()));
        for _ in 0..self.threads {
            let (input, taken, sender, f) = (Arc::clone(&input), taken.clone(), sender.clone(), f.clone());
            let thread = std::thread::Builder::new()
                .name("elistimator-map".into())
                .spawn(move || work(stage, &input, &taken, &sender, f))
                .map_err(|error| Error::with_source(ErrorKind::Io, "parallel_map: cannot start a thread", error))?;
            mapped.threads.push(thread);
        }
        Ok(Stream::new(mapped))
    }

    fn len(&self) -> Option<u64> {
        self.input.len()
    }

    fn depth(&self) -> u64 {
        self.input.depth() + self.f.depth()
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn without_remainders(&self) -> Option<Arc<dyn Stage>> {
        let input = self.input.without_remainders()?;
        Some(Arc::new(Self { input, threads: self.threads, f: self.f.clone() }))
    }

    // The number of threads does not change what comes.
    fn describe(&self, out: &mut String) {
        out.push_str(self.name());
    }

    fn label(&self) -> String {
        format!("{}({} threads)", self.name(), self.threads)
    }
}
