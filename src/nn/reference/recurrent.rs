//! Recurrent layers step by step.

use dfdx::shapes::{Axes2, Axes3, Axis, HasShape};
use dfdx::tensor::{PutTape, SplitTape, Tape};
use dfdx::tensor_ops::{
    BroadcastTo, GatherTo, PermuteTo, ReshapeTo, TryAdd, TryConcatAlong, TryMatMul, TryMul, TryStack, TrySub,
};

use crate::nn::backend::{Cell, Direction, Recurrence, RecurrentRun, Rows, Sequences, State};
use crate::nn::{Parameter, Tensor};
use crate::{Device, ModelError, ModelResult};

/// See [`Backend::recurrent`](crate::nn::backend::Backend::recurrent).
pub fn recurrent<D: Device, T: Tape<f32, D>>(
    x: Sequences<D, T>,
    directions: &[Direction<'_, D>],
    initial: Vec<State<D>>,
    recurrence: &Recurrence<'_>,
) -> ModelResult<RecurrentRun<D, T>> {
    let (x, mut tape) = x.split_tape();
    let mut states = Vec::new();
    let mut all: Option<Sequences<D, T>> = None;
    let mut initial = initial.into_iter();
    for direction in directions {
        let (outputs, state) = one_direction::<D, T>(&x, direction, initial.next(), recurrence)?;
        let keep = |tensor: Rows<D, T>, tape: &mut T| {
            let (tensor, own) = tensor.split_tape();
            *tape = std::mem::take(tape).merge(own);
            tensor
        };
        states.push((keep(state.0, &mut tape), state.1.map(|cell| keep(cell, &mut tape))));
        all = Some(match all {
            None => outputs,
            Some(first) => {
                let shape = (x.shape().0, x.shape().1, 2 * recurrence.hidden);
                (first, outputs).try_concat_along(Axis::<2>)?.try_reshape_like(&shape)?
            }
        });
    }
    let (outputs, own) = all.ok_or_else(|| ModelError::msg("a recurrent layer without directions"))?.split_tape();
    Ok(RecurrentRun { outputs: outputs.put_tape(tape.merge(own)), states })
}

type Taped<D, T> = (Rows<D, T>, Option<Rows<D, T>>);

fn one_direction<D: Device, T: Tape<f32, D>>(
    x: &Sequences<D>,
    direction: &Direction<'_, D>,
    initial: Option<State<D>>,
    recurrence: &Recurrence<'_>,
) -> ModelResult<(Sequences<D, T>, Taped<D, T>)> {
    let Recurrence { cell, hidden, lengths, .. } = *recurrence;
    let (batch, length, inputs) = *x.shape();
    let device = x.device().clone();
    let x = x.clone().try_reshape_like(&(batch * length, inputs))?;
    let zeros = || -> ModelResult<Rows<D, T>> {
        Ok(device.try_tensor_from_vec(vec![0.0; batch * hidden], (batch, hidden))?.retaped::<T>())
    };
    let (mut h, mut c) = match initial {
        Some((h, c)) => (h.retaped::<T>(), c.map(|c| c.retaped::<T>())),
        None => (zeros()?, if cell == Cell::Lstm { Some(zeros()?) } else { None }),
    };
    // The place in the sequence of each step, and whether there is one.
    let place = |step: usize, row: usize| {
        lengths[row].checked_sub(step + 1).map(|rest| if direction.backward { rest } else { step })
    };
    let mut steps = Vec::with_capacity(length);
    for step in 0..length {
        let places = (0..batch).map(|row| row * length + place(step, row).unwrap_or(0)).collect();
        let places = device.try_tensor_from_vec(places, (batch,))?;
        let input = x.retaped::<T>().try_gather::<(usize, usize), (usize,)>(places)?;
        let (new_h, new_c) = advance(cell, hidden, direction, input, &h, c.as_ref())?;
        let real: Vec<f32> = (0..batch).map(|row| f32::from(u8::from(place(step, row).is_some()))).collect();
        h = choose(new_h, h, &real)?;
        c = match (new_c, c) {
            (Some(new), Some(old)) => Some(choose(new, old, &real)?),
            _ => None,
        };
        let (value, tape) = h.split_tape();
        h = value.retaped::<T>();
        steps.push(value.put_tape(tape));
    }
    let outputs = if length == 0 {
        device.try_tensor_from_vec(Vec::new(), (batch, 0, hidden))?.retaped::<T>()
    } else {
        let zero_row = device.try_tensor_from_vec(vec![0.0; hidden], (1, hidden))?;
        let steps = steps.try_stack()?.try_reshape_like(&(length * batch, hidden))?;
        let steps = (steps, zero_row).try_concat_along(Axis::<0>)?.try_reshape_like(&(length * batch + 1, hidden))?;
        let mut rows = vec![length * batch; batch * length];
        for step in 0..length {
            for row in 0..batch {
                if let Some(at) = place(step, row) {
                    rows[row * length + at] = step * batch + row;
                }
            }
        }
        let rows = device.try_tensor_from_vec(rows, (batch * length,))?;
        steps.try_gather::<(usize, usize), (usize,)>(rows)?.try_reshape_like(&(batch, length, hidden))?
    };
    Ok((outputs, (h, c)))
}

/// `new` where real, else `old`.
fn choose<D: Device, T: Tape<f32, D>>(new: Rows<D, T>, old: Rows<D, T>, real: &[f32]) -> ModelResult<Rows<D, T>> {
    let shape = *new.shape();
    let device = new.device().clone();
    let keep = real.iter().map(|real| 1.0 - real).collect();
    let real = device.try_tensor_from_vec(real.to_vec(), (shape.0,))?.try_broadcast_like::<_, Axis<1>>(&shape)?;
    let keep = device.try_tensor_from_vec(keep, (shape.0,))?.try_broadcast_like::<_, Axis<1>>(&shape)?;
    Ok(new.try_mul(real)?.try_add(old.try_mul(keep)?)?)
}

fn advance<D: Device, T: Tape<f32, D>>(
    cell: Cell,
    hidden: usize,
    direction: &Direction<'_, D>,
    x: Rows<D, T>,
    h: &Rows<D, T>,
    c: Option<&Rows<D, T>>,
) -> ModelResult<Taped<D, T>> {
    let (batch, inputs) = *x.shape();
    let gates = cell.gates();
    let product = |x: Rows<D, T>, weight: &Parameter<D>, width: usize| -> ModelResult<Rows<D, T>> {
        let weight = weight.shaped((gates * hidden, width))?.try_permute::<(usize, usize), Axes2<1, 0>>()?;
        Ok(x.try_matmul(weight)?)
    };
    let bias = |bias: &Parameter<D>| -> ModelResult<Rows<D, T>> {
        Ok(bias.flat().retaped::<T>().try_broadcast_like::<_, Axis<0>>(&(batch, bias.len()))?)
    };
    let from_x = product(x, direction.weight_ih, inputs)?.try_add(bias(direction.bias)?)?;
    let from_h = product(h.retaped::<T>(), direction.weight_hh, hidden)?;
    let split = |all: Rows<D, T>| -> ModelResult<(Vec<Rows<D>>, T)> {
        let all = all.try_reshape_like(&(batch, gates, hidden))?.try_permute::<_, Axes3<1, 0, 2>>()?;
        let all: Tensor<(usize, usize, usize), D, T> = all.try_contiguous()?;
        let (all, mut tape) = all.try_reshape_like(&(gates, batch * hidden))?.split_tape();
        let mut parts = Vec::new();
        for gate in 0..gates {
            let index = all.device().try_tensor_from_vec(vec![gate], (1,))?;
            let part = all.retaped::<T>().try_gather::<(usize, usize), (usize,)>(index)?;
            let (part, own) = part.try_reshape_like(&(batch, hidden))?.split_tape();
            tape = tape.merge(own);
            parts.push(part);
        }
        Ok((parts, tape))
    };
    let part = |parts: &[Rows<D>], gate: usize| parts[gate].retaped::<T>();
    match (cell, c) {
        (Cell::Lstm, Some(c)) => {
            let (parts, tape) = split(from_x.try_add(from_h)?)?;
            let kept = part(&parts, 1).try_sigmoid()?.try_mul(c.retaped::<T>())?;
            let added = part(&parts, 0).try_sigmoid()?.try_mul(part(&parts, 2).try_tanh()?)?;
            let (c, own) = kept.try_add(added)?.split_tape();
            let tape = tape.merge(own);
            let h = part(&parts, 3).try_sigmoid()?.try_mul(c.retaped::<T>().try_tanh()?)?;
            Ok((h, Some(c.put_tape(tape))))
        }
        (Cell::Gru, _) => {
            let bias_hn = direction.bias_hn.ok_or_else(|| ModelError::msg("a GRU without its bias_hn"))?;
            let ((xs, x_tape), (hs, h_tape)) = (split(from_x)?, split(from_h)?);
            let reset = part(&xs, 0).try_add(part(&hs, 0))?.try_sigmoid()?;
            let (update, own) = part(&xs, 1).try_add(part(&hs, 1))?.try_sigmoid()?.split_tape();
            let tape = x_tape.merge(h_tape).merge(own);
            let inner = part(&hs, 2).try_add(bias(bias_hn)?)?.try_mul(reset)?;
            let (new, own) = part(&xs, 2).try_add(inner)?.try_tanh()?.split_tape();
            let tape = tape.merge(own);
            // n + z (h - n)
            let difference = h.retaped::<T>().try_sub(new.retaped::<T>())?;
            let moved = update.retaped::<T>().try_mul(difference)?;
            let h = new.put_tape(tape).try_add(moved)?;
            Ok((h, None))
        }
        (Cell::Lstm, None) => Err(ModelError::msg("an LSTM without its cell")),
    }
}
