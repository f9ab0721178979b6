//! Free memory that the C library does not give back to the system after every step.

use std::cell::Cell;
use std::hint::black_box;

thread_local! {
    static KEEPS: Cell<bool> = const { Cell::new(false) };
}

/// A block small enough that allocators take it from the heap rather than map it by itself: glibc's limit begins at 128 KiB.
const BLOCK: usize = 100 << 10;

/// What is kept: the batches and outputs of a step, not the buffers that are pooled anyway.
const BYTES: usize = 32 << 20;

/// Makes room in this thread's heap for the batches and tensors of its steps, once. glibc gives the free end of a heap back
/// whenever it grows beyond a few of the largest blocks freed so far, so that a loop which allocates and frees its batches
/// would fault every page of them in anew in every step: measured, a third of the time of an evaluation step. One
/// block at the end that stays stops that. The room costs addresses, and memory only once it is used.
pub(crate) fn keep() {
    if KEEPS.replace(true) {
        return;
    }
    // The compiler may leave out allocations that nothing looks at.
    let mut room: Vec<Vec<u8>> = (0..BYTES / BLOCK).map(|_| black_box(Vec::with_capacity(BLOCK))).collect();
    // The last block lives as long as the process, by intention: it is what keeps the end from being free. A smaller one
    // might be put into a gap somewhere else.
    std::mem::forget(room.pop());
}
