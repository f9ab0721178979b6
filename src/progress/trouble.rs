//! The first failure of the output, kept until nobody holds a lock and it can be reported.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Remembers whether the output has failed. A logger may come back to the very terminal that failed, so that the report is
/// made apart from the failure, outside of every lock.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    broken: AtomicBool,
    first: Mutex<Option<io::Error>>,
}

impl Trouble {
    /// Has the output failed? Then nothing is written any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Takes note of a failure; only the first one is kept.
    pub(super) fn note(&self, result: io::Result<()>) {
        if let Err(error) = result
            && !self.broken.swap(true, Ordering::Relaxed)
        {
            *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }

    /// Warns of the failure, if there is one that has not been reported.
    pub(super) fn report(&self) {
        if !self.is_broken() {
            return;
        }
        let error = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = error {
            log::warn!("progress is no longer shown, training goes on: {error}");
        }
    }
}
