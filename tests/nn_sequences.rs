//! Embeddings, masks and recurrent layers over padded batches.
#![allow(clippy::unwrap_used)]

mod nn_support;

use dfdx::shapes::Const;
use dfdx::tensor::{Merge, PutTape, SplitTape};
use dfdx::tensor_ops::{BroadcastTo, SumTo, TryAdd, TryMul};
use dfdx::tensor_ops::{ReshapeTo, TryConcatAlong};
use elistimator::device::Cpu;
use elistimator::nn::backend::{Cell, Direction, Recurrence};
use elistimator::nn::{
    Bags, BiGru, BiLstm, Combiner, Embedding, EmbeddingBag, Gru, Ids, Init, Layer, Lstm, RecurrentState,
    RecurrentWeights, StepTape, Tensor, mask_after_end, max_over_time, mean_over_time, reference, sequence_mask,
};
use nn_support::*;

#[test]
fn embedding_looks_up_and_trains_all_but_the_padding() {
    let table = Embedding::builder(5, 3).padding(2).weights(Init::Values(noise(15, 1))).build(&cpu()).unwrap();
    let ids = vec![4, 2, 0, 4, 4, 2];
    let y = table.forward(Ids::new(ids.clone(), (2, 3)).unwrap()).unwrap();
    assert_eq!(dims(&y), [2, 3, 3]);
    assert_eq!(y.as_vec()[..3], noise(15, 1)[12..]);
    let tape = StepTape::<Cpu>::default;
    // The input plays no part; it stands in for a batch.
    let f = |t: &Embedding<Cpu>, x: Traced<(usize,)>| {
        let (_, tape) = x.split_tape();
        t.forward(Ids::new(ids.clone(), (6,))?.traced(tape))
    };
    let found = run(&table, &[0.0], (1,), f);
    let expected =
        run(&table, &[0.0], (1,), |t, x| reference::embedding(&t.weight, ids.clone(), Some(2), x.split_tape().1));
    assert_same(&found, &expected, 1e-6);
    let gradient = &found.gradients["weight"];
    assert!(gradient[6..9].iter().all(|v| *v == 0.0) && gradient[12..].iter().any(|v| *v != 0.0));
    let mut free = Embedding::builder(5, 3).build(&cpu()).unwrap();
    check_finite_differences(&mut free, &[0.0], (1,), 5e-3, f);
    let frozen = Embedding::builder(5, 3).frozen().build(&cpu()).unwrap();
    assert!(run(&frozen, &[0.0], (1,), f).gradients["weight"].iter().all(|v| *v == 0.0));
    let started = Embedding::builder(5, 3).padding(1).build(&cpu()).unwrap().weight.values();
    assert!(started[3..6].iter().all(|v| *v == 0.0) && started[0] != 0.0);
    let empty = table.forward(Ids::new(vec![], (2, 0)).unwrap().traced(tape())).unwrap();
    assert_eq!(dims(&empty), [2, 0, 3]);
    let text = message(table.forward(Ids::new(vec![1, 5], (2,)).unwrap()));
    assert!(text.contains("found the id 5 at position 1, expected one below the 5 entries"), "{text}");
    let kind = table.forward(Ids::new(vec![5], (1,)).unwrap()).err().unwrap().kind();
    assert_eq!(kind, elistimator::ErrorKind::Signature, "a request is to blame, not the model");
    assert!(message(Ids::new(vec![1], (2, 2))).contains("found 1 of them, expected 4"));
    assert!(message(Embedding::builder(5, 3).padding(5).build(&cpu())).contains("found the id 5"));
}

#[test]
fn a_tied_output_layer_adds_to_the_gradient_of_the_table() {
    let mut table = Embedding::builder(6, 4).build(&cpu()).unwrap();
    let f = |t: &Embedding<Cpu>, x: Traced<(usize,)>| {
        let (_, tape) = x.split_tape();
        t.logits(t.forward(Ids::new(vec![1, 5, 1], (3,))?.traced(tape))?)
    };
    check_finite_differences(&mut table, &[0.0], (1,), 5e-3, f);
    assert_eq!(run(&table, &[0.0], (1,), f).gradients.len(), 1, "saved once");
    assert!(message(table.logits(tensor(&[0.0; 3], (1, 3)))).contains("found a weight of shape [6, 4]"));
    assert!(message(table.logits(tensor(&[0.0; 3], (1, 1, 3)))).contains("found a weight of shape [6, 4]"));
}

#[test]
fn tied_logits_of_sequences_are_those_of_their_steps() {
    let mut table = Embedding::builder(6, 4).build(&cpu()).unwrap();
    randomize(&mut table, 0.5);
    let x = noise(2 * 3 * 4, 5);
    let found = run(&table, &x, (2, 3, 4), |t, x: Traced<(usize, usize, usize)>| t.logits(x));
    let rows = run(&table, &x, (6, 4), |t, x: Traced<(usize, usize)>| t.logits(x));
    assert_same(&found, &rows, 0.0);
    assert_eq!(dims(&table.logits(tensor(&x, (2, 3, 4))).unwrap()), [2, 3, 6]);
    let weight = table.weight.values();
    for (row, found) in x.chunks(4).zip(found.y.chunks(6)) {
        let expected: Vec<f32> = weight.chunks(4).map(|w| w.iter().zip(row).map(|(w, x)| w * x).sum()).collect();
        assert_close("y", found, &expected, 1e-6);
    }
    check_finite_differences(&mut table, &x, (2, 3, 4), 5e-3, |t, x: Traced<(usize, usize, usize)>| t.logits(x));
    // Both uses of the table in one pass, with a size that the compiler knows.
    let mut table = Embedding::<Cpu, Const<4>>::builder(6, Const).build(&cpu()).unwrap();
    check_finite_differences(&mut table, &[0.0], (1,), 5e-3, |t, x: Traced<(usize,)>| {
        let (_, tape) = x.split_tape();
        t.logits(t.forward(Ids::new(vec![1, 5, 1, 0], (2, 2))?.traced(tape))?)
    });
    assert_eq!(dims(&table.logits(tensor(&[], (0, 3, Const::<4>))).unwrap()), [0, 3, 6]);
}

#[test]
fn bags_combine_in_three_ways() {
    let bags = || Bags::new([vec![0, 2, 2], vec![], vec![1]]);
    let weights = || [vec![1.0, 0.5, 2.0], vec![], vec![3.0]];
    for combiner in [Combiner::Mean, Combiner::Sum, Combiner::SqrtN] {
        let values = noise(12, 1);
        let table = Embedding::builder(4, 3).weights(Init::Values(values.clone())).build(&cpu()).unwrap();
        let mut layer = EmbeddingBag::new(table, combiner);
        let y = layer.forward(bags().weighted(weights()).unwrap()).unwrap().as_vec();
        for column in 0..3 {
            let sum = values[column] + 2.5 * values[6 + column];
            let (first, last) = match combiner {
                Combiner::Sum => (sum, 3.0 * values[3 + column]),
                Combiner::Mean => (sum / 3.5, values[3 + column]),
                Combiner::SqrtN => (sum / (1.0f32 + 0.25 + 4.0).sqrt(), values[3 + column]),
            };
            assert_close("bag", &[y[column], y[3 + column], y[6 + column]], &[first, 0.0, last], 1e-6);
        }
        let f = |l: &EmbeddingBag<Cpu>, x: Traced<(usize,)>| {
            l.forward(bags().weighted(weights())?.traced(x.split_tape().1))
        };
        check_finite_differences(&mut layer, &[0.0], (1,), 5e-3, f);
        let factors = vec![1.0, 0.5, 2.0, 3.0];
        let stock = run(&layer, &[0.0], (1,), |l, x| {
            let weight = &l.table().weight;
            reference::embedding_bag(weight, vec![0, 2, 2, 1], vec![3, 0, 1], factors.clone(), x.split_tape().1)
        });
        if combiner == Combiner::Sum {
            assert_same(&run(&layer, &[0.0], (1,), f), &stock, 1e-6);
        }
    }
    let table = Embedding::builder(4, 3).padding(2).build(&cpu()).unwrap();
    let layer = EmbeddingBag::new(table, Combiner::Mean);
    let with = layer.forward(Bags::new([vec![1, 2, 2]])).unwrap().as_vec();
    assert_eq!(with, layer.forward(Bags::new([vec![1]])).unwrap().as_vec(), "padding counts for nothing");
    assert!(message(layer.forward(Bags::new([vec![4]]))).contains("found the id 4"));
    assert!(message(Bags::new([vec![1]]).weighted([vec![1.0, 2.0]])).contains("sizes [2], expected [1]"));
}

#[test]
fn masks_cut_at_each_length() {
    let mask = sequence_mask(&cpu(), &[2, 0, 3], 3).unwrap();
    assert_eq!(mask.as_vec(), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    assert!(message(sequence_mask(&cpu(), &[4], 3)).contains("found the length 4 of sequence 0, expected at most"));
    let x = noise(2 * 3 * 2, 1);
    let shape = (2usize, 3usize, 2usize);
    let lengths = [2, 1];
    let masked = mask_after_end(tensor(&x, shape), &lengths).unwrap().as_vec();
    assert_eq!(masked[..4], x[..4]);
    assert_eq!(masked[4..6], [0.0, 0.0]);
    let mean = mean_over_time(tensor(&x, shape), &[2, 0]).unwrap().as_vec();
    assert_close("mean", &mean, &[(x[0] + x[2]) / 2.0, (x[1] + x[3]) / 2.0, 0.0, 0.0], 1e-6);
    let max = max_over_time(tensor(&x, shape), &lengths).unwrap().as_vec();
    assert_eq!(max, [x[0].max(x[2]), x[1].max(x[3]), x[6], x[7]]);
    assert!(message(max_over_time(tensor(&x, shape), &[0, 1])).contains("length 0 of sequence 0"));
    check_finite_differences(&mut (), &x, shape, 1e-3, |_, x| mask_after_end(x, &lengths));
    check_finite_differences(&mut (), &x, shape, 1e-3, |_, x| mean_over_time(x, &lengths));
    check_finite_differences(&mut (), &x, shape, 1e-3, |_, x| max_over_time(x, &lengths));
}

/// Batch, length, inputs, hidden, lengths.
fn batches() -> Vec<(usize, usize, usize, usize, Vec<usize>)> {
    vec![
        (1, 1, 1, 1, vec![1]),
        (3, 5, 4, 3, vec![5, 2, 4]),
        (4, 3, 2, 17, vec![0, 3, 1, 3]),
        (2, 4, 3, 2, vec![0, 0]),
        (2, 0, 3, 2, vec![0, 0]),
    ]
}

fn direction(weights: &RecurrentWeights<Cpu>, backward: bool) -> Direction<'_, Cpu> {
    Direction {
        weight_ih: &weights.weight_ih,
        weight_hh: &weights.weight_hh,
        bias: &weights.bias,
        bias_hn: weights.bias_hn.as_ref(),
        backward,
    }
}

/// Everything that a run gives in one tensor, so that all gradients are checked.
fn joined(
    outputs: Traced<(usize, usize, usize)>,
    states: Vec<Tensor<(usize, usize), Cpu, StepTape<Cpu>>>,
) -> Traced<(usize,)> {
    // dfdx does not concatenate or read empty tensors.
    let len: usize = dims(&outputs).iter().product();
    let (outputs, tape) = outputs.split_tape();
    let mut all = (len > 0).then(|| outputs.reshape_like(&(len,)).put_tape(StepTape::<Cpu>::default()));
    for state in states {
        let len: usize = dims(&state).iter().product();
        let state = state.reshape_like(&(len,));
        all = Some(match all {
            Some(all) => (all, state).concat_along(dfdx::shapes::Axis::<0>),
            None => state,
        });
    }
    let (all, own) = all.unwrap().split_tape();
    all.put_tape(tape.merge(own))
}

macro_rules! check_recurrent {
    ($Layer:ident, $Both:ident, $cell:expr) => {
        for (batch, length, inputs, hidden, lengths) in batches() {
            let shape = (batch, length, inputs);
            let x = noise(batch * length * inputs, 3);
            let mut layer = $Layer::new(&cpu(), inputs, hidden).unwrap();
            randomize(&mut layer, 0.7);
            let state = |seed: u64| tensor(&noise(batch * hidden, seed), (batch, hidden));
            let f = |l: &$Layer<Cpu>, x: Traced<(usize, usize, usize)>| {
                let initial = RecurrentState {
                    hidden: state(5).put_tape(StepTape::<Cpu>::default()),
                    cell: ($cell == Cell::Lstm).then(|| state(6).put_tape(StepTape::<Cpu>::default())),
                };
                let run = l.run(x, &lengths, Some(initial))?;
                Ok(joined(run.outputs, [Some(run.state.hidden), run.state.cell].into_iter().flatten().collect()))
            };
            let recurrence = Recurrence { cell: $cell, hidden, lengths: &lengths, input_gradient: true };
            let stock = |l: &$Layer<Cpu>, x: Traced<(usize, usize, usize)>| {
                let initial = (state(5), ($cell == Cell::Lstm).then(|| state(6)));
                let run = reference::recurrent(x, &[direction(&l.weights, false)], vec![initial], &recurrence)?;
                let states = run.states.into_iter().flat_map(|(h, c)| [Some(h), c]).flatten();
                Ok(joined(run.outputs, states.map(|s| s.put_tape(StepTape::<Cpu>::default())).collect()))
            };
            let (found, expected) = (run(&layer, &x, shape, f), run(&layer, &x, shape, stock));
            assert_same(&found, &expected, 3e-6);
            if !x.is_empty() {
                check_finite_differences(&mut layer, &x, shape, 1e-2, f);
            }

            let mut both = $Both::new(&cpu(), inputs, hidden).unwrap();
            randomize(&mut both, 0.7);
            let f = |l: &$Both<Cpu>, x: Traced<(usize, usize, usize)>| {
                // Initial states that follow from the input, so that their gradients are seen too.
                let (x, tape) = x.split_tape();
                let first = |seed: u64| -> elistimator::ModelResult<_> {
                    // dfdx cannot differentiate the sum of nothing.
                    if batch * length == 0 {
                        return Ok(state(seed).put_tape(StepTape::<Cpu>::default()));
                    }
                    let sum = x.retaped::<StepTape<Cpu>>().try_sum::<(), _>()?.try_mul(0.1)?;
                    let rows: Traced<(usize, usize)> = sum.try_broadcast_like(&(batch, hidden))?;
                    Ok(rows.try_add(state(seed))?)
                };
                let of = |seed: u64| -> elistimator::ModelResult<_> {
                    let cell = ($cell == Cell::Lstm).then(|| first(seed + 1)).transpose()?;
                    Ok(RecurrentState { hidden: first(seed)?, cell })
                };
                let initial = [of(5)?, of(7)?];
                let (outputs, states) = l.run(x.put_tape(tape), &lengths, Some(initial))?;
                Ok(joined(outputs, states.into_iter().flat_map(|s| [Some(s.hidden), s.cell]).flatten().collect()))
            };
            let stock = |l: &$Both<Cpu>, x: Traced<(usize, usize, usize)>| {
                let directions = [direction(&l.forward, false), direction(&l.backward, true)];
                let (x, mut tape) = x.split_tape();
                let mut first = |seed: u64| -> elistimator::ModelResult<Tensor<(usize, usize), Cpu>> {
                    if batch * length == 0 {
                        return Ok(state(seed));
                    }
                    let sum = x.retaped::<StepTape<Cpu>>().try_sum::<(), _>()?.try_mul(0.1)?;
                    let rows: Traced<(usize, usize)> = sum.try_broadcast_like(&(batch, hidden))?;
                    let (rows, own) = rows.try_add(state(seed))?.split_tape();
                    tape = std::mem::take(&mut tape).merge(own);
                    Ok(rows)
                };
                let mut initial = Vec::new();
                for seed in [5, 7] {
                    let h = first(seed)?;
                    initial.push((h, ($cell == Cell::Lstm).then(|| first(seed + 1)).transpose()?));
                }
                let run = reference::recurrent(x.put_tape(tape), &directions, initial, &recurrence)?;
                let states = run.states.into_iter().flat_map(|(h, c)| [Some(h), c]).flatten();
                Ok(joined(run.outputs, states.map(|s| s.put_tape(StepTape::<Cpu>::default())).collect()))
            };
            let (found, expected) = (run(&both, &x, shape, f), run(&both, &x, shape, stock));
            assert_same(&found, &expected, 3e-6);
            if !x.is_empty() {
                check_finite_differences(&mut both, &x, shape, 1e-2, f);
            }
            let lengths: &[usize] = &lengths;
            let first = |seed: u64| {
                let sum = x.iter().sum::<f32>() * 0.1;
                tensor(&noise(batch * hidden, seed).iter().map(|v| v + sum).collect::<Vec<_>>(), (batch, hidden))
            };
            let of = |seed: u64| RecurrentState {
                hidden: first(seed),
                cell: ($cell == Cell::Lstm).then(|| first(seed + 1)),
            };
            let (evaluated, _) = both.run(tensor(&x, shape), lengths, Some([of(5), of(7)])).unwrap();
            if length == 0 {
                continue;
            }
            let plain = both.forward((tensor(&x, shape), lengths)).unwrap();
            assert_eq!(plain.as_vec(), both.run(tensor(&x, shape), lengths, None).unwrap().0.as_vec());
            let evaluated = evaluated.as_vec();
            for (evaluated, trained) in evaluated.iter().zip(&found.y) {
                assert!((evaluated - trained).abs() < 1e-5, "{evaluated}, expected {trained}");
            }
            for (row, end) in lengths.iter().enumerate() {
                let after = &evaluated[(row * length + end) * 2 * hidden..(row + 1) * length * 2 * hidden];
                assert!(after.iter().all(|v| *v == 0.0), "zero after the end");
            }
        }
    };
}

#[test]
fn lstms_agree_with_differences_and_stock_operations() {
    check_recurrent!(Lstm, BiLstm, Cell::Lstm);
}

#[test]
fn grus_agree_with_differences_and_stock_operations() {
    check_recurrent!(Gru, BiGru, Cell::Gru);
}

#[test]
fn a_sequence_does_not_depend_on_its_padding_or_its_neighbours() {
    let lstm = BiLstm::new(&cpu(), 2, 3).unwrap();
    let short = noise(4, 1);
    let alone = lstm.forward(tensor(&short, (1usize, 2usize, 2usize))).unwrap().as_vec();
    let mut padded = noise(2 * 5 * 2, 9);
    padded[10..14].copy_from_slice(&short);
    let lengths: &[usize] = &[5, 2];
    let among = lstm.forward((tensor(&padded, (2usize, 5usize, 2usize)), lengths)).unwrap().as_vec();
    assert_close("outputs", &among[30..42], &alone, 1e-6);
}

#[test]
fn the_last_state_carries_the_tape() {
    let mut lstm = Lstm::new(&cpu(), 2, 3).unwrap();
    let x = noise(3 * 4 * 2, 1);
    let f = |l: &Lstm<Cpu>, x: Traced<(usize, usize, usize)>| Ok(l.run(x, &[4, 1, 3], None)?.into_last());
    check_finite_differences(&mut lstm, &x, (3, 4, 2), 1e-2, f);
    assert!(run(&lstm, &x, (3, 4, 2), f).gradients["weight_ih"].iter().any(|v| *v != 0.0));
}

#[test]
fn recurrent_layers_are_the_same_on_any_number_of_threads_and_keep_const_sizes() {
    let lstm = BiLstm::<Cpu, Const<30>, Const<50>>::new(&cpu(), Const, Const).unwrap();
    let x = noise(6 * 9 * 30, 1);
    let lengths: &[usize] = &[9, 3, 1, 0, 9, 5];
    assert_same_on_one_and_two_threads(|| {
        run(&lstm, &x, (6usize, 9usize, Const::<30>), |l, x| l.forward((x, lengths)))
    });
    let gru: Tensor<(usize, usize, Const<4>), Cpu> = Gru::<Cpu, Const<30>, Const<4>>::new(&cpu(), Const, Const)
        .unwrap()
        .forward(tensor(&x, (6usize, 9usize, Const::<30>)))
        .unwrap();
    assert_eq!(dims(&gru), [6, 9, 4]);
}

#[test]
fn impossible_sequences_say_what_was_found() {
    let lstm = Lstm::new(&cpu(), 3, 2).unwrap();
    let x = || tensor(&noise(24, 1), (2usize, 4usize, 3usize));
    assert!(message(lstm.run(x(), &[4], None)).contains("found 1 lengths for a batch of 2"));
    let text = message(lstm.run(x(), &[4, 5], None));
    assert!(text.contains("found the length 5 of sequence 1, expected at most the padded 4"), "{text}");
    let wide = tensor(&noise(8, 1), (1usize, 2usize, 4usize));
    assert!(message(lstm.forward(wide)).contains("expected 3 values per step"));
    let state = RecurrentState { hidden: tensor(&[0.0; 2], (1, 2)), cell: None };
    assert!(message(lstm.run(x(), &[4, 4], Some(state))).contains("found an initial state of shape (1, 2)"));
    assert!(message(Lstm::new(&cpu(), 0, 2)).contains("found 0 inputs and 2 units"));
}
