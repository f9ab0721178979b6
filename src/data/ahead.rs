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
            From::Thread(items, _) => match items.recv().ok()? {
                Item::Record(record) => Some(Ok(record)),
                Item::Failed(error) => Some(Err(error)),
                Item::Panicked(panic, input) => {
                    // As if there were no thread, also for whoever goes on after it.
                    self.records = From::Here(input);
                    resume_unwind(panic)
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
