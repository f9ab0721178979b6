//! Normalisation, attention, transformer blocks and one-dimensional layers.
#![allow(clippy::unwrap_used)]

mod nn_support;

use dfdx::shapes::Const;
use dfdx::tensor::{PutTape, SplitTape};
use elistimator::device::Cpu;
use elistimator::nn::backend::Attention;
use elistimator::nn::{
    Activation, AvgPool1D, AvgPool2D, BatchNorm, Conv1D, Conv2D, GlobalPool1D, Layer, LayerNorm, MaxPool1D, MaxPool2D,
    MultiHeadAttention, Network, NormPosition, Part, StepTape, Tensor, TransformerBlock, Visitor, reference,
};
use nn_support::*;

#[test]
fn layer_norm_agrees_with_differences_and_stock_operations() {
    for (rows, size) in [(1, 1), (1, 5), (6, 3), (3, 37)] {
        let mut norm = LayerNorm::new(&cpu(), size).unwrap();
        randomize(&mut norm, 1.0);
        let x: Vec<f32> = noise(rows * size, 3).iter().map(|v| v * 2.0 + 1.0).collect();
        let found = run(&norm, &x, (rows, size), |l, x| l.forward(x));
        let expected = run(&norm, &x, (rows, size), |l, x| reference::layer_norm(x, &l.weight, &l.bias, 1e-5));
        // One value has no variance, and its gradient is rounding multiplied by 300.
        assert_same(&found, &expected, if size == 1 { 1e-3 } else { 1e-5 });
        if size > 1 {
            check_finite_differences(&mut norm, &x, (rows, size), 5e-3, |l, x| l.forward(x));
        }
    }
    let norm = LayerNorm::<Cpu, Const<3>>::new(&cpu(), Const).unwrap();
    let y: Tensor<(usize, usize, Const<3>), Cpu> = norm.forward(tensor(&noise(12, 1), (2, 2, Const::<3>))).unwrap();
    for row in y.as_vec().chunks(3) {
        let variance: f32 = row.iter().map(|v| v * v).sum::<f32>() / 3.0;
        assert!(row.iter().sum::<f32>().abs() < 1e-5 && (variance - 1.0).abs() < 1e-3);
    }
    let norm = LayerNorm::new(&cpu(), 3).unwrap();
    assert!(
        message(norm.forward(tensor(&noise(8, 1), (2usize, 4usize)))).contains("found 2 rows of 4 values, expected 3")
    );
    assert!(message(LayerNorm::new(&cpu(), 0)).contains("found a size of 0"));
    for epsilon in [-1.0, f32::NAN] {
        let norm = LayerNorm::new(&cpu(), 3).unwrap().epsilon(epsilon);
        let expected = format!("layer normalisation: found the epsilon {epsilon}");
        assert!(message(norm.forward(tensor(&[0.0; 6], (2usize, 3usize)))).contains(&expected));
        let norm = BatchNorm::new(&cpu(), 3).unwrap().epsilon(epsilon);
        let expected = format!("batch normalisation: found the epsilon {epsilon}");
        assert!(message(norm.forward(tensor(&[0.0; 6], (2usize, 3usize)))).contains(&expected));
    }
    let norm = BatchNorm::new(&cpu(), 3).unwrap().momentum(1.5);
    assert!(message(norm.forward(tensor(&[0.0; 6], (2usize, 3usize)))).contains("found the momentum 1.5"));
}

#[test]
fn batch_norm_agrees_with_differences_and_stock_operations() {
    for (batch, channels, pixels) in [(2, 1, 1), (5, 3, 1), (1, 2, 7), (3, 4, 5)] {
        let mut norm = BatchNorm::new(&cpu(), channels).unwrap();
        change(&mut norm, "weight", |values| values.copy_from_slice(&noise(channels, 8)));
        change(&mut norm, "bias", |values| values.copy_from_slice(&noise(channels, 9)));
        let x: Vec<f32> = noise(batch * channels * pixels, 3).iter().map(|v| v * 2.0 + 1.0).collect();
        let shape = (batch, channels, pixels);
        let found = run(&norm, &x, shape, |l, x| l.forward(x));
        let expected = run(&norm, &x, shape, |l, x| Ok(reference::batch_norm(x, &l.weight, &l.bias, 1e-5, None)?.0));
        assert_same(&found, &expected, 2e-5);
        if batch * pixels > 2 {
            check_finite_differences(&mut norm, &x, shape, 5e-3, |l, x| l.forward(x));
        }
        // Evaluation uses the running statistics, which moved a tenth of the way per pass.
        let statistics = (tensor(&noise(channels, 5), (channels,)), tensor(&vec![0.7; channels], (channels,)));
        change(&mut norm, "running_mean", |values| values.copy_from_slice(&noise(channels, 5)));
        change(&mut norm, "running_var", |values| values.fill(0.7));
        let evaluated = norm.forward(tensor(&x, shape)).unwrap().as_vec();
        let stock = reference::batch_norm(tensor(&x, shape), &norm.weight, &norm.bias, 1e-5, Some(statistics));
        assert_close("evaluated", &evaluated, &stock.unwrap().0.as_vec(), 1e-5);
    }
    let norm = BatchNorm::new(&cpu(), 2).unwrap();
    let mut trainable = Vec::new();
    norm.visit(&mut Visitor::new(&mut |name, part| {
        if let Part::Parameter(parameter) = part {
            trainable.push((name.to_owned(), parameter.is_trainable()));
        }
        Ok(())
    }))
    .unwrap();
    let names: Vec<&str> = trainable.iter().filter(|(_, trained)| !trained).map(|(name, _)| &name[..]).collect();
    assert_eq!(names, ["running_mean", "running_var"]);
    let one = tensor(&[1.0, 2.0], (1usize, 2usize)).put_tape(StepTape::<Cpu>::default());
    let refused = message(norm.forward(one));
    assert!(
        refused.contains("found 1 values per channel in training") && refused.contains("`drop_remainder`"),
        "{refused}"
    );
    let text = message(norm.forward(tensor(&[0.0; 6], (2usize, 3usize))));
    assert!(text.contains("found 3 channels, expected 2"), "{text}");
    let x = noise(6 * 5 * 30, 1);
    let norm = BatchNorm::new(&cpu(), 5).unwrap();
    assert_same_on_one_and_two_threads(|| run(&norm, &x, (6usize, 5usize, 5usize, 6usize), |l, x| l.forward(x)));
}

#[test]
fn attention_agrees_with_stock_operations() {
    for (batch, queries, keys, size, heads, lengths) in [
        (1, 1, 1, 1, 1, None),
        (2, 3, 5, 6, 2, Some(vec![5, 2])),
        (3, 4, 4, 6, 3, Some(vec![0, 4, 1])),
        (2, 17, 33, 16, 1, None),
    ] {
        for causal in [false, true] {
            for dropout in [None, Some((77, 1 << 30, 4.0 / 3.0))] {
                let attention = Attention { heads, lengths: lengths.as_deref(), causal, dropout };
                let memory = tensor(&noise(batch * keys * size, 5), (batch, keys, size));
                let values = tensor(&noise(batch * keys * size, 6), (batch, keys, size));
                let x: Vec<f32> = noise(batch * queries * size, 3).iter().map(|v| v * 2.0).collect();
                let taped = |t: &Tensor<(usize, usize, usize), Cpu>| t.retaped::<StepTape<Cpu>>();
                let shape = (batch, queries, size);
                let fused = |_: &(), x: Traced<(usize, usize, usize)>| {
                    <Cpu as elistimator::nn::backend::Backend>::attention(x, taped(&memory), taped(&values), &attention)
                };
                let stock = |_: &(), x: Traced<(usize, usize, usize)>| {
                    reference::attention(x, taped(&memory), taped(&values), &attention)
                };
                assert_same(&run(&(), &x, shape, fused), &run(&(), &x, shape, stock), 3e-6);
            }
        }
    }
}

#[test]
fn attention_layers_agree_with_differences() {
    let lengths: &[usize] = &[3, 0, 1];
    let x = noise(3 * 3 * 4, 3);
    let shape = (3usize, 3usize, 4usize);
    let mut attention = MultiHeadAttention::new(&cpu(), 4, 2).unwrap();
    randomize(&mut attention, 0.7);
    check_finite_differences(&mut attention, &x, shape, 5e-3, |l, x| l.forward((x, lengths)));
    let memory = tensor(&noise(3 * 2 * 4, 4), (3usize, 2usize, 4usize));
    check_finite_differences(&mut attention, &x, shape, 5e-3, |l, x| l.attend(x, memory.retaped(), Some(&[2, 1, 0])));
    // The gradient reaches the memory as well.
    check_finite_differences(&mut attention, &x, shape, 5e-3, |l, x| {
        let (x, tape) = x.split_tape();
        l.attend(memory.retaped(), x.put_tape(tape), Some(lengths))
    });
    for norm in [NormPosition::Pre, NormPosition::Post] {
        let mut block = TransformerBlock::builder(4, 2).hidden(5).norm(norm).build(&cpu()).unwrap();
        randomize(&mut block, 0.7);
        check_finite_differences(&mut block, &x, shape, 5e-3, |l, x| l.forward((x, lengths)));
        let evaluated = block.forward((tensor(&x, shape), lengths)).unwrap().as_vec();
        assert!(evaluated.iter().all(|v| v.is_finite()), "a row of padding stays finite");
    }
}

#[test]
fn what_comes_after_the_end_or_later_is_not_seen() {
    let attention = MultiHeadAttention::new(&cpu(), 4, 2).unwrap();
    let x = noise(3 * 4, 3);
    let mut other = x.clone();
    other[8..].copy_from_slice(&[9.0, -9.0, 3.0, 1.0]);
    let lengths: &[usize] = &[2];
    let shape = (1usize, 3usize, 4usize);
    let (a, b) = (attention.forward((tensor(&x, shape), lengths)), attention.forward((tensor(&other, shape), lengths)));
    assert_eq!(a.unwrap().as_vec()[..8], b.unwrap().as_vec()[..8]);
    let attention = attention.causal();
    let (a, b) = (attention.forward(tensor(&x, shape)), attention.forward(tensor(&other, shape)));
    let (a, b) = (a.unwrap().as_vec(), b.unwrap().as_vec());
    assert_eq!(a[..8], b[..8]);
    assert_ne!(a[8..], b[8..]);
}

#[test]
fn dropout_in_a_block_acts_in_training_only() {
    let block = TransformerBlock::builder(4, 2).dropout(0.5).build(&cpu()).unwrap();
    let x = noise(12, 3);
    let shape = (1usize, 3usize, 4usize);
    let trained = || run(&block, &x, shape, |l, x| l.forward(x)).y;
    assert_ne!(trained(), trained());
    let evaluated = || block.forward(tensor(&x, shape)).unwrap().as_vec();
    assert_eq!(evaluated(), evaluated());
    let mut names = Vec::new();
    block
        .visit(&mut Visitor::new(&mut |name, part| {
            if let Part::Random(_) = part {
                names.push(name.to_owned());
            }
            Ok(())
        }))
        .unwrap();
    assert_eq!(names, ["attention.random", "dropout1.random", "dropout.random", "dropout2.random"]);
}

#[test]
fn attention_is_the_same_on_any_number_of_threads_and_reports_impossible_sizes() {
    let block = TransformerBlock::builder(32, 4).build(&cpu()).unwrap();
    let x = noise(5 * 20 * 32, 1);
    let lengths: &[usize] = &[20, 3, 0, 7, 20];
    assert_same_on_one_and_two_threads(|| run(&block, &x, (5usize, 20usize, 32usize), |l, x| l.forward((x, lengths))));
    assert!(message(MultiHeadAttention::new(&cpu(), 6, 4)).contains("found 4 heads, expected a divisor of the size 6"));
    let short: &[usize] = &[21, 1, 1, 1, 1];
    let text = message(block.forward((tensor(&x, (5usize, 20usize, 32usize)), short)));
    assert!(text.contains("found the length 21 of sequence 0"), "{text}");
}

#[test]
fn one_dimensional_layers_are_two_dimensional_ones_of_one_row() {
    let mut conv = Conv1D::builder(3, 4, 3).stride(2).padding(1).activation(Activation::Tanh).build(&cpu()).unwrap();
    randomize(&mut conv, 0.5);
    let x = noise(2 * 3 * 9, 1);
    let wide = Conv2D::builder(3, 4, (1, 3))
        .stride((1, 2))
        .padding((0, 1))
        .activation(Activation::Tanh)
        .weights(elistimator::nn::Init::Values(conv.weight.values()))
        .bias(elistimator::nn::Init::Values(conv.bias.as_ref().unwrap().values()))
        .build(&cpu())
        .unwrap();
    let y = conv.forward(tensor(&x, (2usize, 3usize, 9usize))).unwrap();
    assert_eq!(dims(&y), [2, 4, 5]);
    assert_eq!(y.as_vec(), wide.forward(tensor(&x, (2usize, 3usize, 1usize, 9usize))).unwrap().as_vec());
    check_finite_differences(&mut conv, &x, (2, 3, 9), 5e-3, |l, x| l.forward(x));
    let (three, four) = ((2usize, 3usize, 9usize), (2usize, 3usize, 1usize, 9usize));
    let max = MaxPool1D::new(3).stride(2).padding(1).forward(tensor(&x, three)).unwrap();
    let wide = MaxPool2D::new((1, 3)).stride((1, 2)).padding((0, 1)).forward(tensor(&x, four)).unwrap();
    assert_eq!(max.as_vec(), wide.as_vec());
    let mean = AvgPool1D::new(3).forward(tensor(&x, three)).unwrap();
    assert_eq!(mean.as_vec(), AvgPool2D::new((1, 3)).forward(tensor(&x, four)).unwrap().as_vec());
    let largest = GlobalPool1D::Max.forward(tensor(&x, three)).unwrap().as_vec();
    assert_eq!(largest[0], x[..9].iter().copied().fold(f32::MIN, f32::max));
    check_finite_differences(&mut GlobalPool1D::Average, &x, three, 5e-3, |l, x| l.forward(x));
    assert!(message(Conv1D::new(&cpu(), 3, 4, 0)).contains("kernel of 1x0"));
    // Sequences as recurrent layers have them.
    let turned = message(Conv1D::new(&cpu(), 3, 4, 2).unwrap().forward(tensor(&noise(30, 1), (2, 5, 3))));
    assert!(turned.contains("found an input of shape [2, 5, 3], expected 3 channels on axis 1"), "{turned}");
    assert!(turned.contains("the last axis has as many"), "{turned}");
    assert!(message(conv.forward(tensor(&[], (2usize, 3usize, 0usize)))).contains("no size of 0"));
}
