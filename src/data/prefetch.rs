//! Records made ready on a thread of their own.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};

use crate::data::Record;
use crate::data::dataset::{Pass, Stage, Stream};
use crate::{Error, ErrorKind, Result, heap, unwind};

/// The most records ahead: room for all of them is made at once.
const MOST_AHEAD: usize = 1 << 20;

pub(crate) struct Prefetch {
    pub(crate) input: Arc<dyn Stage>,
    pub(crate) ahead: usize,
}

/// The receiving end. Dropping it closes the channel, which ends the thread after the record it is making, and joins it.
struct Fetched {
    records: Option<Receiver<Result<Record>>>,
    thread: Option<JoinHandle<()>>,
}

impl Iterator for Fetched {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        self.records.as_ref()?.recv().ok()
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        self.records = None;
        if let Some(thread) = self.thread.take() {
            // Its panics were sent as errors, so there is nothing left to say.
            let _ = thread.join();
        }
    }
}

impl Stage for Prefetch {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        if self.ahead > MOST_AHEAD {
            let message = format!("prefetch: found {} records ahead, expected at most {MOST_AHEAD}", self.ahead);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut input = self.input.open(pass, position)?;
        if self.ahead == 0 {
            return Ok(input);
        }
        let (sender, records) = bounded(self.ahead);
        let work = move || {
            heap::keep();
            for number in position.. {
                let item = match unwind::catch(|| input.next()) {
                    Ok(None) => return,
                    Ok(Some(item)) => item,
                    Err(panic) => Err(Error::new(
                        ErrorKind::Data,
                        format!("prefetch: element {number}: the pipeline panicked: {panic}"),
                    )),
                };
                let failed = item.is_err();
                if sender.send(item).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("elistimator-prefetch".into())
            .spawn(work)
            .map_err(|error| Error::with_source(ErrorKind::Io, "prefetch: cannot start a thread", error))?;
        Ok(Stream::new(Fetched { records: Some(records), thread: Some(thread) }))
    }

    fn len(&self) -> Option<u64> {
        self.input.len()
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn as_prefetch(&self) -> Option<(&Arc<dyn Stage>, usize)> {
        Some((&self.input, self.ahead))
    }

    fn without_remainders(&self) -> Option<Arc<dyn Stage>> {
        Some(Arc::new(Self { input: self.input.without_remainders()?, ahead: self.ahead }))
    }

    // How far it runs ahead does not change what comes.
    fn describe(&self, _: &mut String) {}

    fn label(&self) -> String {
        format!("prefetch({})", self.ahead)
    }
}
