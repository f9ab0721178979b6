//! The thread that trains takes part in its own parallel work.

use std::cell::RefCell;

use crate::heap;
use rayon::{ThreadPool, ThreadPoolBuilder};

thread_local! {
    /// Kept for as long as the thread lives.
    static POOL: RefCell<Option<ThreadPool>> = const { RefCell::new(None) };
}

/// Makes this thread a member of a pool of rayon's as large as the global one. Otherwise it would hand every parallel
/// operation to that pool and sleep until it is done: two switches between threads for each of the many short operations
/// of a step, which cost a small network a third of its time.
///
/// Without effect in a thread that belongs to a pool already, and where there is but one thread: nobody else would then
/// run what this thread spawns.
pub(crate) fn join_in() {
    if rayon::current_thread_index().is_some() {
        return;
    }
    let threads = rayon::current_num_threads();
    if threads < 2 {
        return;
    }
    POOL.with_borrow_mut(|pool| {
        let builder = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("elistimator-cpu-{index}"))
            .start_handler(|_| heap::keep())
            .use_current_thread();
        match builder.build() {
            Ok(built) => *pool = Some(built),
            // Everything works without, only slower.
            Err(error) => log::debug!("this thread cannot take part in its own parallel work: {error}"),
        }
    });
}
