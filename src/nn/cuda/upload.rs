//! Batches on their way to the device, while it still works on the step before. The values go into page-locked memory of the
//! host, which the device reads on its own, and from there, on a stream beside the default one, into a staging place on the
//! device; the default stream waits for that, and copies them into the tensor. dfdx's tensors cannot be made from memory that
//! is there already, and memory allocated on the default stream may be used only behind what is queued there: hence the
//! second copy, at the speed of the device's memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{MutexGuard, PoisonError};

use cudarc::driver::sys::CUstream;
use cudarc::driver::{DriverError, result};
use dfdx::shapes::Shape;
use dfdx::tensor::{Cuda, CudaError, TensorFromVec, ZerosTensor};
use dfdx::tensor_ops::ReshapeTo;

use super::ahead;
use super::context::Context;
use super::memory::asking;
use super::place::Place;
use super::pointer::Output;
use crate::ModelResult;
use crate::data::{Array, Dtype, Record};
use crate::nn::Tensor;

/// Up to this size a copy from any memory does not keep the host waiting: the driver takes the values along.
const SMALL: usize = 64 << 10;
/// How many places of one size there are, unless all of them hold values that wait for the training thread: that is not
/// further ahead of the device than that.
const MOST_OF_A_SIZE: usize = 3;
/// How much memory of the host is locked at most, and as much taken of the device.
const MOST_BYTES: usize = 512 << 20;

/// The stream of the copies, and their places.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    stream: Option<Stream>,
    /// Those that nobody uses, the longest unused first.
    idle: VecDeque<Place>,
    /// Those that were sent ahead, by their tickets.
    sent: BTreeMap<Ticket, Place>,
    next: Ticket,
    /// How many there are of each capacity, also those in use.
    count: BTreeMap<usize, usize>,
}

/// What a place that was sent ahead is claimed with.
pub(super) type Ticket = u64;

#[derive(Debug)]
struct Stream(CUstream);

// SAFETY: a stream may be used by any thread that has its device's context.
unsafe impl Send for Stream {}

/// Where the next values go.
enum Found {
    Idle(Place),
    /// A new place, which is counted already.
    New,
    /// There would be too many.
    Nowhere,
}

impl Uploads {
    /// The way for so many values, and places to be freed for it.
    fn find(&mut self, capacity: usize) -> (Found, Vec<Place>) {
        let fits = |place: &Place| place.capacity() == capacity;
        let free = self.idle.iter().position(|place| fits(place) && place.is_free());
        if let Some(place) = free.and_then(|free| self.idle.remove(free)) {
            return (Found::Idle(place), Vec::new());
        }
        if self.is_full(capacity) || self.count.get(&capacity).is_some_and(|count| *count >= MOST_OF_A_SIZE) {
            // The one that was used first is free first.
            if let Some(place) = self.idle.iter().position(fits).and_then(|first| self.idle.remove(first)) {
                return (Found::Idle(place), Vec::new());
            }
        }
        let mut freed = Vec::new();
        while self.is_full(capacity) {
            let Some(oldest) = self.idle.pop_front() else { return (Found::Nowhere, freed) };
            self.discount(oldest.capacity());
            freed.push(oldest);
        }
        *self.count.entry(capacity).or_default() += 1;
        (Found::New, freed)
    }

    /// Whether one more of this capacity is too much.
    fn is_full(&self, capacity: usize) -> bool {
        let values: usize = self.count.iter().map(|(capacity, count)| capacity * count).sum();
        (values + capacity) * size_of::<f32>() > MOST_BYTES
    }

    fn discount(&mut self, capacity: usize) {
        if let Some(count) = self.count.get_mut(&capacity) {
            *count = count.saturating_sub(1);
        }
    }

    /// The stream, made when it is first asked for: one that the default stream does not wait for on its own.
    fn stream(&mut self) -> Result<CUstream, DriverError> {
        if let Some(stream) = &self.stream {
            return Ok(stream.0);
        }
        let made = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        Ok(self.stream.insert(Stream(made)).0)
    }
}

impl Context {
    fn uploads(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the values of an array, which is [large](is_large), to a place on the device; `None` if there is none for them.
    fn send(&self, array: &Array) -> ModelResult<Option<Place>> {
        self.device.bind_to_thread().map_err(CudaError::from)?;
        let capacity = capacity(array.len());
        // What takes long is done without the lock: another thread may want a place.
        let (found, freed) = self.uploads().find(capacity);
        let freed = freed.into_iter().try_for_each(Place::free).map_err(CudaError::from);
        let mut place = match found {
            Found::Idle(place) => place,
            Found::New => {
                let made = freed.and_then(|()| Place::new(self, capacity));
                made.inspect_err(|_| self.uploads().discount(capacity))?
            }
            Found::Nowhere => return Ok(None),
        };
        if let Err(error) = place.write(array) {
            self.uploads().idle.push_back(place);
            return Err(error);
        }
        let stream = self.uploads().stream().map_err(CudaError::from)?;
        // SAFETY: the stream is the one of the copies.
        Ok(Some(unsafe { place.send(array.len(), stream) }.map_err(CudaError::from)?))
    }

    /// The same for a tensor that is asked for later.
    pub(super) fn send_ahead(&self, array: &Array) -> ModelResult<Option<Ticket>> {
        let Some(place) = self.send(array)? else { return Ok(None) };
        let mut uploads = self.uploads();
        let ticket = uploads.next;
        uploads.next += 1;
        uploads.sent.insert(ticket, place);
        Ok(Some(ticket))
    }

    /// Gives the place of a ticket back that nobody asked for; whether it was still there.
    pub(super) fn give_back(&self, ticket: Ticket) -> bool {
        let mut uploads = self.uploads();
        let place = uploads.sent.remove(&ticket);
        let was_there = place.is_some();
        uploads.idle.extend(place);
        was_there
    }

    /// Frees the places that are not in use, after the device has done what it was asked for with them; also those that were
    /// sent ahead, if so it is wanted: whoever asks for their values then sends them once more.
    pub(super) fn free_places(&self, also_sent: bool) -> Result<(), DriverError> {
        self.device.bind_to_thread()?;
        let places = {
            let mut uploads = self.uploads();
            let mut places: Vec<_> = uploads.idle.drain(..).collect();
            if also_sent {
                places.extend(std::mem::take(&mut uploads.sent).into_values());
            }
            places.iter().for_each(|place| uploads.discount(place.capacity()));
            places
        };
        places.into_iter().try_for_each(Place::free)
    }
}

/// An array of a batch as a tensor; `None` where dfdx's way is as good or the only one: for what is small, larger than what is
/// locked, or when there is no memory for a place.
pub(crate) fn upload<S: Shape>(
    device: &Cuda,
    batch: &Record,
    name: &str,
    shape: S,
) -> ModelResult<Option<Tensor<S, Cuda>>> {
    let array = batch.get(name)?;
    if !is_large(array) {
        return Ok(None);
    }
    let len = array.len();
    let tensor = asking(len * size_of::<f32>(), || device.try_zeros_like(&(len,)))?;
    let context = Context::of(&tensor)?;
    let output = Output::around(&context, tensor)?;
    context.device.bind_to_thread().map_err(CudaError::from)?;
    let sent = match ahead::claim(&context, batch, name).and_then(|ticket| context.uploads().sent.remove(&ticket)) {
        Some(place) => Ok(Some(place)),
        None => context.send(array),
    };
    let delivered = sent.and_then(|place| {
        let Some(place) = place else { return Ok(false) };
        // SAFETY: the output is new memory of `len` values, allocated on the default stream, and as many were sent: a
        // ticket is for all values of the array that it came with.
        let place = unsafe { place.deliver(len, output.pointer()) }.map_err(CudaError::from)?;
        context.uploads().idle.push_back(place);
        Ok(true)
    });
    match delivered {
        Ok(true) => Ok(Some(output.finish()?.try_reshape_like(&shape)?)),
        Ok(false) => Ok(None),
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

/// Whether an array is worth a place, and not too large for one.
pub(super) fn is_large(array: &Array) -> bool {
    let values = SMALL / size_of::<f32>() + 1..=MOST_BYTES / 2 / size_of::<f32>();
    array.dtype() != Dtype::Text && values.contains(&array.len()) && values.contains(&capacity(array.len()))
}

/// Of a place for so many values: there are few sizes, so that batches of many lengths find one another's places.
fn capacity(len: usize) -> usize {
    len.checked_next_power_of_two().unwrap_or(usize::MAX)
}
