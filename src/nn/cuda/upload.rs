//! Batches on their way to the device, while it still works on the step before. The values go into page-locked memory of the
//! host, which the device reads on its own, and from there, on a stream beside the default one, into a staging place on the
//! device; the default stream waits for that, and copies them into the tensor. dfdx's tensors cannot be made from memory that
//! is there already, and memory allocated on the default stream may be used only behind what is queued there: hence the
//! second copy, at the speed of the device's memory.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::sync::PoisonError;

use cudarc::driver::sys::{self, CUevent, CUevent_flags_enum, CUevent_wait_flags_enum, CUstream};
use cudarc::driver::{CudaSlice, DevicePtr, DriverError, result};
use dfdx::shapes::Shape;
use dfdx::tensor::{Cuda, CudaError, TensorFromVec, ZerosTensor};
use dfdx::tensor_ops::ReshapeTo;

use super::context::Context;
use super::memory::asking;
use super::pointer::Output;
use crate::ModelResult;
use crate::data::Array;
use crate::nn::Tensor;

/// Up to this size a copy from any memory does not keep the host waiting: the driver takes the values along.
const SMALL: usize = 64 << 10;
/// How many places of one size there are: the host is not further ahead of the device than that.
const MOST_OF_A_SIZE: usize = 3;
/// How much memory of the host is locked at most, and as much taken of the device.
const MOST_BYTES: usize = 512 << 20;

/// The stream of the copies, and their places, the longest unused first.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    stream: Option<Stream>,
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Stream(CUstream);

// SAFETY: a stream may be used by any thread that has its device's context.
unsafe impl Send for Stream {}

/// A place of page-locked memory, full of values, and one as large on the device.
#[derive(Debug)]
struct Slot {
    host: *mut f32,
    device: CudaSlice<f32>,
    /// In values.
    capacity: usize,
    /// The host's place was read: it may be written again.
    uploaded: CUevent,
    /// The device's place was read.
    consumed: CUevent,
}

// SAFETY: the slot is the only owner of its memory and events, which any thread with the device's context may use.
unsafe impl Send for Slot {}

impl Slot {
    fn new(context: &Context, capacity: usize) -> Result<Self, CudaError> {
        let device = context.uninitialized::<f32>(capacity)?;
        let uploaded = result::event::create(CUevent_flags_enum::CU_EVENT_DISABLE_TIMING)?;
        let consumed = result::event::create(CUevent_flags_enum::CU_EVENT_DISABLE_TIMING)?;
        let mut host = std::ptr::null_mut();
        // SAFETY: it writes the address of so many bytes, if it succeeds; the event was just made. The copy into the new
        // memory waits for it, and so comes behind what the memory was used for before.
        unsafe {
            sys::cuMemHostAlloc(&mut host, capacity * size_of::<f32>(), 0).result()?;
            host.cast::<f32>().write_bytes(0, capacity);
            result::event::record(consumed, std::ptr::null_mut())?;
        }
        Ok(Self { host: host.cast(), device, capacity, uploaded, consumed })
    }

    /// Whether the host's place is free.
    fn is_free(&self) -> bool {
        // SAFETY: the event lives as long as the slot.
        unsafe { sys::cuEventQuery(self.uploaded) }.result().is_ok()
    }

    /// Waits until the host's place is free.
    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: as above.
        unsafe { sys::cuEventSynchronize(self.uploaded) }.result()
    }

    /// Queues the copies of its values.
    ///
    /// # Safety
    /// `values` must be the start of the host's place, `to` memory of the device for as many, valid on its default stream,
    /// and `stream` one of that device.
    unsafe fn queue(self, values: &[f32], to: u64, stream: CUstream) -> Result<Self, DriverError> {
        let (staging, default) = (*self.device.device_ptr(), std::ptr::null_mut());
        let wait = CUevent_wait_flags_enum::CU_EVENT_WAIT_DEFAULT;
        // Should a call fail, the place is leaked: what was queued may still use it.
        let slot = ManuallyDrop::new(self);
        // SAFETY: the stream and the events live, and staging has room for the values. The host's place is written again
        // only when `uploaded` has happened, and the device's when `consumed` has.
        unsafe {
            result::stream::wait_event(stream, slot.consumed, wait)?;
            result::memcpy_htod_async(staging, values, stream)?;
            result::event::record(slot.uploaded, stream)?;
            result::stream::wait_event(default, slot.uploaded, wait)?;
            result::memcpy_dtod_async(to, staging, size_of_val(values), default)?;
            result::event::record(slot.consumed, default)?;
        }
        Ok(ManuallyDrop::into_inner(slot))
    }

    /// Frees the slot; an error leaks it, since the device may be reading it.
    fn free(self) -> Result<(), DriverError> {
        self.wait()?;
        // SAFETY: nothing reads the host's place any more, and events may be destroyed before they have happened.
        unsafe {
            sys::cuMemFreeHost(self.host.cast()).result()?;
            result::event::destroy(self.uploaded)?;
            result::event::destroy(self.consumed)
        }
    }
}

impl Uploads {
    /// A place for so many values.
    fn take(&mut self, context: &Context, len: usize) -> Result<Slot, CudaError> {
        let capacity = capacity(len);
        let fits = |slot: &Slot| slot.capacity == capacity;
        let free = self.slots.iter().position(|slot| fits(slot) && slot.is_free());
        if let Some(slot) = free.and_then(|free| self.slots.remove(free)) {
            return Ok(slot);
        }
        let locked = |slots: &VecDeque<Slot>| slots.iter().map(|slot| slot.capacity * size_of::<f32>()).sum::<usize>();
        let is_full = |slots: &VecDeque<Slot>| locked(slots) + capacity * size_of::<f32>() > MOST_BYTES;
        if is_full(&self.slots) || self.slots.iter().filter(|slot| fits(slot)).count() >= MOST_OF_A_SIZE {
            // The one that was used first is free first.
            if let Some(slot) = self.slots.iter().position(fits).and_then(|first| self.slots.remove(first)) {
                slot.wait()?;
                return Ok(slot);
            }
        }
        while is_full(&self.slots) {
            match self.slots.pop_front() {
                Some(oldest) => oldest.free()?,
                None => break,
            }
        }
        Slot::new(context, capacity)
    }

    /// Frees all places, after the device has done all that it was asked for.
    pub(super) fn clear(&mut self) -> Result<(), DriverError> {
        self.slots.drain(..).try_for_each(Slot::free)
    }

    /// The stream, made when it is first asked for: one that the default stream does not wait for on its own.
    fn stream(&mut self) -> Result<CUstream, DriverError> {
        if let Some(stream) = &self.stream {
            return Ok(stream.0);
        }
        let made = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        Ok(self.stream.insert(Stream(made)).0)
    }

    /// Copies the values of an array to memory of the device.
    ///
    /// # Safety
    /// `to` must point to as many values on the device, valid on its default stream.
    unsafe fn copy(&mut self, context: &Context, array: &Array, to: u64) -> ModelResult<()> {
        context.device.bind_to_thread().map_err(CudaError::from)?;
        let stream = self.stream().map_err(CudaError::from)?;
        let slot = self.take(context, array.len())?;
        // SAFETY: the place has room for as many values; they are initialized, and nothing else reads or writes them before
        // the copy below.
        let values = unsafe { std::slice::from_raw_parts_mut(slot.host, array.len()) };
        array.write_f32(values)?;
        // SAFETY: `to` is as this function was promised.
        let slot = unsafe { slot.queue(values, to, stream) }.map_err(CudaError::from)?;
        self.slots.push_back(slot);
        Ok(())
    }
}

/// The array as a tensor; `None` where dfdx's way is as good or the only one: for what is small, larger than what is locked,
/// or when there is no memory for a place.
pub(crate) fn upload<S: Shape>(device: &Cuda, array: &Array, shape: S) -> ModelResult<Option<Tensor<S, Cuda>>> {
    let len = array.len();
    if len <= SMALL / size_of::<f32>() || capacity(len) > MOST_BYTES / 2 / size_of::<f32>() {
        return Ok(None);
    }
    let tensor = asking(len * size_of::<f32>(), || device.try_zeros_like(&(len,)))?;
    let context = Context::of(&tensor)?;
    let output = Output::around(&context, tensor)?;
    let mut uploads = context.uploads.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the output is new memory of `len` values, allocated on the default stream.
    match unsafe { uploads.copy(&context, array, output.pointer()) } {
        Ok(()) => Ok(Some(output.finish()?.try_reshape_like(&shape)?)),
        Err(error) => {
            let error = error.into_error();
            log::debug!("a batch is copied from memory that is not locked: {error}");
            Ok(None)
        }
    }
}

/// The array as a tensor by dfdx's own copy.
pub(crate) fn copy<S: Shape>(device: &Cuda, array: &Array, shape: S) -> ModelResult<Tensor<S, Cuda>> {
    let values = array.to_f32()?;
    Ok(asking(size_of_val(values.as_slice()), || device.try_tensor_from_vec(values, shape))?)
}

/// Of a place for so many values: there are few sizes, so that batches of many lengths find one another's places.
fn capacity(len: usize) -> usize {
    len.checked_next_power_of_two().unwrap_or(usize::MAX)
}
