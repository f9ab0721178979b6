//! Recurrent layers. The sequences are packed: sorted by length, and the real steps of all of them laid out step by step, so
//! that nothing is computed after a sequence's end. A backward direction is a forward one over reversed sequences.

use std::sync::Arc;

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cpu, PutTape, SplitTape, Tape, TensorFromVec};
use dfdx::tensor_ops::ReshapeTo;
use rayon::prelude::*;

use super::cells::{gru_step, gru_step_back, lstm_step, lstm_step_back};
use super::elementwise::add;
use super::matmul::{Accum, matrix, matrix_mut, multiply, multiply_parallel};
use super::packed::Packed;
use super::record::{Flat, flat, host, record};
use super::scratch::Scratch;
use crate::nn::Parameter;
use crate::nn::backend::{Cell, Direction, Recurrence, RecurrentRun, Sequences, State};
use crate::{ModelError, ModelResult};

/// The sizes and weights of one direction.
struct Run {
    cell: Cell,
    inputs: usize,
    hidden: usize,
    backward: bool,
    weight_ih: Arc<Vec<f32>>,
    weight_hh: Arc<Vec<f32>>,
    bias: Arc<Vec<f32>>,
    bias_hn: Option<Arc<Vec<f32>>>,
}

/// What a forward pass leaves, in packed rows.
struct Trace {
    x: Scratch,
    /// Gates after their functions; of a GRU, the new gate's share of the hidden state in a fourth place.
    gates: Scratch,
    /// The state before each step and after it.
    before: Scratch,
    h: Scratch,
    /// The cell before each step and the tangent of that after it, of an LSTM.
    cell_before: Scratch,
    cell_tanh: Scratch,
    last_h: Vec<f32>,
    last_cell: Vec<f32>,
}

impl Run {
    fn new(direction: &Direction<'_, Cpu>, cell: Cell, inputs: usize, hidden: usize) -> ModelResult<Self> {
        Ok(Self {
            cell,
            inputs,
            hidden,
            backward: direction.backward,
            weight_ih: host(direction.weight_ih)?,
            weight_hh: host(direction.weight_hh)?,
            bias: host(direction.bias)?,
            bias_hn: direction.bias_hn.map(host).transpose()?,
        })
    }

    /// Values of the gates per row: a GRU keeps one more.
    fn width(&self) -> usize {
        4 * self.hidden
    }

    fn gate_rows(&self) -> usize {
        self.cell.gates() * self.hidden
    }

    fn forward(&self, packed: &Packed, x: &[f32], initial: Option<(&[f32], &[f32])>) -> Trace {
        let (rows, hidden, width, gate_rows) = (packed.rows(), self.hidden, self.width(), self.gate_rows());
        let batch = packed.order.len();
        let mut input = Scratch::dirty(rows * self.inputs);
        packed.each(self.backward, |packed, row| {
            input[packed * self.inputs..][..self.inputs].copy_from_slice(&x[row * self.inputs..][..self.inputs]);
        });
        let mut gates = Scratch::dirty(rows * width);
        if rows > 0 {
            for row in gates.chunks_exact_mut(width) {
                row[..gate_rows].copy_from_slice(&self.bias);
                row[gate_rows..].fill(0.0);
                if let Some(bias) = &self.bias_hn {
                    row[gate_rows..].copy_from_slice(bias);
                }
            }
            multiply_parallel(
                matrix_mut(&mut gates, rows, width).subcols_mut(0, gate_rows),
                Accum::Add,
                matrix(&input, rows, self.inputs),
                matrix(&self.weight_ih, gate_rows, self.inputs).transpose(),
            );
        }
        let mut trace = Trace {
            x: input,
            gates,
            before: Scratch::dirty(rows * hidden),
            h: Scratch::dirty(rows * hidden),
            cell_before: Scratch::dirty(if self.cell == Cell::Lstm { rows * hidden } else { 0 }),
            cell_tanh: Scratch::dirty(if self.cell == Cell::Lstm { rows * hidden } else { 0 }),
            last_h: vec![0.0; batch * hidden],
            last_cell: vec![0.0; if self.cell == Cell::Lstm { batch * hidden } else { 0 }],
        };
        // The running state, by rank in the order of lengths: what remains of it at the end is the last state.
        let mut h = Scratch::zeros(batch * hidden);
        let mut c = Scratch::zeros(trace.last_cell.len());
        if let Some((first_h, first_c)) = initial {
            for (rank, row) in packed.order.iter().enumerate() {
                h[rank * hidden..][..hidden].copy_from_slice(&first_h[row * hidden..][..hidden]);
                if !c.is_empty() {
                    c[rank * hidden..][..hidden].copy_from_slice(&first_c[row * hidden..][..hidden]);
                }
            }
        }
        // The product of the new gate's share has its own columns in a GRU.
        let weights = matrix(&self.weight_hh, gate_rows, hidden).transpose();
        for step in 0..packed.steps() {
            let range = packed.step(step);
            let (first, count) = (range.start * hidden, range.len() * hidden);
            let gates = &mut trace.gates[range.start * width..range.end * width];
            let before = &mut trace.before[first..first + count];
            before.copy_from_slice(&h[..count]);
            let state = matrix(before, range.len(), hidden);
            let (h, after) = (&mut h[..count], &mut trace.h[first..first + count]);
            match self.cell {
                Cell::Lstm => {
                    multiply(matrix_mut(gates, range.len(), width), Accum::Add, state, weights);
                    let c = &mut c[..count];
                    trace.cell_before[first..first + count].copy_from_slice(c);
                    lstm_step(gates, c, &mut trace.cell_tanh[first..first + count], after, hidden);
                }
                Cell::Gru => {
                    let out = matrix_mut(gates, range.len(), width);
                    let (reset_update, rest) = out.split_at_col_mut(2 * hidden);
                    multiply(reset_update, Accum::Add, state, weights.subcols(0, 2 * hidden));
                    let share = rest.subcols_mut(hidden, hidden);
                    multiply(share, Accum::Add, state, weights.subcols(2 * hidden, hidden));
                    gru_step(gates, before, after, hidden);
                }
            }
            h.copy_from_slice(after);
        }
        for (rank, row) in packed.order.iter().enumerate() {
            trace.last_h[row * hidden..][..hidden].copy_from_slice(&h[rank * hidden..][..hidden]);
            if !c.is_empty() {
                trace.last_cell[row * hidden..][..hidden].copy_from_slice(&c[rank * hidden..][..hidden]);
            }
        }
        trace
    }

    /// Adds to the gradients of the tensors of this direction, in the order of [`Gradients`]; `dh` is that of the outputs in
    /// packed rows.
    fn backward(&self, packed: &Packed, trace: &mut Trace, dh: &[f32], last: &[Vec<f32>], to: &mut Gradients<'_>) {
        let (rows, hidden, width, gate_rows) = (packed.rows(), self.hidden, self.width(), self.gate_rows());
        let mut dh_running = Scratch::dirty(packed.order.len() * hidden);
        let mut dc_running = Scratch::dirty(if self.cell == Cell::Lstm { dh_running.len() } else { 0 });
        for (rank, row) in packed.order.iter().enumerate() {
            dh_running[rank * hidden..][..hidden].copy_from_slice(&last[0][row * hidden..][..hidden]);
            if !dc_running.is_empty() {
                dc_running[rank * hidden..][..hidden].copy_from_slice(&last[1][row * hidden..][..hidden]);
            }
        }
        let weights = matrix(&self.weight_hh, gate_rows, hidden);
        for step in (0..packed.steps()).rev() {
            let range = packed.step(step);
            let (first, count) = (range.start * hidden, range.len() * hidden);
            let gates = &mut trace.gates[range.start * width..range.end * width];
            let running = &mut dh_running[..count];
            add(running, &dh[first..first + count]);
            match self.cell {
                Cell::Lstm => {
                    let cells = (&trace.cell_before[first..first + count], &trace.cell_tanh[first..first + count]);
                    lstm_step_back(gates, cells, running, &mut dc_running[..count], hidden);
                    let gates = matrix(gates, range.len(), width);
                    multiply(matrix_mut(running, range.len(), hidden), Accum::Replace, gates, weights);
                }
                Cell::Gru => {
                    // What reaches the state before the step directly stays in `running`.
                    gru_step_back(gates, &trace.before[first..first + count], running, hidden);
                    let gates = matrix(gates, range.len(), width);
                    let mut running = matrix_mut(running, range.len(), hidden);
                    let (reset_update, share) = (gates.subcols(0, 2 * hidden), gates.subcols(3 * hidden, hidden));
                    multiply(running.as_mut(), Accum::Add, reset_update, weights.subrows(0, 2 * hidden));
                    multiply(running, Accum::Add, share, weights.subrows(2 * hidden, hidden));
                }
            }
        }
        if let Some((first_h, first_c)) = &mut to.initial {
            for (rank, row) in packed.order.iter().enumerate() {
                add(&mut first_h[row * hidden..][..hidden], &dh_running[rank * hidden..][..hidden]);
                if !dc_running.is_empty() {
                    add(&mut first_c[row * hidden..][..hidden], &dc_running[rank * hidden..][..hidden]);
                }
            }
        }
        if rows == 0 {
            return;
        }
        let gates = matrix(&trace.gates, rows, width);
        let before = matrix(&trace.before, rows, hidden);
        let from_x = gates.subcols(0, gate_rows);
        let dw_ih = matrix_mut(to.weight_ih, gate_rows, self.inputs);
        multiply_parallel(dw_ih, Accum::Add, from_x.transpose(), matrix(&trace.x, rows, self.inputs));
        let dw_hh = matrix_mut(to.weight_hh, gate_rows, hidden);
        match self.cell {
            Cell::Lstm => multiply_parallel(dw_hh, Accum::Add, from_x.transpose(), before),
            Cell::Gru => {
                let (reset_update, new) = dw_hh.split_at_row_mut(2 * hidden);
                multiply_parallel(reset_update, Accum::Add, gates.subcols(0, 2 * hidden).transpose(), before);
                multiply_parallel(new, Accum::Add, gates.subcols(3 * hidden, hidden).transpose(), before);
            }
        }
        for row in trace.gates.chunks_exact(width) {
            add(to.bias, &row[..gate_rows]);
            if let Some(bias_hn) = &mut to.bias_hn {
                add(bias_hn, &row[gate_rows..]);
            }
        }
    }

    /// The gradient of the packed input.
    fn input_gradient(&self, packed: &Packed, trace: &Trace) -> Scratch {
        let (rows, gate_rows) = (packed.rows(), self.gate_rows());
        let mut dx = Scratch::dirty(rows * self.inputs);
        if rows > 0 {
            let gates = matrix(&trace.gates, rows, self.width()).subcols(0, gate_rows);
            let weights = matrix(&self.weight_ih, gate_rows, self.inputs);
            multiply_parallel(matrix_mut(&mut dx, rows, self.inputs), Accum::Replace, gates, weights);
        }
        dx
    }
}

/// The gradients of one direction, to be added to.
struct Gradients<'a> {
    weight_ih: &'a mut [f32],
    weight_hh: &'a mut [f32],
    bias: &'a mut [f32],
    bias_hn: Option<&'a mut [f32]>,
    initial: Option<(&'a mut [f32], &'a mut [f32])>,
}

/// See [`Backend::recurrent`](crate::nn::backend::Backend::recurrent).
pub(crate) fn recurrent<T: Tape<f32, Cpu>>(
    x: Sequences<Cpu, T>,
    directions: &[Direction<'_, Cpu>],
    initial: Vec<State<Cpu>>,
    recurrence: &Recurrence<'_>,
) -> ModelResult<RecurrentRun<Cpu, T>> {
    let Recurrence { cell, hidden, lengths, input_gradient } = *recurrence;
    let (batch, length, inputs) = *x.shape();
    let (x, mut tape) = x.try_contiguous()?.split_tape();
    let packed = Packed::new(lengths, length);
    let runs: Vec<Run> =
        directions.iter().map(|direction| Run::new(direction, cell, inputs, hidden)).collect::<ModelResult<_>>()?;
    let initial_values = initial.iter().map(|(h, c)| -> ModelResult<_> {
        let copy = |tensor: &super::super::backend::Rows<Cpu>| -> ModelResult<Scratch> {
            Ok(Scratch::copy_of(&tensor.clone().try_contiguous()?))
        };
        Ok((
            copy(h)?,
            match c {
                Some(c) => copy(c)?,
                None => Scratch::dirty(0),
            },
        ))
    });
    let initial_values: Vec<(Scratch, Scratch)> = initial_values.collect::<ModelResult<_>>()?;

    let values = Scratch::copy_of(&x);
    let traces: Vec<Trace> = runs
        .par_iter()
        .enumerate()
        .map(|(number, run)| {
            let initial = initial_values.get(number).map(|(h, c)| (&h[..], &c[..]));
            run.forward(&packed, &values, initial)
        })
        .collect();
    drop(values);

    let width = runs.len() * hidden;
    let mut y = vec![0.0; batch * length * width];
    for (number, (run, trace)) in runs.iter().zip(&traces).enumerate() {
        packed.each(run.backward, |from, to| {
            y[to * width + number * hidden..][..hidden].copy_from_slice(&trace.h[from * hidden..][..hidden]);
        });
    }
    let device = x.device();
    let mut states = Vec::new();
    for trace in &traces {
        let h = device.try_tensor_from_vec(trace.last_h.clone(), (batch, hidden))?;
        let c = match cell {
            Cell::Lstm => Some(device.try_tensor_from_vec(trace.last_cell.clone(), (batch, hidden))?),
            Cell::Gru => None,
        };
        states.push((h, c));
    }
    let outputs = device.try_tensor_from_vec(y, (batch, length, width))?;
    if !T::OWNS_TAPE {
        return Ok(RecurrentRun { outputs: outputs.put_tape(tape), states });
    }

    // Gradients come as the tensors of each direction, then the initial states, then the input.
    let mut inputs_of_op: Vec<Flat> = Vec::new();
    for direction in directions {
        inputs_of_op.extend([direction.weight_ih, direction.weight_hh, direction.bias].map(Parameter::identity));
        inputs_of_op.extend(direction.bias_hn.map(Parameter::identity));
    }
    let per_direction = inputs_of_op.len() / directions.len().max(1);
    let weights_given = inputs_of_op.len();
    for (h, c) in &initial {
        inputs_of_op.push(flat(h)?);
        inputs_of_op.extend(c.as_ref().map(flat).transpose()?);
    }
    let states_given = inputs_of_op.len() - weights_given;
    if input_gradient {
        inputs_of_op.push(flat(&x)?);
    }
    let mut outputs_of_op = vec![flat(&outputs)?];
    for (h, c) in &states {
        outputs_of_op.push(flat(h)?);
        if let Some(c) = c {
            outputs_of_op.push(flat(c)?);
        }
    }
    if directions.is_empty() {
        return Err(ModelError::msg("a recurrent layer without directions"));
    }
    let states_each = (outputs_of_op.len() - 1) / directions.len();
    let mut traces = traces;
    record(
        &mut tape,
        &inputs_of_op.iter().collect::<Vec<_>>(),
        &outputs_of_op.iter().collect::<Vec<_>>(),
        move |gradients, dy| {
            let (weights, rest) = gradients.split_at_mut(per_direction * runs.len());
            let (initial, dx) = rest.split_at_mut(states_given);
            let mut initial = initial.iter_mut().map(Vec::as_mut_slice);
            let mut next_state = || {
                let h = initial.next()?;
                let c = if cell == Cell::Lstm { initial.next() } else { None };
                Some((h, c.unwrap_or_default()))
            };
            let work: Vec<_> =
                runs.iter().zip(&mut traces).zip(weights.chunks_mut(per_direction)).enumerate().collect();
            let work: Vec<_> = work.into_iter().map(|(number, work)| (number, work, next_state())).collect();
            let input_gradients: Vec<Option<Scratch>> = work
                .into_par_iter()
                .map(|(number, ((run, trace), weights), initial)| {
                    let mut dh = Scratch::dirty(packed.rows() * hidden);
                    packed.each(run.backward, |to, from| {
                        let from = &dy[0][from * width + number * hidden..][..hidden];
                        dh[to * hidden..][..hidden].copy_from_slice(from);
                    });
                    let mut weights = weights.iter_mut().map(Vec::as_mut_slice);
                    let mut next = || weights.next().unwrap_or_default();
                    let mut to = Gradients {
                        weight_ih: next(),
                        weight_hh: next(),
                        bias: next(),
                        bias_hn: (cell == Cell::Gru).then(&mut next),
                        initial,
                    };
                    let last = &dy[1 + number * states_each..][..states_each];
                    run.backward(&packed, trace, &dh, last, &mut to);
                    input_gradient.then(|| run.input_gradient(&packed, trace))
                })
                .collect();
            if let Some(dx) = dx.first_mut() {
                for (run, gradient) in runs.iter().zip(input_gradients) {
                    let Some(gradient) = gradient else { continue };
                    packed.each(run.backward, |from, to| {
                        add(&mut dx[to * inputs..][..inputs], &gradient[from * inputs..][..inputs]);
                    });
                }
            }
        },
    );
    Ok(RecurrentRun { outputs: outputs.put_tape(tape), states })
}
