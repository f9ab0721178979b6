//! Records prepared on a thread of their own, from the moment on that it is known what to prepare.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::data::dataset::{Pass, Stage, Stream};
use crate::data::{Dataset, Record};
use crate::{Error, Result, heap};

/// What is done to records before they are handed out. It changes none of them, and does not panic.
pub(crate) trait Preparation: Send + Sync + 'static {
    /// Whether there is anything to prepare; before that there is no thread.
    fn is_known(&self) -> bool;

    /// Prepares a record, on the thread.
    fn ahead(&self, record: Record) -> Record;

    /// Takes a record as it is, where it is asked for.
    fn here(&self, record: Record) -> Record;

    /// Records that were prepared went back unused.
    fn left_over(&self);
}

/// The last stage of data: it takes up to two records ahead of the one that is handed out.
pub(crate) struct Ahead<P> {
    input: Arc<dyn Stage>,
    preparation: Arc<P>,
}

impl Dataset {
    pub(crate) fn ahead(self, preparation: impl Preparation) -> Self {
        Self::from_stage(Ahead { input: self.stage, preparation: Arc::new(preparation) })
    }
}

impl<P: Preparation> Stage for Ahead<P> {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        let records = From::Here(self.input.open(pass, position)?);
        Ok(Stream::new(Prepared { records, preparation: Arc::clone(&self.preparation) }))
    }

    fn len(&self) -> Option<u64> {
        self.input.len()
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    // It changes no record.
    fn describe(&self, _: &mut String) {}
}

/// What comes from the thread.
enum Item {
    Record(Record),
    Failed(Error),
    /// The input panicked: the panic, and the input as that left it.
    Panicked(Box<dyn Any + Send>, Stream),
}

/// Where records are taken.
enum From {
    Here(Stream),
    /// One item waits in the channel, and one for room in it. The thread tells whether it was left with one.
    Thread(Receiver<Item>, JoinHandle<bool>),
    Nowhere,
}

struct Prepared<P: Preparation> {
    records: From,
    preparation: Arc<P>,
}

fn work(input: &Receiver<Stream>, items: &Sender<Item>, preparation: &impl Preparation) -> bool {
    heap::keep();
    let Ok(mut input) = input.recv() else { return false };
    loop {
        let item = match catch_unwind(AssertUnwindSafe(|| input.next())) {
            Ok(None) => return false,
            Ok(Some(Ok(record))) => Item::Record(preparation.ahead(record)),
            Ok(Some(Err(error))) => {
                // Nobody goes on after an error.
                let _ = items.send(Item::Failed(error));
                return false;
            }
            Err(panic) => {
                let _ = items.send(Item::Panicked(panic, input));
                return false;
            }
        };
        if items.send(item).is_err() {
            return true;
        }
    }
}

impl<P: Preparation> Prepared<P> {
    /// The input, on a thread from now on; where there can be no thread it stays here.
    fn start(&self, input: Stream) -> From {
        let (sender, items) = bounded(1);
        let (hand_over, taken) = bounded(1);
        let preparation = Arc::clone(&self.preparation);
        let thread = std::thread::Builder::new()
            .name("elistimator-ahead".into())
            .spawn(move || work(&taken, &sender, preparation.as_ref()));
        match thread {
            Ok(thread) => match hand_over.send(input) {
                Ok(()) => From::Thread(items, thread),
                Err(refused) => From::Here(refused.0),
            },
            Err(error) => {
                log::debug!("records are prepared where they are asked for: {error}");
                From::Here(input)
            }
        }
    }
}

impl<P: Preparation> Iterator for Prepared<P> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.preparation.is_known() {
            self.records = match std::mem::replace(&mut self.records, From::Nowhere) {
                From::Here(input) => self.start(input),
                started => started,
            };
        }
        match &mut self.records {
            From::Here(input) => Some(input.next()?.map(|record| self.preparation.here(record))),
            From::Thread(items, _) => match items.recv() {
                Ok(Item::Record(record)) => Some(Ok(record)),
                Ok(Item::Failed(error)) => Some(Err(error)),
                Ok(Item::Panicked(panic, input)) => {
                    // As if there were no thread, also for whoever goes on after it.
                    self.records = From::Here(input);
                    resume_unwind(panic)
                }
                Err(_) => {
                    // The end, unless the thread has another reason.
                    if let From::Thread(_, thread) = std::mem::replace(&mut self.records, From::Nowhere)
                        && let Err(panic) = thread.join()
                    {
                        resume_unwind(panic);
                    }
                    None
                }
            },
            From::Nowhere => None,
        }
    }
}

impl<P: Preparation> Drop for Prepared<P> {
    fn drop(&mut self) {
        let From::Thread(items, thread) = std::mem::replace(&mut self.records, From::Nowhere) else { return };
        let waits = !items.is_empty();
        // The thread ends with the record it is making.
        drop(items);
        if thread.join().unwrap_or(true) || waits {
            self.preparation.left_over();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;
    use crate::ErrorKind;

    /// Notes on a record whether it was prepared ahead.
    #[derive(Default)]
    struct Notes {
        is_known: AtomicBool,
        left_over: AtomicUsize,
    }

    impl Preparation for Arc<Notes> {
        fn is_known(&self) -> bool {
            self.is_known.load(SeqCst)
        }

        fn ahead(&self, record: Record) -> Record {
            assert_eq!(std::thread::current().name(), Some("elistimator-ahead"));
            record.with("ahead", true)
        }

        fn here(&self, record: Record) -> Record {
            record.with("ahead", false)
        }

        fn left_over(&self) {
            self.left_over.fetch_add(1, SeqCst);
        }
    }

    /// Breaks its promise.
    struct Panics;

    impl Preparation for Panics {
        fn is_known(&self) -> bool {
            true
        }

        fn ahead(&self, _: Record) -> Record {
            panic!("broken")
        }

        fn here(&self, record: Record) -> Record {
            record
        }

        fn left_over(&self) {}
    }

    #[test]
    fn a_thread_that_panics_is_no_end_of_the_data() {
        let data = Dataset::from_records(vec![Record::new()]).ahead(Panics);
        let mut records = data.open(0, 0, 0).unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| records.next().is_none())).is_err());
    }

    /// The numbers from 0 on, what counts those that were made, and the notes.
    fn numbers(make: fn(i64) -> Option<Result<i64>>) -> (Dataset, Arc<AtomicU64>, Arc<Notes>) {
        let (made, notes) = (Arc::new(AtomicU64::new(0)), Arc::new(Notes::default()));
        let count = Arc::clone(&made);
        let input = move |position: i64| {
            let count = Arc::clone(&count);
            (position..).map_while(move |n| {
                count.fetch_add(1, SeqCst);
                Some(make(n)?.map(|n| Record::new().with("n", n)))
            })
        };
        struct Numbers<F>(F);
        impl<I, F> Stage for Numbers<F>
        where
            I: Iterator<Item = Result<Record>> + Send + 'static,
            F: Fn(i64) -> I + Send + Sync + 'static,
        {
            fn open(&self, _: Pass, position: u64) -> Result<Stream> {
                Ok(Stream::new((self.0)(position as i64)))
            }

            fn len(&self) -> Option<u64> {
                None
            }

            fn describe(&self, out: &mut String) {
                out.push_str("numbers");
            }
        }
        (Dataset::from_stage(Numbers(input)).ahead(Arc::clone(&notes)), made, notes)
    }

    fn values(record: &Record) -> (i64, bool) {
        let n = record.get("n").unwrap().as_slice::<i64>().unwrap()[0];
        (n, record.get("ahead").unwrap().as_slice::<bool>().unwrap()[0])
    }

    #[test]
    fn nothing_is_ahead_until_it_is_known_and_then_two_are() {
        let (data, made, notes) = numbers(|n| (n < 10).then_some(Ok(n)));
        assert_eq!(data.fingerprint(), "numbers");
        let mut records = data.open(0, 0, 2).unwrap().map(|record| values(&record.unwrap()));
        assert_eq!((records.next(), records.next()), (Some((2, false)), Some((3, false))));
        assert_eq!(made.load(SeqCst), 2);
        notes.is_known.store(true, SeqCst);
        assert_eq!(records.next(), Some((4, true)));
        let begun = std::time::Instant::now();
        while made.load(SeqCst) < 5 && begun.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(made.load(SeqCst), 5, "expected 2, 3, 4 and two ahead");
        assert_eq!(records.by_ref().collect::<Vec<_>>(), (5..10).map(|n| (n, true)).collect::<Vec<_>>());
        assert_eq!(records.next(), None);
        drop(records);
        assert_eq!(notes.left_over.load(SeqCst), 0);
    }

    #[test]
    fn a_stream_that_is_dropped_ends_its_thread_and_says_that_something_is_left() {
        let (data, made, notes) = numbers(|n| Some(Ok(n)));
        notes.is_known.store(true, SeqCst);
        let mut records = data.open(0, 0, 0).unwrap();
        assert_eq!(values(&records.next().unwrap().unwrap()), (0, true));
        drop(records);
        assert_eq!(notes.left_over.load(SeqCst), 1);
        let after = made.load(SeqCst);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(made.load(SeqCst), after);
        assert_eq!(Arc::strong_count(&notes), 2, "the test's and the data's");
    }

    #[test]
    fn errors_and_panics_come_in_their_place() {
        fn make(n: i64) -> Option<Result<i64>> {
            match n {
                3 => panic!("three"),
                5 => Some(Err(Error::new(ErrorKind::Data, "five"))),
                n => Some(Ok(n)),
            }
        }
        let mut found = Vec::new();
        for is_known in [false, true] {
            let (data, _, notes) = numbers(make);
            notes.is_known.store(is_known, SeqCst);
            let mut records = data.open(0, 0, 0).unwrap();
            found.push(Vec::new());
            for _ in 0..6 {
                let next = catch_unwind(AssertUnwindSafe(|| records.next()));
                found.last_mut().unwrap().push(match next {
                    Ok(Some(Ok(record))) => values(&record).0.to_string(),
                    Ok(Some(Err(error))) => format!("error {error}"),
                    Ok(None) => "end".to_owned(),
                    Err(panic) => format!("panic {}", panic.downcast_ref::<&str>().unwrap()),
                });
            }
        }
        assert_eq!(found[0], ["0", "1", "2", "panic three", "4", "error five"]);
        assert_eq!(found[1], found[0]);
    }
}
