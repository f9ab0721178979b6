//! Recurrent layers: a product over all steps at once, then a product and a kernel for each step.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, CudaError, PutTape, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::Flat;
use super::blas::{Matrix, Onto};
use super::context::{Context, blocks, size};
use super::elementwise::THREADS;
use super::linear::sum_columns;
use super::pointer::{Output, Values};
use super::record::{flat, record_many};
use crate::nn::backend::{Cell, Direction, Recurrence, RecurrentRun, Sequences, State};
use crate::nn::{Loan, Parameter, reference};
use crate::{ModelError, ModelResult};

/// The kernels' `Step`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Step {
    gates: u64,
    recurrent: u64,
    after: [u64; 2],
    before: [u64; 2],
    y: u64,
    saved: [u64; 2],
    bias: u64,
    bias_hn: u64,
    lengths: u64,
    place: Place,
}

/// The kernels' `StepBack`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct StepBack {
    gates: u64,
    step_gates: u64,
    before: [u64; 2],
    after: [u64; 2],
    dy: u64,
    saved: [u64; 2],
    lengths: u64,
    place: Place,
}

/// What the two end with.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Place {
    batch: u32,
    hidden: u32,
    length: u32,
    width: u32,
    offset: u32,
    step: u32,
    reverse: u32,
    unused: u32,
}

// SAFETY: pointers and numbers of 32 bits in C's layout, as the kernels' struct has them in the same order and number.
unsafe impl DeviceRepr for Step {}
// SAFETY: as above.
unsafe impl DeviceRepr for StepBack {}

/// The sizes of a layer, checked.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    cell: Cell,
    batch: usize,
    length: usize,
    inputs: usize,
    hidden: usize,
    directions: usize,
}

impl Sizes {
    fn rows(&self) -> u32 {
        (self.batch * self.length) as u32
    }

    fn width(&self) -> usize {
        self.directions * self.hidden
    }

    /// Gates in a row of the products.
    fn gates(&self) -> u32 {
        (self.cell.gates() * self.hidden) as u32
    }

    /// Gates in a row of what is kept: a GRU keeps one more.
    fn kept(&self) -> u32 {
        4 * self.hidden as u32
    }

    fn state(&self) -> usize {
        self.batch * self.hidden
    }

    fn moments(&self) -> usize {
        if self.cell == Cell::Lstm { 2 } else { 1 }
    }

    fn place(&self, number: usize, step: usize, reverse: bool) -> Place {
        Place {
            batch: self.batch as u32,
            hidden: self.hidden as u32,
            length: self.length as u32,
            width: self.width() as u32,
            offset: (number * self.hidden) as u32,
            step: step as u32,
            reverse: u32::from(reverse),
            unused: 0,
        }
    }

    fn kernels(&self) -> (&'static str, &'static str) {
        match self.cell {
            Cell::Lstm => ("lstm_step", "lstm_step_backward"),
            Cell::Gru => ("gru_step", "gru_step_backward"),
        }
    }
}

/// What one direction leaves for its way back.
struct Run {
    reverse: bool,
    weight_ih: Loan<Cuda>,
    weight_hh: Loan<Cuda>,
    /// `(batch, length, 4 * hidden)`.
    gates: CudaSlice<f32>,
    /// The states before each step, `(batch, length, hidden)`.
    saved: [CudaSlice<f32>; 2],
    /// Whether the first states are given ones.
    has_initial: bool,
}

/// See [`Backend::recurrent`](crate::nn::backend::Backend::recurrent).
pub(super) fn recurrent<T: Tape<f32, Cuda>>(
    x: Sequences<Cuda, T>,
    directions: &[Direction<'_, Cuda>],
    initial: Vec<State<Cuda>>,
    recurrence: &Recurrence<'_>,
) -> ModelResult<RecurrentRun<Cuda, T>> {
    let Recurrence { cell, hidden, lengths, input_gradient } = *recurrence;
    let (batch, length, inputs) = *x.shape();
    if batch == 0 || length == 0 || hidden == 0 || directions.is_empty() {
        return reference::recurrent(x, directions, initial, recurrence);
    }
    let sizes = Sizes { cell, batch, length, inputs, hidden, directions: directions.len() };
    check(&sizes, directions, &initial, lengths)?;
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let lengths = lengths.iter().map(|length| *length as u32).collect();
    let lengths: CudaSlice<u32> = context.uploaded(lengths)?;
    let initial = initial.iter().map(|(h, c)| Ok((flat(h)?, c.as_ref().map(flat).transpose()?)));
    let initial: Vec<(Flat, Option<Flat>)> = initial.collect::<ModelResult<_>>()?;

    let values = Values::of(&context, &x)?;
    let y = Output::new(&context, x.device(), batch * length * sizes.width())?;
    let (mut runs, mut states) = (Vec::new(), Vec::new());
    for (number, direction) in directions.iter().enumerate() {
        let pointers = (values.pointer(), y.pointer(), *lengths.device_ptr());
        let keep = T::OWNS_TAPE;
        let (run, state) = forward(&context, &sizes, number, direction, initial.get(number), pointers, longest, keep)?;
        runs.push(run);
        states.push(state);
    }
    let y = y.finish()?;

    // Gradients come as the tensors of each direction, then the initial states, then the input.
    let mut loans = Vec::new();
    for direction in directions {
        loans.extend([direction.weight_ih, direction.weight_hh, direction.bias].map(Parameter::lend));
        loans.extend(direction.bias_hn.map(Parameter::lend));
    }
    let each = loans.len() / directions.len();
    let mut recorded: Vec<&Flat> = loans.iter().map(|loan| &**loan).collect();
    for (h, c) in &initial {
        recorded.push(h);
        recorded.extend(c);
    }
    if input_gradient {
        recorded.push(&x);
    }
    let mut outputs = vec![&y];
    outputs.extend(states.iter().flatten());
    record_many(&mut tape, &recorded, &outputs, move |gradients, dy| {
        let (weights, rest) = gradients.split_at(each * runs.len());
        let mut rest = rest.iter().copied();
        let (dy, dstates) = (dy[0], &dy[1..]);
        let mut dinitial = Vec::new();
        for run in &runs {
            let count = if run.has_initial { sizes.moments() } else { 0 };
            dinitial.push(rest.by_ref().take(count).collect::<Vec<u64>>());
        }
        let dx = rest.next();
        for (number, run) in runs.iter().enumerate() {
            let gradients = Gradients {
                weights: &weights[number * each..][..each],
                initial: &dinitial[number],
                input: dx,
                output: dy,
                states: &dstates[number * sizes.moments()..][..sizes.moments()],
            };
            backward(&context, &sizes, number, run, values.pointer(), *lengths.device_ptr(), longest, &gradients)?;
        }
        Ok(())
    });
    let shape = (batch, hidden);
    let states = states.into_iter().map(|state| {
        let mut state = state.into_iter().map(|tensor| tensor.try_reshape_like(&shape));
        let h = state.next().ok_or_else(|| ModelError::msg("a direction without a state"))??;
        Ok((h, state.next().transpose()?))
    });
    let states = states.collect::<ModelResult<_>>()?;
    Ok(RecurrentRun { outputs: y.try_reshape_like(&(batch, length, sizes.width()))?.put_tape(tape), states })
}

/// What makes the kernels' memory accesses valid.
fn check(
    sizes: &Sizes,
    directions: &[Direction<'_, Cuda>],
    initial: &[State<Cuda>],
    lengths: &[usize],
) -> ModelResult<()> {
    let Sizes { cell, batch, length, inputs, hidden, .. } = *sizes;
    let wrong = |what: &str| Err(ModelError::msg(format!("a recurrent layer on CUDA: {what}")));
    size(batch.saturating_mul(length))?;
    size(inputs)?;
    size(hidden.saturating_mul(4).saturating_mul(directions.len().max(batch)))?;
    if lengths.len() != batch || lengths.iter().any(|steps| *steps > length) {
        return wrong("found lengths that are not one for each sequence, none longer than the batch");
    }
    let gates = cell.gates() * hidden;
    for direction in directions {
        let is_right = direction.weight_ih.len() == gates.saturating_mul(inputs)
            && direction.weight_hh.len() == gates.saturating_mul(hidden)
            && direction.bias.len() == gates
            && direction.bias_hn.is_some() == (cell == Cell::Gru)
            && direction.bias_hn.is_none_or(|bias| bias.len() == hidden);
        if !is_right {
            return wrong("found weights of other sizes than the layer's");
        }
    }
    let is_right = |(h, c): &State<Cuda>| {
        let has_size = |tensor: &crate::nn::backend::Rows<Cuda>| *tensor.shape() == (batch, hidden);
        has_size(h) && c.is_some() == (cell == Cell::Lstm) && c.as_ref().is_none_or(has_size)
    };
    if !(initial.is_empty() || initial.len() == directions.len()) || !initial.iter().all(is_right) {
        return wrong("found initial states of another number or size than the directions'");
    }
    Ok(())
}

/// One direction; gives its last states. The pointers are to x, y and the lengths.
#[allow(clippy::too_many_arguments)]
fn forward(
    context: &Arc<Context>,
    sizes: &Sizes,
    number: usize,
    direction: &Direction<'_, Cuda>,
    initial: Option<&(Flat, Option<Flat>)>,
    (x, y, lengths): (u64, u64, u64),
    longest: usize,
    keep: bool,
) -> ModelResult<(Run, Vec<Flat>)> {
    let (rows, batch, hidden, inputs) = (sizes.rows(), sizes.batch as u32, sizes.hidden as u32, sizes.inputs as u32);
    let (weight_ih, weight_hh) = (direction.weight_ih.lend(), direction.weight_hh.lend());
    let (bias, bias_hn) = (direction.bias.lend(), direction.bias_hn.map(Parameter::lend));
    let bias = Values::of(context, &bias)?;
    let bias_hn = bias_hn.as_ref().map(|bias| Values::of(context, bias)).transpose()?;
    let (ih, hh) = (Values::of(context, &weight_ih)?, Values::of(context, &weight_hh)?);
    let is_lstm = sizes.cell == Cell::Lstm;
    let saved_len = if keep { rows as usize * sizes.hidden } else { 0 };
    let run = Run {
        reverse: direction.backward,
        weight_ih,
        weight_hh,
        gates: context.uninitialized(rows as usize * sizes.kept() as usize)?,
        saved: [context.uninitialized(saved_len)?, context.uninitialized(if is_lstm { saved_len } else { 0 })?],
        has_initial: initial.is_some(),
    };
    let gates = *run.gates.device_ptr();
    let (a, b) = (Matrix::new(x, inputs), Matrix::new(ih.pointer(), inputs).transposed());
    // SAFETY: x is of (rows, inputs), weight_ih of (gates, inputs), the gates are new and of (rows, 4 * hidden).
    unsafe {
        context.multiply((rows, sizes.gates(), inputs), a, b, Matrix::new(gates, sizes.kept()), Onto::Replace, 1)
    }?;

    let product = context.uninitialized::<f32>(sizes.batch * sizes.gates() as usize)?;
    let product = (*product.device_ptr(), product);
    let first = match initial {
        None => Vec::new(),
        Some((h, c)) => {
            let mut first = vec![Values::of(context, h)?];
            first.extend(c.as_ref().map(|c| Values::of(context, c)).transpose()?);
            first
        }
    };
    let mut states = Vec::new();
    for _ in 0..sizes.moments() {
        states.push(Output::new(context, run.weight_ih.device(), sizes.state())?);
    }
    let both = |of: &dyn Fn(usize) -> Option<u64>| [of(0).unwrap_or(0), of(1).unwrap_or(0)];
    let after = both(&|i| states.get(i).map(Output::pointer));
    let given = both(&|i| first.get(i).map(Values::pointer));
    let saved = both(&|i| (keep && i < sizes.moments()).then(|| *run.saved[i].device_ptr()));
    for step in 0..sizes.length {
        // What follows is zeros, which the outputs are anyway; the way back needs them in the gates as well.
        if step > 0 && step >= longest && !keep {
            break;
        }
        let before = if step == 0 { given } else { after };
        let has_product = before[0] != 0 && step < longest;
        if has_product {
            let (a, b) = (Matrix::new(before[0], hidden), Matrix::new(hh.pointer(), hidden).transposed());
            let to = Matrix::new(product.0, sizes.gates());
            // SAFETY: the state is of (batch, hidden), weight_hh of (gates, hidden), the product of (batch, gates).
            unsafe { context.multiply((batch, sizes.gates(), hidden), a, b, to, Onto::Replace, 1) }?;
        }
        let arguments = Step {
            gates,
            recurrent: if has_product { product.0 } else { 0 },
            after,
            before,
            y,
            saved,
            bias: bias.pointer(),
            bias_hn: bias_hn.as_ref().map_or(0, Values::pointer),
            lengths,
            place: sizes.place(number, step, run.reverse),
        };
        let grid = (blocks(sizes.state(), THREADS), 1);
        // SAFETY: the memory is of the sizes that the kernel's struct states, since all was checked or made so; a thread
        // reads and writes one place of the states, so that those before a step may be those after it. No length is
        // beyond the padded one.
        unsafe { context.launch(sizes.kernels().0, grid, THREADS, (arguments,)) }?;
    }
    drop((bias, bias_hn, ih, hh, product));
    let states = states.into_iter().map(Output::finish).collect::<Result<_, _>>()?;
    Ok((run, states))
}

/// Pointers to gradients, all of different tensors.
struct Gradients<'a> {
    /// weight_ih, weight_hh, bias, and of a GRU bias_hn.
    weights: &'a [u64],
    /// Of the initial states, if there are any.
    initial: &'a [u64],
    input: Option<u64>,
    output: u64,
    states: &'a [u64],
}

#[allow(clippy::too_many_arguments)]
fn backward(
    context: &Arc<Context>,
    sizes: &Sizes,
    number: usize,
    run: &Run,
    x: u64,
    lengths: u64,
    longest: usize,
    to: &Gradients<'_>,
) -> Result<(), CudaError> {
    let (rows, batch, hidden, inputs) = (sizes.rows(), sizes.batch as u32, sizes.hidden as u32, sizes.inputs as u32);
    let (ih, hh) = (Values::of(context, &run.weight_ih)?, Values::of(context, &run.weight_hh)?);
    let gates = *run.gates.device_ptr();
    let saved = [*run.saved[0].device_ptr(), *run.saved[1].device_ptr()];
    // These are freed at the end, behind all that is launched here.
    let step_gates = context.uninitialized::<f32>(sizes.batch * sizes.gates() as usize)?;
    let running = [context.uninitialized::<f32>(sizes.state())?, context.uninitialized::<f32>(sizes.state())?];
    let (step_gates_at, before) = (*step_gates.device_ptr(), [*running[0].device_ptr(), *running[1].device_ptr()]);
    let mut after = [to.states[0], to.states.get(1).copied().unwrap_or(0)];
    // The steps after the longest sequence's end hand everything on.
    for step in (0..longest).rev() {
        let arguments = StepBack {
            gates,
            step_gates: step_gates_at,
            before,
            after,
            dy: to.output,
            saved,
            lengths,
            place: sizes.place(number, step, run.reverse),
        };
        let grid = (blocks(sizes.state(), THREADS), 1);
        // SAFETY: as on the way forth; a thread reads and writes one place of the states' gradients.
        unsafe { context.launch(sizes.kernels().1, grid, THREADS, (arguments,)) }?;
        after = before;
        if step > 0 || run.has_initial {
            let (a, b) = (Matrix::new(step_gates_at, sizes.gates()), Matrix::new(hh.pointer(), hidden));
            let sizes = (batch, hidden, sizes.gates());
            // SAFETY: step_gates is of (batch, gates), weight_hh of (gates, hidden), the state's gradient of (batch, hidden).
            unsafe { context.multiply(sizes, a, b, Matrix::new(before[0], hidden), Onto::Add, 1) }?;
        }
    }
    for (total, gradient) in to.initial.iter().zip(after) {
        add(context, *total, gradient, sizes.state())?;
    }
    if longest == 0 {
        // No gate was ever computed: `gates` holds zeros, which change no sum.
        return Ok(());
    }

    let [dih, dhh, dbias, ref dbias_hn @ ..] = *to.weights else { return Ok(()) };
    let kept = Matrix::new(gates, sizes.kept());
    let from = |gate: u32| Matrix::new(gates + u64::from(gate * hidden) * size_of::<f32>() as u64, sizes.kept());
    // SAFETY: the gates are of (rows, 4 * hidden), of which a GRU's first three belong to x, which is of (rows, inputs);
    // dih is of (gates, inputs).
    unsafe {
        let (a, b) = (kept.transposed(), Matrix::new(x, inputs));
        context.multiply((sizes.gates(), inputs, rows), a, b, Matrix::new(dih, inputs), Onto::Add, 1)
    }?;
    let states = Matrix::new(saved[0], hidden);
    let parts: &[(u32, u32, u32)] = match sizes.cell {
        Cell::Lstm => &[(0, 0, 4)],
        Cell::Gru => &[(0, 0, 2), (3, 2, 1)],
    };
    for &(gate, part, count) in parts {
        let at = dhh + u64::from(part) * u64::from(hidden) * u64::from(hidden) * size_of::<f32>() as u64;
        let (a, to) = (from(gate).transposed(), Matrix::new(at, hidden));
        // SAFETY: `count` gates from this one on, of (rows, 4 * hidden); the states are of (rows, hidden), and dhh has a
        // block of (hidden, hidden) for each gate.
        unsafe { context.multiply((count * hidden, hidden, rows), a, states, to, Onto::Add, 1) }?;
    }
    if let Some(dx) = to.input {
        // SAFETY: as for dih; dx is of (rows, inputs), weight_ih of (gates, inputs).
        unsafe {
            let (b, to) = (Matrix::new(ih.pointer(), inputs), Matrix::new(dx, inputs));
            context.multiply((rows, inputs, sizes.gates()), kept, b, to, Onto::Add, 1)
        }?;
    }
    let Some(dbias_hn) = dbias_hn.first() else {
        return add_columns(context, dbias, gates, (rows, sizes.kept()));
    };
    // The sums of all four, of which the last is that of the share of h.
    let sums = context.device.alloc_zeros::<f32>(sizes.kept() as usize)?;
    let pointer = *sums.device_ptr();
    add_columns(context, pointer, gates, (rows, sizes.kept()))?;
    add(context, dbias, pointer, 3 * sizes.hidden)?;
    add(context, *dbias_hn, pointer + 3 * u64::from(hidden) * size_of::<f32>() as u64, sizes.hidden)
}

/// `total += the sums of columns`, of memory of that size.
fn add_columns(context: &Context, total: u64, x: u64, (rows, columns): (u32, u32)) -> Result<(), CudaError> {
    sum_columns(context, Some(total), (rows, columns), |sums, grid, rows_per_block, onto| {
        // SAFETY: x is of (rows, columns), and sums of a row for each row of the grid.
        unsafe { context.launch("column_sums", grid, THREADS, (sums, x, rows, columns, rows_per_block, onto)) }
    })
}

/// `total += x`, of memory of that length.
fn add(context: &Context, total: u64, x: u64, len: usize) -> Result<(), CudaError> {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    add_columns(context, total, x, (1, len))
}
