//! Memory of the host that the device reads on its own, and its counterpart on the device.

use std::mem::ManuallyDrop;

use cudarc::driver::sys::{self, CUevent, CUevent_flags_enum, CUevent_wait_flags_enum, CUstream};
use cudarc::driver::{CudaSlice, DevicePtr, DriverError, result};
use dfdx::tensor::CudaError;

use super::context::Context;
use crate::ModelResult;
use crate::data::Array;

/// A place of page-locked memory, full of values, and one as large on the device. Values go through it in three steps: they
/// are [written](Self::write), [sent](Self::send) to the device, and [delivered](Self::deliver) to a tensor.
#[derive(Debug)]
pub(super) struct Place {
    host: *mut f32,
    device: CudaSlice<f32>,
    /// In values.
    capacity: usize,
    /// The host's place was read: it may be written again.
    uploaded: CUevent,
    /// The device's place was read.
    consumed: CUevent,
}

// SAFETY: the place is the only owner of its memory and events, which any thread with the device's context may use.
unsafe impl Send for Place {}

impl Place {
    pub(super) fn new(context: &Context, capacity: usize) -> Result<Self, CudaError> {
        let device = context.uninitialized::<f32>(capacity)?;
        let mut host = std::ptr::null_mut();
        // What there may be none of comes first: a later step that tries again has nothing to leave behind.
        // SAFETY: it writes the address of so many bytes, if it succeeds.
        unsafe {
            sys::cuMemHostAlloc(&mut host, capacity * size_of::<f32>(), 0).result()?;
            host.cast::<f32>().write_bytes(0, capacity);
        }
        let uploaded = result::event::create(CUevent_flags_enum::CU_EVENT_DISABLE_TIMING)?;
        let consumed = result::event::create(CUevent_flags_enum::CU_EVENT_DISABLE_TIMING)?;
        // SAFETY: the event was just made. The copy into the new memory waits for it, and so comes behind what the memory was
        // used for before.
        unsafe { result::event::record(consumed, std::ptr::null_mut()) }?;
        Ok(Self { host: host.cast(), device, capacity, uploaded, consumed })
    }

    /// How many values there is room for.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether the host's place is free.
    pub(super) fn is_free(&self) -> bool {
        // SAFETY: the event lives as long as the place.
        unsafe { sys::cuEventQuery(self.uploaded) }.result().is_ok()
    }

    /// Waits until the host's place is free.
    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: as above.
        unsafe { sys::cuEventSynchronize(self.uploaded) }.result()
    }

    /// Writes an array's values, of which there is room for as many, as soon as the host's place is free.
    pub(super) fn write(&mut self, array: &Array) -> ModelResult<()> {
        if !self.is_free() {
            self.wait().map_err(CudaError::from)?;
        }
        // SAFETY: the memory is of so many values, initialized when it was made. The device has read all that it was told
        // to, and nothing else knows the memory.
        let values = unsafe { std::slice::from_raw_parts_mut(self.host, self.capacity) };
        Ok(array.write_f32(&mut values[..array.len()])?)
    }

    /// Queues the copy of the first `len` values that were written to the device's place.
    ///
    /// # Safety
    /// `stream` must be one of the device, beside its default stream, and the same for all copies.
    pub(super) unsafe fn send(self, len: usize, stream: CUstream) -> Result<Self, DriverError> {
        // Should a call fail, the place is leaked: what was queued may still use it.
        let place = ManuallyDrop::new(self);
        // SAFETY: the stream and the events live, the memory is initialized, and as long on the device. It is written again
        // only when `uploaded` has happened, and the device's is written only behind what reads it.
        unsafe {
            let values = std::slice::from_raw_parts(place.host, len.min(place.capacity));
            result::stream::wait_event(stream, place.consumed, CUevent_wait_flags_enum::CU_EVENT_WAIT_DEFAULT)?;
            result::memcpy_htod_async(*place.device.device_ptr(), values, stream)?;
            result::event::record(place.uploaded, stream)?;
        }
        Ok(ManuallyDrop::into_inner(place))
    }

    /// Queues the copy of the first `len` values that were sent to `to`.
    ///
    /// # Safety
    /// `to` must be memory of the device for as many values, valid on its default stream, and as many must have been sent.
    pub(super) unsafe fn deliver(self, len: usize, to: u64) -> Result<Self, DriverError> {
        let default = std::ptr::null_mut();
        let place = ManuallyDrop::new(self);
        // SAFETY: the events live. The copy comes behind that of the values, and the next values behind it.
        unsafe {
            result::stream::wait_event(default, place.uploaded, CUevent_wait_flags_enum::CU_EVENT_WAIT_DEFAULT)?;
            result::memcpy_dtod_async(to, *place.device.device_ptr(), len * size_of::<f32>(), default)?;
            result::event::record(place.consumed, default)?;
        }
        Ok(ManuallyDrop::into_inner(place))
    }

    /// Frees the place; an error leaks it, since the device may be reading it.
    pub(super) fn free(self) -> Result<(), DriverError> {
        let place = ManuallyDrop::new(self);
        place.wait()?;
        // SAFETY: nothing reads the host's place any more, and events may be destroyed before they have happened.
        unsafe {
            sys::cuMemFreeHost(place.host.cast()).result()?;
            result::event::destroy(place.uploaded)?;
            result::event::destroy(place.consumed)?;
        }
        drop(ManuallyDrop::into_inner(place).device);
        Ok(())
    }
}
