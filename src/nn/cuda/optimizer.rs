//! Updates of many parameters in one launch.

use cudarc::driver::{DevicePtr, DeviceRepr};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, CudaError};

use super::context::{Context, blocks};
use super::elementwise::THREADS;
use super::pointer::{Route, parse};
use crate::ModelResult;
use crate::nn::{Gradients, Loan, Parameter};

/// The kernels' `MOST_TENSORS`.
const MOST_TENSORS: usize = 48;

/// The kernels' `Tensors`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tensors {
    parameter: [u64; MOST_TENSORS],
    gradient: [u64; MOST_TENSORS],
    first: [u64; MOST_TENSORS],
    second: [u64; MOST_TENSORS],
    length: [u64; MOST_TENSORS],
    end: [u32; MOST_TENSORS],
    count: u32,
}

// SAFETY: arrays of pointers, of 64 and of 32 bits and a number of 32 bits in C's layout, as the kernels' struct has them in
// the same order and number.
unsafe impl DeviceRepr for Tensors {}

/// The kernels' `Lamb`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lamb {
    pub(super) rate: f32,
    pub(super) betas: [f32; 2],
    pub(super) epsilon: f32,
    /// `1 / (1 - beta^step)`
    pub(super) corrections: [f32; 2],
    pub(super) decay: f32,
}

// SAFETY: seven floats in C's layout, as the kernels' struct has them in the same order.
unsafe impl DeviceRepr for Lamb {}

/// A rule and its numbers, which are the same for all tensors of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fused {
    Sgd { rate: f32, momentum: f32, nesterov: bool, l2: f32 },
    Adam { rate: f32, betas: [f32; 2], epsilon: f32, corrections: [f32; 2], l2: f32, decoupled: f32 },
    RmsProp { rate: f32, decay: f32, epsilon: f32, momentum: f32, l2: f32 },
    Adagrad { rate: f32, initial: f32, epsilon: f32, l2: f32 },
    Ftrl { rate: f32, initial: f32, l1: f32, l2: f32 },
    Lamb(Lamb),
}

impl Fused {
    fn moments(self) -> usize {
        match self {
            Self::Sgd { momentum: 0.0, .. } => 0,
            Self::RmsProp { momentum: 0.0, .. } | Self::Sgd { .. } | Self::Adagrad { .. } => 1,
            Self::RmsProp { .. } | Self::Adam { .. } | Self::Ftrl { .. } | Self::Lamb(_) => 2,
        }
    }
}

/// One parameter that waits for its update. The pointers are to its values, which the loan keeps, and to memory of the
/// gradients and the moments, which [`Pending`] is handed at every call.
struct Entry {
    parameter: Loan<Cuda>,
    values: u64,
    gradient: u64,
    moments: [u64; 2],
}

/// Updates that wait for being launched together.
#[derive(Default)]
pub struct Pending {
    groups: Vec<(Fused, Vec<Entry>)>,
}

impl Pending {
    /// Adds an update; `false` if the parameter's values cannot be written where they are, because somebody shares them or
    /// their memory is not known.
    ///
    /// # Safety
    /// The gradients and moments must live until [`launch`](Self::launch), and nobody else may use them until then.
    pub(crate) unsafe fn add(
        &mut self,
        rule: Fused,
        parameter: &Parameter<Cuda>,
        gradients: &mut Gradients<Cuda>,
        moments: &mut [Gradients<Cuda>; 2],
    ) -> ModelResult<bool> {
        if parameter.is_shared() {
            return Ok(false);
        }
        let loan = parameter.lend();
        if Context::of(&loan)?.route != Route::Pointer {
            return Ok(false);
        }
        let Some(parsed) = parse(&loan).filter(|parsed| parsed.len == loan.shape().0) else { return Ok(false) };
        let ghost = loan.ghost();
        let gradient = *gradients.get_or_alloc_mut(&ghost)?.device_ptr();
        let mut pointers = [0; 2];
        for (pointer, moments) in pointers.iter_mut().zip(moments).take(rule.moments()) {
            *pointer = *moments.get_or_alloc_mut(&ghost)?.device_ptr();
        }
        let entry = Entry { values: parsed.pointer, parameter: loan, gradient, moments: pointers };
        match self.groups.iter_mut().find(|(other, _)| *other == rule) {
            Some((_, entries)) => entries.push(entry),
            None => self.groups.push((rule, vec![entry])),
        }
        Ok(true)
    }

    /// Launches what waits.
    ///
    /// # Safety
    /// That of [`add`](Self::add).
    pub(crate) unsafe fn launch(&mut self) -> ModelResult<()> {
        for (rule, entries) in std::mem::take(&mut self.groups) {
            for entries in entries.chunks(MOST_TENSORS) {
                // SAFETY: that of this function.
                unsafe { launch(rule, entries) }?;
            }
        }
        Ok(())
    }
}

/// # Safety
/// That of [`Pending::launch`].
unsafe fn launch(rule: Fused, entries: &[Entry]) -> ModelResult<()> {
    let Some(first) = entries.first() else { return Ok(()) };
    let context = Context::of(&first.parameter)?;
    let mut tensors = Tensors {
        parameter: [0; MOST_TENSORS],
        gradient: [0; MOST_TENSORS],
        first: [0; MOST_TENSORS],
        second: [0; MOST_TENSORS],
        length: [0; MOST_TENSORS],
        end: [0; MOST_TENSORS],
        count: entries.len() as u32,
    };
    let mut end = 0u32;
    for (k, entry) in entries.iter().enumerate() {
        let len = entry.parameter.shape().0;
        end = end.saturating_add(blocks(len, THREADS));
        tensors.parameter[k] = entry.values;
        tensors.gradient[k] = entry.gradient;
        [tensors.first[k], tensors.second[k]] = entry.moments;
        tensors.length[k] = len as u64;
        tensors.end[k] = end;
    }
    let grid = (end, 1);
    let launched: Result<(), CudaError> = match rule {
        Fused::Sgd { rate, momentum, nesterov, l2 } => {
            let arguments = (tensors, rate, momentum, u32::from(nesterov), l2, 0.0f32);
            // SAFETY: values, gradient and moments of each tensor are of its length; the loans keep the values, which nobody
            // else held when they were added, and the caller keeps the others. `first` is null only without momentum.
            unsafe { context.launch("sgd_update", grid, THREADS, arguments) }
        }
        Fused::Adam { rate, betas: [b1, b2], epsilon, corrections: [c1, c2], l2, decoupled } => {
            let arguments = (tensors, rate, b1, b2, epsilon, c1, c2, l2, decoupled);
            // SAFETY: as above; both moments are there.
            unsafe { context.launch("adam_update", grid, THREADS, arguments) }
        }
        Fused::RmsProp { rate, decay, epsilon, momentum, l2 } => {
            let arguments = (tensors, rate, decay, epsilon, momentum, l2);
            // SAFETY: as above; `second` is null only without momentum.
            unsafe { context.launch("rmsprop_update", grid, THREADS, arguments) }
        }
        Fused::Adagrad { rate, initial, epsilon, l2 } => {
            // SAFETY: as above; the first moment is there.
            unsafe { context.launch("adagrad_update", grid, THREADS, (tensors, rate, initial, epsilon, l2)) }
        }
        Fused::Ftrl { rate, initial, l1, l2 } => {
            // SAFETY: as above; both moments are there.
            unsafe { context.launch("ftrl_update", grid, THREADS, (tensors, rate, initial, l1, l2)) }
        }
        Fused::Lamb(lamb) => {
            let partial = context.uninitialized::<f64>(2 * end as usize)?;
            let ratios = context.uninitialized::<f32>(entries.len())?;
            let (partial, ratios) = (*partial.device_ptr(), *ratios.device_ptr());
            // SAFETY: as above; both moments are there. Partial is of two values for each block, the ratios are one for each
            // tensor; both are new, and freed behind the last launch.
            unsafe {
                context.launch("lamb_moments", grid, THREADS, (tensors, lamb, partial))?;
                context.launch("lamb_ratios", (tensors.count, 1), THREADS, (tensors, partial, ratios))?;
                context.launch("lamb_update", grid, THREADS, (tensors, lamb, ratios))
            }
        }
    };
    Ok(launched?)
}
