//! Ctrl-C and SIGTERM, for those who ask for it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, ErrorKind, Result};

static ARRIVED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C and SIGTERM set a flag that [`take`] reads. A second one ends the process at once.
pub(crate) fn listen() -> Result<()> {
    static LISTENING: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    LISTENING
        .get_or_init(|| {
            let handler = || {
                if ARRIVED.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
            };
            ctrlc::set_handler(handler).map_err(|error| error.to_string())
        })
        .clone()
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot handle Ctrl-C and SIGTERM: {error}")))
}

/// Whether a signal arrived since the last call.
pub(crate) fn take() -> bool {
    ARRIVED.load(Ordering::Relaxed) && ARRIVED.swap(false, Ordering::SeqCst)
}
