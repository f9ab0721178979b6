//! Connectionist temporal classification: against all alignments, PyTorch (`tests/data/ctc_torch.py` wrote its values) and
//! differences; decoding against all labellings.
#![allow(clippy::unwrap_used)]

mod nn_support;

use std::collections::BTreeMap;

use dfdx::shapes::Const;
use dfdx::tensor_ops::ReshapeTo;
use elistimator::nn::{Ctc, Labelling};
use nn_support::*;
use serde::Deserialize;

type Logits = Traced<(usize, usize, usize)>;

/// Repeats merged, and blanks left out.
fn collapsed(path: &[usize], blank: usize) -> Vec<usize> {
    let mut labels = Vec::new();
    for (step, class) in path.iter().enumerate() {
        if *class != blank && (step == 0 || path[step - 1] != *class) {
            labels.push(*class);
        }
    }
    labels
}

/// The probability of each labelling that any path of these steps gives, in f64.
fn all_labellings(logits: &[f32], classes: usize, blank: usize) -> BTreeMap<Vec<usize>, f64> {
    let steps = logits.len() / classes;
    let mut found = BTreeMap::new();
    for number in 0..classes.pow(steps as u32) {
        let path: Vec<usize> = (0..steps).map(|step| number / classes.pow(step as u32) % classes).collect();
        let probability: f64 = path
            .iter()
            .zip(logits.chunks(classes))
            .map(|(class, step)| f64::from(step[*class]).exp() / step.iter().map(|x| f64::from(*x).exp()).sum::<f64>())
            .product();
        *found.entry(collapsed(&path, blank)).or_insert(0.0) += probability;
    }
    found
}

fn logits(len: usize, seed: u64, scale: f32) -> Vec<f32> {
    noise(len, seed).iter().map(|x| x * scale).collect()
}

#[test]
fn losses_are_those_of_all_alignments() {
    for (classes, length, blank) in [(2, 4, 0), (3, 5, 0), (3, 5, 2), (4, 4, 1), (3, 1, 0)] {
        let x = logits(length * classes, 7, 2.0);
        let mut sum = 0.0;
        for (labels, probability) in all_labellings(&x, classes, blank) {
            let ctc = Ctc::new().blank(blank);
            let f = |_: &(), x: Logits| ctc.per_example(x, &[&labels]);
            let found = run(&(), &x, (1, length, classes), f).y[0];
            assert!((f64::from(found) + probability.ln()).abs() < 1e-5, "{labels:?}: {found}, {probability}");
            check_finite_differences(&mut (), &x, (1, length, classes), 5e-3, f);
            sum += f64::from(-found).exp();
        }
        assert!((sum - 1.0).abs() < 1e-5, "the probabilities of all labellings: {sum}");
    }
}

#[derive(Deserialize)]
struct File {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    shape: (usize, usize, usize),
    targets: Vec<Vec<usize>>,
    lengths: Vec<usize>,
    blank: usize,
    zero_infinity: bool,
    x: Vec<f32>,
    losses: Vec<f32>,
    dx: Vec<f32>,
    mean: f32,
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
    let file: File = serde_json::from_str(include_str!("data/ctc_torch.json")).unwrap();
    assert_eq!(file.cases.len(), 7);
    for (name, case) in file.cases {
        let mut ctc = Ctc::new().blank(case.blank).lengths(&case.lengths);
        if case.zero_infinity {
            ctc = ctc.zero_infinity();
        }
        let found = run(&(), &case.x, case.shape, |_, x: Logits| ctc.per_example(x, &case.targets));
        assert_close(&name, &found.y, &case.losses, 2e-6);
        assert_close(&name, &found.dx, &case.dx, 2e-6);
        let mean = ctc.mean(tensor(&case.x, case.shape), &case.targets).unwrap().as_vec();
        assert_close(&name, &mean, &[case.mean], 2e-6);
    }
}

#[test]
fn examples_do_not_see_each_other_or_what_comes_after_their_end() {
    let shape = (3, 6, 4);
    let x = logits(72, 3, 2.0);
    let targets = [vec![1, 1], vec![], vec![3, 2, 1]];
    let ctc = Ctc::new().lengths(&[4, 0, 6]);
    let f = |_: &(), x: Logits| ctc.per_example(x, &targets);
    let found = run(&(), &x, shape, f);
    check_finite_differences(&mut (), &x, shape, 5e-3, f);
    let mean = |_: &(), x: Logits| Ok(ctc.mean(x, &targets)?.try_reshape_like(&(1,))?);
    check_finite_differences(&mut (), &x, shape, 5e-3, mean);
    assert_eq!(found.y[1], 0.0, "nothing is what no step says");
    let mut other = x.clone();
    other[16..48].fill(1e9);
    let changed = run(&(), &other, shape, f);
    assert_eq!((&changed.y, &changed.dx), (&found.y, &found.dx));
    assert!(found.dx[16..48].iter().all(|slope| *slope == 0.0));
    let alone = Ctc::new().per_example(tensor(&x[48..], (1, 6, Const::<4>)), &[&targets[2]]).unwrap();
    assert_eq!(alone.as_vec()[0], found.y[2]);
    assert_same_on_one_and_two_threads(|| run(&(), &x, shape, f));
}

#[test]
fn long_sequences_and_large_logits_stay_finite() {
    let (length, classes) = (2000, 30);
    let x = logits(length * classes, 3, 100.0);
    let target: Vec<usize> = (0..600).map(|i| 1 + i * i % 29).collect();
    let found = run(&(), &x, (1, length, classes), |_, x: Logits| Ctc::new().per_example(x, &[&target]));
    assert!(found.y[0].is_finite() && found.y[0] > 1000.0);
    assert!(found.dx.iter().all(|slope| slope.is_finite()) && found.dx.iter().any(|slope| slope.abs() > 0.1));
    let steps = found.dx.chunks(classes).map(|step| step.iter().sum::<f32>().abs());
    assert!(steps.fold(0.0, f32::max) < 1e-4, "the slopes of a step sum to 0");
}

#[test]
fn classes_that_are_ruled_out_are_infinite_losses_unless_left_out() {
    // Two examples of two steps; the first can not say 1.
    let x = [0.0, f32::NEG_INFINITY, 1.0, 0.5, f32::NEG_INFINITY, 0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 0.0];
    let shape = (2, 2, 3);
    let targets = [[1], [1]];
    let found = run(&(), &x, shape, |_, x: Logits| Ctc::new().per_example(x, &targets));
    assert_eq!(found.y[0], f32::INFINITY);
    assert!(found.y[1].is_finite() && found.dx[0].is_nan() && found.dx[6..].iter().all(|slope| slope.is_finite()));
    let left_out = run(&(), &x, shape, |_, x: Logits| Ctc::new().zero_infinity().per_example(x, &targets));
    assert_eq!(left_out.y, [0.0, found.y[1]]);
    assert_eq!(left_out.dx[..6], [0.0; 6]);
    assert_eq!(left_out.dx[6..], found.dx[6..]);
    // What is ruled out and not in the target does no harm; what is not a number is seen.
    let other = run(&(), &x, shape, |_, x: Logits| Ctc::new().per_example(x, &[[2], [1]]));
    assert!(other.y.iter().chain(&other.dx).all(|value| value.is_finite()));
    let unknown = run(&(), &[f32::NAN; 6], (1, 2, 3), |_, x: Logits| Ctc::new().zero_infinity().per_example(x, &[[1]]));
    assert!(unknown.y[0].is_nan() && unknown.dx[0].is_nan());
}

#[test]
fn decoding_finds_the_best_path_and_the_best_labelling() {
    for (classes, length, blank) in [(2, 5, 0), (3, 5, 0), (4, 5, 3)] {
        for seed in 1..20 {
            let x = logits(2 * length * classes, seed, 2.0);
            let ctc = Ctc::new().blank(blank).lengths(&[length, length - 2]);
            let logits = tensor(&x, (2, length, classes));
            let (greedy, beams) = (ctc.decode(&logits).unwrap(), ctc.beam_search(&logits, 1000).unwrap());
            for (row, steps) in [(0, length), (1, length - 2)] {
                let x = &x[row * length * classes..][..steps * classes];
                let path: Vec<usize> = x
                    .chunks(classes)
                    .map(|step| (0..classes).max_by(|a, b| step[*a].total_cmp(&step[*b])).unwrap())
                    .collect();
                assert_eq!(greedy[row].labels, collapsed(&path, blank));
                // As wide as there are labellings, the search finds the probability of every one.
                let mut all: Vec<(Vec<usize>, f64)> = all_labellings(x, classes, blank).into_iter().collect();
                all.sort_by(|a, b| b.1.total_cmp(&a.1));
                assert_eq!(beams[row].len(), all.len());
                for (found, (labels, probability)) in beams[row].iter().zip(&all) {
                    assert_eq!(&found.labels, labels);
                    assert!((f64::from(found.log_probability) - probability.ln()).abs() < 1e-5);
                }
                assert!(greedy[row].log_probability <= beams[row][0].log_probability + 1e-6);
            }
            let narrow = ctc.beam_search(&logits, 2).unwrap();
            assert!(narrow.iter().all(|found| (1..=2).contains(&found.len())));
            assert!(narrow[0][0].log_probability <= beams[0][0].log_probability + 1e-6);
        }
    }
}

/// Graves (2006), figure 4 in words: no step says the label as likely as the blank, yet the label is the likelier answer.
#[test]
fn a_search_finds_what_the_best_path_misses() {
    let x: Vec<f32> = [0.6f32, 0.4, 0.6, 0.4].iter().map(|p| p.ln()).collect();
    let logits = tensor(&x, (1, 2, 2));
    let ctc = Ctc::new();
    let nothing = &ctc.decode(&logits).unwrap()[0];
    assert!(nothing.labels.is_empty() && (nothing.log_probability - 0.36f32.ln()).abs() < 1e-6);
    let found = &ctc.beam_search(&logits, 4).unwrap()[0];
    assert_eq!((&found[0].labels[..], &found[1].labels[..]), (&[1][..], &[][..]));
    assert!((found[0].log_probability - 0.64f32.ln()).abs() < 1e-6);
    // The same label twice, with a blank between.
    let x = [0.0, 9.0, 9.0, 0.0, 0.0, 9.0];
    assert_eq!(ctc.decode(&tensor(&x, (1, 3, 2))).unwrap()[0].labels, [1, 1]);
    assert_eq!(ctc.beam_search(&tensor(&x, (1, 3, 2)), 3).unwrap()[0][0].labels, [1, 1]);
    let empty = Labelling { labels: vec![], log_probability: 0.0 };
    assert_eq!(ctc.decode(&tensor(&[], (1, 0, 2))).unwrap(), std::slice::from_ref(&empty));
    assert_eq!(ctc.beam_search(&tensor(&[], (1, 0, 2)), 3).unwrap(), [[empty]]);
    let unknown = tensor(&[f32::NAN; 6], (1, 3, 2));
    assert!(ctc.decode(&unknown).is_ok() && ctc.beam_search(&unknown, 3).is_ok(), "no panic");
    let ruled_out = tensor(&[0.0, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], (1, 2, 2));
    assert_eq!(ctc.beam_search(&ruled_out, 9).unwrap()[0].len(), 1, "what is impossible is no answer");
}

#[test]
fn what_does_not_fit_says_so() {
    let x = |shape: (usize, usize, usize)| tensor(&vec![0.0; shape.0 * shape.1 * shape.2], shape);
    let ctc = Ctc::new();
    let text = message(ctc.per_example(x((2, 4, 3)), &[vec![1], vec![2, 2, 1, 1]]));
    assert!(text.contains("found a target of 4 labels, of which 2 repeat the one before, for the 4 steps"), "{text}");
    assert!(text.contains("of example 1, expected at least 6 steps"), "{text}");
    let text = message(ctc.clone().lengths(&[4, 2]).mean(x((2, 4, 3)), &[vec![1], vec![1, 2, 1]]));
    assert!(text.contains("for the 2 steps of example 1, expected at least 3"), "{text}");
    assert!(ctc.mean(x((1, 3, 3)), &[[1, 1]]).is_ok(), "one step for each label and for the blank between");
    let text = message(ctc.mean(x((1, 4, 3)), &[[1, 3]]));
    assert!(text.contains("found the label 3 at place 1 of target 0, expected one below the 3 classes"), "{text}");
    assert!(message(ctc.mean(x((1, 4, 3)), &[[1, 0]])).contains("that is not the blank 0"));
    assert!(message(ctc.mean(x((2, 4, 3)), &[[1]])).contains("found 1 targets for a batch of 2"));
    assert!(message(ctc.clone().blank(3).mean(x((1, 4, 3)), &[[1]])).contains("found the blank 3, expected one below"));
    assert!(message(ctc.clone().lengths(&[5]).decode(&x((1, 4, 3)))).contains("found the length 5 of sequence 0"));
    assert!(message(ctc.clone().lengths(&[5, 5]).decode(&x((1, 4, 3)))).contains("found 2 lengths for a batch of 1"));
    assert!(message(ctc.mean(x((0, 4, 3)), &Vec::<Vec<usize>>::new())).contains("found an empty batch"));
    assert!(message(ctc.decode(&x((1, 4, 0)))).contains("expected one below the 0 classes"));
    assert!(message(ctc.beam_search(&x((1, 4, 3)), 0)).contains("found a beam of width 0"));
    assert_eq!(ctc.per_example(x((1, 0, 3)), &[[0usize; 0]]).unwrap().as_vec(), [0.0]);
}
