//! The device's memory: how much of it there is, and what is said when it is out.

use std::cell::Cell;

use cudarc::cublas::sys::cublasStatus_t;
use cudarc::driver::{result, sys};
use dfdx::tensor::{Cuda, CudaError, Synchronize};

use crate::{Error, ErrorKind};

thread_local! {
    /// What the allocation that failed last on this thread asked for, in bytes.
    static ASKED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs what allocates so many bytes: if the device has no memory left, the error says how many they were. The driver's
/// error does not, so that of dfdx's own allocations it is not known.
pub(super) fn asking<T>(bytes: usize, allocate: impl FnOnce() -> Result<T, CudaError>) -> Result<T, CudaError> {
    let result = allocate();
    ASKED.set(if result.is_err() { Some(bytes as u64) } else { None });
    result
}

/// dfdx's error in words, as soon as it is met: what is free is then what was free.
pub(crate) fn error(error: &CudaError) -> Error {
    let asked = ASKED.take();
    let is_out_of_memory = match error {
        CudaError::Driver(error) => error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        CudaError::Blas(error) => error.0 == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED,
        CudaError::Cpu(_) => return Error::new(ErrorKind::Model, format!("{error:?}")),
    };
    if is_out_of_memory {
        return out_of_memory(asked);
    }
    Error::new(ErrorKind::Device, format!("the CUDA device failed: {error:?}"))
}

/// What a panic says that was about memory: dfdx unwraps the errors of some allocations.
pub(crate) fn of_panic(message: &str) -> Option<Error> {
    let asked = ASKED.take();
    let is_about_it =
        ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|name| message.contains(name));
    is_about_it.then(|| out_of_memory(asked))
}

fn out_of_memory(asked: Option<u64>) -> Error {
    let mut message = "out of device memory: ".to_owned();
    if let Some(asked) = asked {
        message.push_str(&format!("asked for {}, ", bytes(asked)));
    }
    match Usage::of_this_thread() {
        None => message.push_str("how much is free is not known"),
        Some(Usage { free, total, pool }) => {
            message.push_str(&format!("found {} free of {}", bytes(free), bytes(total)));
            if let Some((held, used)) = pool {
                message.push_str(&format!(" ({} in use by this program, which holds {})", bytes(used), bytes(held)));
            }
        }
    }
    message.push_str("; use smaller batches, and `Builder::accumulate` for as many examples in a step");
    Error::new(ErrorKind::OutOfMemory, message)
}

/// Bytes of the device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    free: u64,
    total: u64,
    /// What the pool that dfdx allocates from holds, and what of it is in use.
    pool: Option<(u64, u64)>,
}

impl Usage {
    /// That of the device whose context this thread has; `None` if it has none.
    fn of_this_thread() -> Option<Self> {
        let (free, total) = result::mem_get_info().ok()?;
        Some(Self { free: free as u64, total: total as u64, pool: current_pool().and_then(held_and_used) })
    }
}

/// The pool that allocations in stream order come from, on the device whose context this thread has.
fn current_pool() -> Option<sys::CUmemoryPool> {
    let (mut device, mut pool) = (0, std::ptr::null_mut());
    // SAFETY: both write to the variable they are given, if they succeed.
    unsafe {
        sys::cuCtxGetDevice(&mut device).result().ok()?;
        sys::cuDeviceGetMemPool(&mut pool, device).result().ok()?;
    }
    Some(pool)
}

fn held_and_used(pool: sys::CUmemoryPool) -> Option<(u64, u64)> {
    use sys::CUmemPool_attribute as Attribute;
    let held = attribute(pool, Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    Some((held, attribute(pool, Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
}

/// An attribute of a pool that is a number of bytes.
fn attribute(pool: sys::CUmemoryPool, which: sys::CUmemPool_attribute) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: the pool is one that the driver gave; these attributes are of the type cuuint64_t.
    unsafe { sys::cuMemPoolGetAttribute(pool, which, (&raw mut value).cast()) }.result().ok()?;
    Some(value)
}

/// Gives memory that is no longer in use back to the device, after what failed for want of it: smaller tensors may not fit
/// where the larger ones were. Waits for the device.
pub(crate) fn trim(device: &Cuda) {
    // Should this fail, the next allocation says so.
    if device.try_synchronize().is_ok()
        && let Some(pool) = current_pool()
    {
        // SAFETY: the pool is one that the driver gave.
        let _ = unsafe { sys::cuMemPoolTrimTo(pool, 0) }.result();
    }
}

/// A number of bytes as people read it.
fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "bytes" { format!("{count} bytes") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_people() {
        for (count, text) in
            [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (1 << 42, "4.0 TiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn other_panics_are_not_about_memory() {
        assert!(of_panic("index out of bounds").is_none());
        let error =
            of_panic("called `Result::unwrap()` on an `Err` value: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"..\")");
        assert_eq!(error.unwrap().kind(), ErrorKind::OutOfMemory);
    }
}
