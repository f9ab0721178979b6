//! The linear-chain conditional random field.

use dfdx::shapes::{Axis, HasShape};
use dfdx::tensor::{PutTape, SplitTape, Tape};
use dfdx::tensor_ops::{BroadcastTo, GatherTo, LogSumExpTo, ReshapeTo, SumTo, TryAdd, TryMul, TrySub};

use crate::nn::backend::{Rows, Sequences, Transitions};
use crate::nn::{Parameter, Tensor};
use crate::{Device, ModelResult};

/// See [`Backend::crf`](crate::nn::backend::Backend::crf).
pub fn crf<D: Device, T: Tape<f32, D>>(
    emissions: Sequences<D, T>,
    transitions: Transitions<'_, D>,
    tags: &[usize],
    lengths: &[usize],
) -> ModelResult<Tensor<(usize,), D, T>> {
    let (batch, length, count) = *emissions.shape();
    let device = emissions.device().clone();
    let (emissions, tape) = emissions.split_tape();
    let emissions = emissions.try_reshape_like(&(batch * length, count))?;
    let real =
        |ok: &dyn Fn(usize) -> bool| -> Vec<f32> { (0..batch).map(|row| f32::from(u8::from(ok(row)))).collect() };
    let at = |step: usize| -> ModelResult<Rows<D, T>> {
        let rows = device.try_tensor_from_vec((0..batch).map(|row| row * length + step).collect(), (batch,))?;
        Ok(emissions.retaped::<T>().try_gather::<(usize, usize), (usize,)>(rows)?)
    };
    let per_row = |values: Vec<f32>| -> ModelResult<Rows<D>> {
        Ok(device.try_tensor_from_vec(values, (batch,))?.try_broadcast_like::<_, Axis<1>>(&(batch, count))?)
    };
    // The score of the given path: a sum over all scores times how often the path takes them.
    let mut taken = vec![0.0; batch * length * count];
    let (mut between, mut start, mut end) =
        (vec![0.0; batch * count * count], vec![0.0; batch * count], vec![0.0; batch * count]);
    for (row, &real) in lengths.iter().enumerate().filter(|(_, real)| **real > 0) {
        let tags = &tags[row * length..row * length + real];
        for (step, tag) in tags.iter().enumerate() {
            taken[(row * length + step) * count + tag] = 1.0;
        }
        for pair in tags.windows(2) {
            between[(row * count + pair[0]) * count + pair[1]] += 1.0;
        }
        start[row * count + tags[0]] = 1.0;
        end[row * count + tags[real - 1]] = 1.0;
    }
    let score = |parameter: &Parameter<D>, taken: Vec<f32>| -> ModelResult<Tensor<(usize,), D, T>> {
        let shape = (batch, parameter.len());
        let taken = device.try_tensor_from_vec(taken, shape)?;
        let scores = parameter.flat().retaped::<T>().try_broadcast_like::<_, Axis<0>>(&shape)?;
        Ok(scores.try_mul(taken)?.try_sum::<(usize,), Axis<1>>()?)
    };
    let taken = device.try_tensor_from_vec(taken, (batch, length * count))?;
    let path = emissions.retaped::<T>().try_reshape_like(&(batch, length * count))?;
    let mut path = path.try_mul(taken)?.try_sum::<(usize,), Axis<1>>()?;
    path = path.try_add(score(transitions.between, between)?)?;
    path = path.try_add(score(transitions.start, start)?)?.try_add(score(transitions.end, end)?)?;

    // The logarithm of the sum over all paths, step by step.
    let shape3 = (batch, count, count);
    let start = transitions.start.flat().retaped::<T>().try_broadcast_like::<_, Axis<0>>(&(batch, count))?;
    let mut alpha = at(0)?.try_add(start)?;
    for step in 1..length {
        let between = transitions.between.shaped((count, count))?.retaped::<T>();
        let between = between.try_broadcast_like::<_, Axis<0>>(&shape3)?;
        let (before, own) = alpha.split_tape();
        let paths = before.retaped::<T>().try_broadcast_like::<_, Axis<2>>(&shape3)?.try_add(between)?;
        let next = paths.try_logsumexp::<(usize, usize), Axis<1>>()?.try_add(at(step)?)?;
        let moves = real(&|row| lengths[row] > step);
        let stays = per_row(moves.iter().map(|moves| 1.0 - moves).collect())?;
        let stayed = before.put_tape(own).try_mul(stays)?;
        alpha = next.try_mul(per_row(moves)?)?.try_add(stayed)?;
    }
    let end = transitions.end.flat().retaped::<T>().try_broadcast_like::<_, Axis<0>>(&(batch, count))?;
    let all = alpha.try_add(end)?.try_logsumexp::<(usize,), Axis<1>>()?;
    let exists = device.try_tensor_from_vec(real(&|row| lengths[row] > 0), (batch,))?;
    let (loss, own) = all.try_sub(path)?.try_mul(exists)?.split_tape();
    Ok(loss.put_tape(tape.merge(own)))
}
