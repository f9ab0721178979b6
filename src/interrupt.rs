//! Ctrl-C and SIGTERM, for those who ask for it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, ErrorKind, Result};

static ARRIVED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C, SIGTERM and a closing terminal set a flag that [`take`] reads. A second signal ends the process at once.
pub(crate) fn listen() -> Result<()> {
    static LISTENING: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    LISTENING
        .get_or_init(|| handle().map_err(|error| error.to_string()))
        .clone()
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot handle Ctrl-C and SIGTERM: {error}")))
}

/// Whether a signal arrived since the last call.
pub(crate) fn take() -> bool {
    ARRIVED.load(Ordering::Relaxed) && ARRIVED.swap(false, Ordering::SeqCst)
}

fn arrive() {
    if ARRIVED.swap(true, Ordering::SeqCst) {
        std::process::exit(130);
    }
}

#[cfg(unix)]
fn handle() -> std::io::Result<()> {
    use std::time::{Duration, Instant};

    /// `timeout` sends its signal to the program and again to the program's group: that is one, not two.
    const ECHO: Duration = Duration::from_millis(100);

    let mut signals = signal_hook::iterator::Signals::new([libc::SIGINT, libc::SIGTERM])?;
    // `nohup` means that the run outlives its terminal. Ctrl-C is ignored from the start in whatever a script runs by `&`, where
    // one who sends the signal means it.
    if !is_ignored(libc::SIGHUP) {
        signals.add_signal(libc::SIGHUP)?;
    }
    let wait = move || {
        let mut last: Option<(i32, Instant)> = None;
        for signal in signals.forever() {
            if !last.is_some_and(|(known, time)| known == signal && time.elapsed() < ECHO) {
                last = Some((signal, Instant::now()));
                arrive();
            }
        }
    };
    std::thread::Builder::new().name("elistimator-signals".into()).spawn(wait).map(drop)
}

/// Whether this process ignores a signal; it does not where that cannot be known.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(not(unix))]
fn handle() -> std::result::Result<(), ctrlc::Error> {
    ctrlc::set_handler(arrive)
}
