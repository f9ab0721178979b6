//! Panics of user code and of dfdx, turned into messages.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `f`; a panic becomes its message. The panic hook still prints it: a library does not silence the user's hook.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        if let Some(text) = payload.downcast_ref::<&str>() {
            (*text).to_owned()
        } else if let Some(text) = payload.downcast_ref::<String>() {
            text.clone()
        } else {
            "a panic without a message".to_owned()
        }
    })
}
