//! The device's memory: how much of it there is, and what is said when it is out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas::sys::cublasStatus_t;
use cudarc::driver::sys::{CUdevice_attribute_enum as Attribute, CUresult};
use cudarc::driver::{CudaDevice, DriverError, result, sys};
use dfdx::tensor::{Cuda, CudaError, Synchronize};

use super::context::Context;
use crate::{Error, ErrorKind, Result};

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
        CudaError::Driver(error) => error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY,
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
        Some(Usage { free, total, pool, bound }) => {
            message.push_str(&format!("found {} free of {}", bytes(free), bytes(total)));
            match (pool, bound) {
                (Some((_, used)), Some(bound)) => {
                    let (used, bound) = (bytes(used), bytes(bound));
                    message.push_str(&format!(", and {used} in use by this process of the {bound} that it may take"));
                }
                (Some((held, used)), None) => {
                    message.push_str(&format!(
                        " ({} in use by this process, which holds {})",
                        bytes(used),
                        bytes(held)
                    ));
                }
                (None, _) => {}
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
    /// What the pool may hold, if it was [bounded](bound).
    bound: Option<u64>,
}

impl Usage {
    /// That of the device whose context this thread has; `None` if it has none.
    fn of_this_thread() -> Option<Self> {
        let (free, total) = result::mem_get_info().ok()?;
        let device = current_device()?;
        let bounds = BOUNDS.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = bounds.values().find(|bound| *bound.device.cu_device() == device).map(|bound| bound.bytes);
        let pool = pool_of(device).and_then(held_and_used);
        Some(Self { free: free as u64, total: total as u64, pool, bound })
    }
}

/// Bytes that the pool of this thread's device holds. The driver knows without asking the device.
pub(crate) fn held() -> Option<u64> {
    current_device().and_then(pool_of).and_then(held_and_used).map(|(held, _)| held)
}

/// The device whose context this thread has.
fn current_device() -> Option<sys::CUdevice> {
    let mut device = 0;
    // SAFETY: it writes to the variable that it is given, if it succeeds.
    unsafe { sys::cuCtxGetDevice(&mut device) }.result().ok()?;
    Some(device)
}

/// The pool that a device's allocations in stream order come from.
fn pool_of(device: sys::CUdevice) -> Option<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: as above.
    unsafe { sys::cuDeviceGetMemPool(&mut pool, device) }.result().ok()?;
    Some(pool)
}

fn held_and_used(pool: sys::CUmemoryPool) -> Option<(u64, u64)> {
    use sys::CUmemPool_attribute_enum::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
    let held = attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    Some((held, attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
}

/// An attribute of a pool that is a number of bytes.
fn attribute(pool: sys::CUmemoryPool, which: sys::CUmemPool_attribute) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: the pool is one that the driver gave; these attributes are of the type cuuint64_t.
    unsafe { sys::cuMemPoolGetAttribute(pool, which, (&raw mut value).cast()) }.result().ok()?;
    Some(value)
}

/// Has the pool that a device allocates from keep what is freed: a driver else gives it back whenever somebody waits for the
/// device, be it for a loss or for a place of an upload, and the step after that pays for mapping it anew. What other
/// allocations of this process lack, the driver takes from there all the same.
pub(super) fn keep(device: &CudaDevice) {
    if let Some(pool) = pool_of(*device.cu_device()) {
        keep_in(pool);
    }
}

fn keep_in(pool: sys::CUmemoryPool) {
    let mut bytes = u64::MAX;
    let threshold = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is one that the driver gave; this attribute is of the type cuuint64_t.
    if let Err(error) = unsafe { sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut bytes).cast()) }.result() {
        log::debug!("what is freed goes back to the device whenever somebody waits for it: {error:?}");
    }
}

/// Gives memory that is no longer in use back to the device, after what failed for want of it: smaller tensors may not fit
/// where the larger ones were. Waits for the device.
pub(crate) fn trim(device: &Cuda) {
    // Should any of this fail, the next allocation says so.
    if device.try_synchronize().is_err() {
        return;
    }
    let Some(number) = current_device() else { return };
    if let Some(context) = Context::known(number) {
        let _ = context.free_places(true);
    }
    // The places of the uploads are freed behind what is queued: nothing.
    if device.try_synchronize().is_ok()
        && let Some(pool) = pool_of(number)
    {
        // SAFETY: the pool is one that the driver gave.
        let _ = unsafe { sys::cuMemPoolTrimTo(pool, 0) }.result();
    }
}

/// The bounds of this process by the number of the device. They hold as long as the process lives: what was allocated from
/// their pools may live as long.
static BOUNDS: Mutex<BTreeMap<usize, Bound>> = Mutex::new(BTreeMap::new());

struct Bound {
    fraction: f64,
    bytes: u64,
    /// Its primary context holds the pool's memory.
    device: Arc<CudaDevice>,
}

/// What device memory is handed out in.
const GRANULE: u64 = 2 << 20;

/// Bounds what dfdx and this library allocate on a device, in this process and from now on, to a fraction of its memory.
/// All of that is allocated in stream order, from the device's current pool: one of that size takes its place.
pub(crate) fn bound(ordinal: usize, fraction: f64) -> Result<()> {
    let place = format!("memory_fraction: cuda:{ordinal}");
    let failed = |error: DriverError| Error::new(ErrorKind::Device, format!("{place}: {error:?}"));
    // A panic while the lock was held leaves the map whole.
    let mut bounds = BOUNDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = bounds.get(&ordinal) {
        if known.fraction == fraction {
            return Ok(());
        }
        let message = format!("{place}: found {fraction}, but this process bounded it to {} before", known.fraction);
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let device = CudaDevice::new(ordinal).map_err(failed)?;
    let pools = device.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED).map_err(failed)?;
    if pools == 0 {
        let message = format!("{place} has no memory pools, and nothing else can bound its memory");
        return Err(Error::new(ErrorKind::Device, message));
    }
    let (_, total) = result::mem_get_info().map_err(failed)?;
    let bytes = ((total as f64 * fraction) as u64 / GRANULE).max(1) * GRANULE;
    let unkept = || {
        let message =
            format!("{place}: this driver does not bound memory pools; expected one of CUDA 12.2 or newer (535)");
        Error::new(ErrorKind::Device, message)
    };
    let pool = match make_pool(*device.cu_device(), bytes) {
        // So a driver that does not know of the size takes it: as bytes that should be 0.
        Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)) => return Err(unkept()),
        made => made.map_err(failed)?,
    };
    if !refuses(pool, bytes) {
        // SAFETY: the pool was just made, and nothing else knows it.
        let _ = unsafe { sys::cuMemPoolDestroy(pool) }.result();
        return Err(unkept());
    }
    keep_in(pool);
    // SAFETY: both are the driver's. What is allocated already stays in the pool that it came from.
    unsafe { sys::cuDeviceSetMemPool(*device.cu_device(), pool) }.result().map_err(failed)?;
    bounds.insert(ordinal, Bound { fraction, bytes, device });
    Ok(())
}

/// A pool of the device's memory that does not grow beyond so many bytes.
fn make_pool(device: sys::CUdevice, bytes: u64) -> Result<sys::CUmemoryPool, DriverError> {
    let mut properties = sys::CUmemPoolProps {
        allocType: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        handleTypes: sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
        location: sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: device },
        win32SecurityAttributes: std::ptr::null_mut(),
        reserved: [0; 64],
    };
    // `size_t maxSize` since CUDA 12.2; older headers, such as the one cudarc 0.9.15 was made from, have reserved bytes.
    properties.reserved[..8].copy_from_slice(&bytes.to_ne_bytes());
    let mut pool = std::ptr::null_mut();
    // SAFETY: the properties are whole, of the size that every driver knows, and read during the call only.
    unsafe { sys::cuMemPoolCreate(&mut pool, &properties) }.result()?;
    Ok(pool)
}

/// Whether the pool gives no more than so many bytes; twice its granule more, in case it rounds up.
fn refuses(pool: sys::CUmemoryPool, bytes: u64) -> bool {
    let mut pointer = 0;
    let too_many = bytes.saturating_add(2 * POOL_GRANULE) as usize;
    // SAFETY: the pool is one that was just made, the stream the default one of the current context.
    let asked = unsafe { sys::cuMemAllocFromPoolAsync(&mut pointer, too_many, pool, std::ptr::null_mut()) };
    if asked.result().is_ok() {
        // SAFETY: just allocated, on the same stream, and used by nothing.
        let _ = unsafe { result::free_async(pointer, std::ptr::null_mut()) };
        return false;
    }
    true
}

/// What pools grow by.
const POOL_GRANULE: u64 = 32 << 20;

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
