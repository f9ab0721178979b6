//! Conditional random fields, losses with options, and top-k.
#![allow(clippy::unwrap_used)]

mod nn_support;

use dfdx::tensor_ops::ReshapeTo;
use elistimator::device::Cpu;
use elistimator::nn::backend::Transitions;
use elistimator::nn::{Crf, CrossEntropy, Layer, Linear, Loss, TagPath, reference, top_k};
use nn_support::*;

type Emissions = Traced<(usize, usize, usize)>;

fn transitions(crf: &Crf<Cpu>) -> Transitions<'_, Cpu> {
    Transitions { between: &crf.transitions, start: &crf.start, end: &crf.end }
}

/// All paths of a length with their scores, in f64.
fn all_paths(crf: &Crf<Cpu>, emissions: &[f32], count: usize, steps: usize) -> Vec<(Vec<usize>, f64)> {
    let (between, start, end) = (crf.transitions.values(), crf.start.values(), crf.end.values());
    (0..count.pow(steps as u32))
        .map(|number| {
            let tags: Vec<usize> =
                (0..steps).map(|step| number / count.pow((steps - 1 - step) as u32) % count).collect();
            let mut score = f64::from(start[tags[0]]) + f64::from(end[tags[steps - 1]]);
            score += tags.iter().enumerate().map(|(step, tag)| f64::from(emissions[step * count + tag])).sum::<f64>();
            score += tags.windows(2).map(|pair| f64::from(between[pair[0] * count + pair[1]])).sum::<f64>();
            (tags, score)
        })
        .collect()
}

#[test]
fn the_field_agrees_with_all_paths_differences_and_stock_operations() {
    for (batch, length, count, lengths) in [
        (1, 1, 1, vec![1]),
        (3, 4, 3, vec![4, 1, 2]),
        (3, 5, 2, vec![0, 5, 3]),
        (2, 3, 4, vec![0, 0]),
        (1, 1, 5, vec![1]),
    ] {
        let mut crf = Crf::new(&cpu(), count).unwrap();
        randomize(&mut crf, 1.0);
        let shape = (batch, length, count);
        let x: Vec<f32> = noise(batch * length * count, 3).iter().map(|v| v * 3.0).collect();
        let tags: Vec<usize> = (0..batch * length).map(|i| i * 7 % count).collect();
        let f = |l: &Crf<Cpu>, x: Emissions| l.negative_log_likelihood(x, &tags, &lengths);
        let found = run(&crf, &x, shape, f);
        let stock = run(&crf, &x, shape, |l, x| reference::crf(x, transitions(l), &tags, &lengths));
        assert_same(&found, &stock, 1e-5);
        check_finite_differences(&mut crf, &x, shape, 5e-3, f);
        let decoded = crf.decode(&tensor(&x, shape), &lengths).unwrap();
        for (row, &steps) in lengths.iter().enumerate() {
            if steps == 0 {
                assert_eq!((found.y[row], &decoded[row]), (0.0, &TagPath { tags: vec![], score: 0.0 }));
                continue;
            }
            let paths = all_paths(&crf, &x[row * length * count..], count, steps);
            let total = paths.iter().map(|(_, score)| score.exp()).sum::<f64>().ln();
            let given = &tags[row * length..row * length + steps];
            let score = paths.iter().find(|(tags, _)| tags == given).unwrap().1;
            assert!((f64::from(found.y[row]) - (total - score)).abs() < 1e-5);
            let best = paths.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            assert_eq!(decoded[row].tags, best.0);
            assert!((f64::from(decoded[row].score) - best.1).abs() < 1e-5);
        }
    }
}

#[test]
fn long_sequences_and_large_scores_stay_finite() {
    let crf = Crf::new(&cpu(), 4).unwrap();
    let length = 2000usize;
    let x: Vec<f32> = noise(length * 4, 3).iter().map(|v| v * 200.0).collect();
    let tags = crf.decode(&tensor(&x, (1, length, 4)), &[length]).unwrap().remove(0).tags;
    let found = run(&crf, &x, (1, length, 4), |l, x| l.negative_log_likelihood(x, &tags, &[length]));
    assert!(found.y[0] >= 0.0 && found.y[0] < 200.0, "the best path is likely: {}", found.y[0]);
    assert!(found.dx.iter().all(|v| v.is_finite()));
    let wide = noise(6 * 30 * 9, 2);
    let crf = Crf::new(&cpu(), 9).unwrap();
    let (tags, lengths) = (vec![3; 180], vec![30, 4, 0, 30, 17, 1]);
    assert_same_on_one_and_two_threads(|| {
        run(&crf, &wide, (6usize, 30usize, 9usize), |l, x| l.negative_log_likelihood(x, &tags, &lengths))
    });
}

#[test]
fn impossible_tags_say_what_was_found() {
    let crf = Crf::new(&cpu(), 2).unwrap();
    let x = || tensor(&noise(12, 1), (2usize, 3usize, 2usize));
    let text = message(crf.negative_log_likelihood(x(), &[0, 1, 0, 1, 2, 0], &[3, 2]));
    assert!(text.contains("found the tag 2 at step 1 of sequence 1, expected one below 2"), "{text}");
    assert!(crf.negative_log_likelihood(x(), &[0, 1, 0, 1, 2, 9], &[3, 1]).is_ok(), "after the end any tag will do");
    assert!(message(crf.negative_log_likelihood(x(), &[0; 5], &[3, 2])).contains("found 5 tags, expected 6"));
    assert!(message(crf.negative_log_likelihood(x(), &[0; 6], &[4, 2])).contains("found the length 4"));
    assert!(message(crf.decode(&tensor(&[0.0; 6], (1usize, 2usize, 3usize)), &[2])).contains("emissions of 3 tags"));
    assert!(message(Crf::new(&cpu(), 0)).contains("found 0 tags"));
    assert_eq!(crf.decode(&tensor(&[], (1usize, 0usize, 2usize)), &[0]).unwrap()[0].tags, Vec::<usize>::new());
}

#[test]
fn cross_entropy_with_options_agrees_with_differences_and_stock_operations() {
    let (rows, classes) = (6usize, 4usize);
    let x: Vec<f32> = noise(rows * classes, 3).iter().map(|v| v * 3.0).collect();
    let labels = [0, 3, 2, 1, 999, 0];
    let weights = [1.0, 0.5, 2.0, 1.0, 0.0, 0.0];
    let loss = CrossEntropy::new().label_smoothing(0.2).class_weights([0.5, 1.0, 2.0, 1.5]).example_weights(weights);
    let f = |_: &(), x: Traced<(usize, usize)>| loss.sparse_per_example(x, &labels);
    let found = run(&(), &x, (rows, classes), f);
    let counted = [0, 3, 2, 1, 0, 0];
    let stock = run(&(), &x, (rows, classes), |_, x| {
        let class_weights = Some(&[0.5, 1.0, 2.0, 1.5][..]);
        let targets = elistimator::nn::backend::Targets::Sparse { labels: &counted, smoothing: 0.2, class_weights };
        reference::cross_entropy(x, targets, &weights)
    });
    assert_same(&found, &stock, 1e-5);
    check_finite_differences(&mut (), &x, (rows, classes), 5e-3, f);
    let mean = |_: &(), x: Traced<(usize, usize)>| Ok(loss.sparse(x, &labels)?.try_reshape_like(&(1,))?);
    check_finite_differences(&mut (), &x, (rows, classes), 5e-3, mean);
    let total = 0.5 + 0.5 * 1.5 + 2.0 * 2.0 + 1.0;
    let by_hand = found.y.iter().sum::<f32>() / total;
    assert_close("mean", &run(&(), &x, (rows, classes), mean).y, &[by_hand], 1e-5);

    let targets = tensor(&noise(rows * classes, 8).iter().map(|v| v.abs()).collect::<Vec<_>>(), (rows, classes));
    let dense = |_: &(), x: Traced<(usize, usize)>| loss.dense_per_example(x, targets.clone());
    check_finite_differences(&mut (), &x, (rows, classes), 5e-3, dense);
}

#[test]
fn masks_of_losses_leave_padding_out() {
    let x = noise(2 * 3 * 4, 3);
    let labels = [1, 2, 9, 0, 9, 9];
    let mask = [true, true, false, true, false, false];
    let steps = tensor(&x, (2usize, 3usize, 4usize));
    let masked = CrossEntropy::new().mask(&mask).sparse(steps.clone(), &labels).unwrap().as_vec();
    let kept: Vec<f32> = [0usize, 1, 3].iter().flat_map(|row| x[row * 4..row * 4 + 4].to_vec()).collect();
    let plain = CrossEntropy::new().sparse(tensor(&kept, (3usize, 4usize)), &[1, 2, 0]).unwrap().as_vec();
    assert_close("loss", &masked, &plain, 1e-6);
    let by_lengths = CrossEntropy::new().lengths(&[2, 1]);
    assert_eq!(by_lengths.sparse(steps.clone(), &labels).unwrap().as_vec(), masked);
    assert_eq!(by_lengths.sparse_per_example(steps.clone(), &labels).unwrap().as_vec()[2], 0.0);
    let both = by_lengths.clone().mask(&[false, true, true, true, true, true]).sparse(steps.clone(), &labels).unwrap();
    let kept = CrossEntropy::new().mask(&[false, true, false, true, false, false]);
    assert_eq!(both.as_vec(), kept.sparse(steps.clone(), &labels).unwrap().as_vec());
    let soft = tensor(&noise(24, 5), (2usize, 3usize, 4usize));
    let dense = CrossEntropy::new().mask(&mask).dense(steps.clone(), soft.clone()).unwrap().as_vec();
    assert_eq!(by_lengths.dense(steps.clone(), soft).unwrap().as_vec(), dense);
    assert!(message(by_lengths.sparse(tensor(&x, (6usize, 4usize)), &labels)).contains("(batch, length, classes)"));
    let no_number = CrossEntropy::new().example_weights([1.0, f32::NAN, 1.0, 1.0, 1.0, 1.0]);
    assert!(message(no_number.sparse(steps.clone(), &labels)).contains("weight NaN of example 1"));
    let too_long = CrossEntropy::new().lengths(&[2, 4]);
    assert!(message(too_long.sparse(steps.clone(), &labels)).contains("length 4 of sequence 1"));
    assert!(message(CrossEntropy::new().lengths(&[2]).sparse(steps.clone(), &labels)).contains("1 lengths"));
    let nothing = CrossEntropy::new().mask(&[false; 6]);
    assert_eq!(nothing.sparse(steps.clone(), &labels).unwrap().as_vec(), [0.0]);
    let run =
        run(&(), &x, (6, 4), |_, x: Traced<(usize, usize)>| Ok(nothing.sparse(x, &labels)?.try_reshape_like(&(1,))?));
    assert!(run.dx.iter().all(|v| *v == 0.0), "nothing that counts has no gradient");
    assert!(
        message(CrossEntropy::new().mask(&[true]).sparse(steps.clone(), &labels)).contains("found 1 weights for 6")
    );
    let weighted = CrossEntropy::new().class_weights([1.0]);
    assert!(message(weighted.sparse(steps.clone(), &[0; 6])).contains("found 1 class weights for 4 classes"));
    let smoothed = CrossEntropy::new().label_smoothing(1.5);
    assert!(message(smoothed.sparse(steps.clone(), &[0; 6])).contains("label smoothing 1.5"));
    let targets = tensor(&[0.0; 4], (1usize, 4usize));
    assert!(message(CrossEntropy::new().dense(steps, targets)).contains("found targets of shape (1, 4)"));
}

#[test]
fn losses_by_value_agree_with_differences_and_by_hand() {
    let x: Vec<f32> = noise(12, 3).iter().map(|v| v * 2.0).collect();
    let y: Vec<f32> = noise(12, 4).iter().map(|v| v.abs()).collect();
    let all = [
        Loss::Squared,
        Loss::Absolute,
        Loss::Huber { delta: 0.5 },
        Loss::BinaryCrossEntropy { positive_weight: 1.0 },
        Loss::BinaryCrossEntropy { positive_weight: 3.0 },
    ];
    for loss in all {
        let f = |_: &(), x: Traced<(usize, usize, usize)>| loss.per_example(x, tensor(&y, (3, 2, 2)));
        check_finite_differences(&mut (), &x, (3, 2, 2), 2e-3, f);
        let found = run(&(), &x, (3, 2, 2), f).y;
        let by_hand: Vec<f32> = x
            .iter()
            .zip(&y)
            .map(|(x, y)| {
                let d = (x - y).abs();
                match loss {
                    Loss::Squared => d * d,
                    Loss::Absolute => d,
                    Loss::Huber { delta } if d < delta => 0.5 * d * d,
                    Loss::Huber { delta } => delta * (d - 0.5 * delta),
                    Loss::BinaryCrossEntropy { positive_weight } => {
                        let p = 1.0 / (1.0 + (-x).exp());
                        -positive_weight * y * p.ln() - (1.0 - y) * (1.0 - p).ln()
                    }
                    _ => unreachable!(),
                }
            })
            .collect();
        let per_value = |_: &(), x: Traced<(usize, usize, usize)>| loss.per_value(x, tensor(&y, (3, 2, 2)));
        check_finite_differences(&mut (), &x, (3, 2, 2), 2e-3, per_value);
        assert_close("per value", &run(&(), &x, (3, 2, 2), per_value).y, &by_hand, 1e-5);
        let by_hand: Vec<f32> = by_hand.chunks(4).map(|row| row.iter().sum::<f32>() / 4.0).collect();
        assert_close("per example", &found, &by_hand, 1e-5);
        let weights = [1.0, 0.0, 3.0];
        let mean = loss.weighted_mean(tensor(&x, (3, 2, 2)), tensor(&y, (3, 2, 2)), &weights).unwrap().as_vec();
        assert_close("mean", &mean, &[(by_hand[0] + 3.0 * by_hand[2]) / 4.0], 1e-5);
        let none = loss.weighted_mean(tensor(&x, (3, 2, 2)), tensor(&y, (3, 2, 2)), &[0.0; 3]).unwrap().as_vec();
        assert_eq!(none, [0.0]);
    }
    // At a logit of 0, where many networks start, the gradient is that of the sigmoid.
    for positive_weight in [1.0, 3.0] {
        let loss = Loss::BinaryCrossEntropy { positive_weight };
        let zero = run(&(), &[0.0], (1, 1), |_, x: Traced<(usize, usize)>| loss.per_example(x, tensor(&[1.0], (1, 1))));
        assert_close("dx", &zero.dx, &[-0.5 * positive_weight * noise(1, 99)[0]], 1e-6);
    }
    let wrong = Loss::Squared.mean(tensor(&[0.0; 2], (2usize,)), tensor(&[0.0; 3], (3usize,)));
    assert!(message(wrong).contains("found targets of shape [3], expected [2]"));
    assert!(message(Loss::Squared.mean(tensor(&[], (0usize,)), tensor(&[], (0usize,)))).contains("empty batch"));
    let delta = Loss::Huber { delta: 0.0 };
    assert!(message(delta.mean(tensor(&[0.0], (1usize,)), tensor(&[0.0], (1usize,)))).contains("found delta 0"));
}

#[test]
fn top_k_orders_and_passes_gradients() {
    let x = [1.0, 5.0, 5.0, -2.0, f32::NAN, 0.0, -0.0, 7.0];
    let (values, places) = top_k(tensor(&x, (2usize, 4usize)), 3).unwrap();
    assert_eq!(places, [1, 2, 0, 0, 3, 1]);
    let values = values.as_vec();
    assert_eq!(values[..3], [5.0, 5.0, 1.0]);
    assert!(values[3].is_nan() && values[4] == 7.0);
    let mut layer = Linear::new(&cpu(), 4, 5).unwrap();
    let x = noise(12, 3);
    check_finite_differences(&mut layer, &x, (3, 4), 1e-3, |l, x| Ok(top_k(l.forward(x)?, 2)?.0));
    assert!(message(top_k(tensor(&x, (3usize, 4usize)), 5)).contains("found k = 5 for rows of 4 values"));
    assert!(message(top_k(tensor(&x, (3usize, 4usize)), 0)).contains("found k = 0"));
    assert!(message(top_k(tensor(&[], (0usize, 4usize)), 1)).contains("empty batch"));
}
