//! Batches that are uploaded before the model function asks for them. Which of their arrays it asks for as tensors is not
//! known before it has run: that is noted in the first step, and from then on a thread sends these arrays ahead. One that was
//! not sent is uploaded when it is asked for, and a place that nobody asks for is given back with its batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::context::Context;
use super::upload::{Ticket, is_large};
use crate::data::ahead::Preparation;
use crate::data::{Dataset, Record};
use crate::{lock, unwind};

/// The names of the arrays that the model function asks for.
type Names = Mutex<BTreeSet<String>>;

/// What lies beside a batch: the tickets of its arrays that were sent, and where to note what it is asked for.
struct Sent {
    context: Arc<Context>,
    names: Arc<Names>,
    tickets: Mutex<BTreeMap<String, Ticket>>,
}

impl Sent {
    /// Sends the arrays that will be asked for.
    fn send(&self, batch: &Record) {
        let names = lock(&self.names).clone();
        for (name, array) in batch.iter().filter(|(name, array)| names.contains(*name) && is_large(array)) {
            match self.context.send_ahead(array) {
                Ok(Some(ticket)) => {
                    lock(&self.tickets).insert(name.to_owned(), ticket);
                }
                Ok(None) => {}
                Err(error) => log::debug!("{name:?} of a batch is not sent ahead: {}", error.into_error()),
            }
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        for (name, ticket) in std::mem::take(&mut *lock(&self.tickets)) {
            if self.context.give_back(ticket) {
                // Should it be asked for again, that is noted again.
                lock(&self.names).remove(&name);
            }
        }
    }
}

/// The ticket of an array that is asked for, if it was sent to this device. It is noted, so that the next ones are.
pub(super) fn claim(context: &Arc<Context>, batch: &Record, name: &str) -> Option<Ticket> {
    let sent = batch.beside::<Sent>().filter(|sent| Arc::ptr_eq(&sent.context, context))?;
    let mut names = lock(&sent.names);
    if !names.contains(name) {
        names.insert(name.to_owned());
    }
    drop(names);
    lock(&sent.tickets).remove(name)
}

/// The data with its batches uploaded ahead.
pub(crate) fn upload_ahead(context: Arc<Context>, batches: Dataset) -> Dataset {
    batches.ahead(UploadAhead { context, names: Arc::default() })
}

struct UploadAhead {
    context: Arc<Context>,
    names: Arc<Names>,
}

impl UploadAhead {
    fn beside(&self) -> Sent {
        Sent { context: Arc::clone(&self.context), names: Arc::clone(&self.names), tickets: Mutex::default() }
    }
}

impl Preparation for UploadAhead {
    fn is_known(&self) -> bool {
        !lock(&self.names).is_empty()
    }

    fn ahead(&self, mut batch: Record) -> Record {
        let sent = self.beside();
        // cudarc unwraps what a device that has failed says: the step will say it too.
        if let Err(panic) = unwind::catch(|| sent.send(&batch)) {
            log::debug!("a batch is not sent ahead: {panic}");
        }
        batch.set_beside(Arc::new(sent));
        batch
    }

    fn here(&self, mut batch: Record) -> Record {
        batch.set_beside(Arc::new(self.beside()));
        batch
    }

    fn left_over(&self) {
        // What was sent in vain is not kept: the next batches may be others.
        let _ = unwind::catch(|| self.context.free_places(false));
    }
}
