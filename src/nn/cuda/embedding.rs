//! Tables of vectors.

use cudarc::driver::{CudaSlice, DevicePtr};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, PutTape, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::context::{Context, blocks, size};
use super::elementwise::THREADS;
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::embedding::check_ids;
use crate::nn::{Parameter, Tensor};
use crate::{ModelError, ModelResult};

/// See [`Backend::embedding`](crate::nn::backend::Backend::embedding).
pub(super) fn embedding<T: Tape<f32, Cuda>>(
    weight: &Parameter<Cuda>,
    ids: Vec<usize>,
    padding: Option<usize>,
    tape: T,
) -> ModelResult<Tensor<(usize, usize), Cuda, T>> {
    let [entries, width] = *weight.dims() else {
        return Err(ModelError::msg(format!("embedding: found a table of shape {:?}, expected two", weight.dims())));
    };
    if weight.len() != entries.saturating_mul(width) {
        return Err(ModelError::msg(format!(
            "embedding: found a table of {} values, expected {entries} x {width}",
            weight.len()
        )));
    }
    let count = ids.len();
    let (rows, columns, _) = (size(count)?, size(width)?, size(entries)?);
    // The kernels read where the ids say: this is what makes that sound.
    check_ids("embedding", &ids, entries)?;
    let table = weight.lend();
    let context = Context::of(&table)?;
    let is_recorded = T::OWNS_TAPE && weight.is_trainable();

    // All that comes from the host, in one copy.
    let mut host: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    let sorted = is_recorded.then(|| Sorted::new(&host, padding));
    let distinct = match &sorted {
        Some(sorted) => {
            host.extend(&sorted.ids);
            host.extend(&sorted.starts);
            host.extend(&sorted.places);
            sorted.ids.len()
        }
        None => 0,
    };
    let from_host = context.uploaded(host)?;
    let pointer = *from_host.device_ptr();

    let y = Output::new(&context, table.device(), count * width)?;
    {
        let values = Values::of(&context, &table)?;
        let arguments = (y.pointer(), values.pointer(), pointer, rows, columns);
        // SAFETY: y is new and of (rows, columns), the ids are of the rows and below the table's entries.
        unsafe { context.launch("embedding", (blocks(count * width, THREADS), 1), THREADS, arguments) }?;
    }
    let y = y.finish()?;
    if !is_recorded {
        return Ok(y.try_reshape_like(&(count, width))?.put_tape(tape));
    }
    record(tape, &[&table], y, (count, width), move |gradients, dy| {
        let at = |place: usize| *from_host.device_ptr() + (place * size_of::<u32>()) as u64;
        let (ids, starts) = (at(count), at(count + distinct));
        let places = at(count + 2 * distinct + 1);
        // Checked through `count`, of which there are no fewer.
        let distinct = distinct as u32;
        let block = columns.next_multiple_of(32).min(THREADS);
        let grid = (columns.div_ceil(block), distinct.min(65_535));
        let arguments = (gradients[0], dy, ids, starts, places, distinct, columns);
        // SAFETY: dy is of (rows, columns), the distinct ids are below the entries of the table, whose gradient is another
        // tensor's; the starts are one more than the ids, and the places between them are below the rows.
        unsafe { context.launch("embedding_backward", grid, block, arguments) }
    })
}

/// See [`Backend::embedding_bag`](crate::nn::backend::Backend::embedding_bag).
pub(super) fn embedding_bag<T: Tape<f32, Cuda>>(
    weight: &Parameter<Cuda>,
    ids: Vec<usize>,
    sizes: Vec<usize>,
    factors: Vec<f32>,
    tape: T,
) -> ModelResult<Tensor<(usize, usize), Cuda, T>> {
    let (count, bags) = (ids.len(), sizes.len());
    let total = sizes.iter().try_fold(0usize, |total, size| total.checked_add(*size));
    if total != Some(count) || factors.len() != count {
        return Err(ModelError::msg(format!(
            "bags of embeddings: found {count} ids, {} factors and bags of {total:?} ids, expected as many of each",
            factors.len()
        )));
    }
    let (x, tape) = embedding(weight, ids, None, tape)?.split_tape();
    let width = x.shape().1;
    let (rows, groups, columns) = (size(count)?, size(bags)?, size(width)?);
    let x = flat(&x)?;
    let context = Context::of(&x)?;

    // All that comes from the host, in one copy: where the bags start and end, the bag of each row, the factors.
    let mut host = vec![0u32];
    let mut end = 0;
    for size in &sizes {
        end += *size as u32;
        host.push(end);
    }
    for (bag, size) in (0u32..).zip(&sizes) {
        host.extend(std::iter::repeat_n(bag, *size));
    }
    host.extend(factors.iter().map(|factor| factor.to_bits()));
    let from_host = context.uploaded(host)?;
    let at =
        move |from_host: &CudaSlice<u32>, place: usize| *from_host.device_ptr() + (place * size_of::<u32>()) as u64;

    let y = Output::new(&context, x.device(), bags * width)?;
    {
        let values = Values::of(&context, &x)?;
        let (starts, factors) = (at(&from_host, 0), at(&from_host, 1 + bags + count));
        let arguments = (y.pointer(), values.pointer(), starts, factors, groups, columns);
        // SAFETY: y is new and of (bags, columns), x of (rows, columns); the starts are one more than the bags, ascend and end
        // with the rows, and there is a factor for each row.
        unsafe { context.launch("bag_sums", (blocks(bags * width, THREADS), 1), THREADS, arguments) }?;
    }
    record(tape, &[&x], y.finish()?, (bags, width), move |gradients, dy| {
        let (bag_of, factors) = (at(&from_host, 1 + bags), at(&from_host, 1 + bags + count));
        let arguments = (gradients[0], dy, bag_of, factors, rows, columns);
        // SAFETY: as above; the bag of each row is below the bags, and x and y are different tensors.
        unsafe { context.launch("bag_sums_backward", (blocks(count * width, THREADS), 1), THREADS, arguments) }
    })
}

/// The places of each id, in ascending order, so that their sum is the same in every run.
struct Sorted {
    ids: Vec<u32>,
    /// Where the places of each id start, and where the last ones end.
    starts: Vec<u32>,
    places: Vec<u32>,
}

impl Sorted {
    fn new(ids: &[u32], padding: Option<usize>) -> Self {
        let is_padding = |id: u32| padding == Some(id as usize);
        let mut places: Vec<u32> = (0..).zip(ids).filter(|(_, id)| !is_padding(**id)).map(|(place, _)| place).collect();
        // Stable: equal ids keep the order of their places.
        places.sort_by_key(|place| ids[*place as usize]);
        let mut sorted = Self { ids: Vec::new(), starts: Vec::new(), places: Vec::new() };
        for (at, place) in (0..).zip(&places) {
            let id = ids[*place as usize];
            if sorted.ids.last() != Some(&id) {
                sorted.ids.push(id);
                sorted.starts.push(at);
            }
        }
        sorted.starts.push(places.len() as u32);
        Self { places, ..sorted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_sorted_by_id() {
        let sorted = Sorted::new(&[7, 2, 0, 7, 2, 7], Some(0));
        assert_eq!((sorted.ids, sorted.starts, sorted.places), (vec![2, 7], vec![0, 2, 5], vec![1, 4, 0, 3, 5]));
        let none = Sorted::new(&[0, 0], Some(0));
        assert_eq!((none.ids, none.starts, none.places), (vec![], vec![0], vec![]));
    }
}
