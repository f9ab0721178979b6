//! The promises of the checkpoints on real file systems: full, read-only, hostile and vanishing ones, with other processes
//! about. The numbers are those of the faults in the list of what the store must survive.
//!
//! Most of it needs Linux, and root for mounts; what cannot be done here is said with a line `skipped: why`.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "faults/full.rs"]
mod full;
#[path = "faults/others.rs"]
mod others;
#[path = "faults/paths.rs"]
mod paths;
#[path = "faults/support.rs"]
mod support;
#[path = "faults/system_calls.rs"]
mod system_calls;
#[path = "faults/terminal.rs"]
mod terminal;
