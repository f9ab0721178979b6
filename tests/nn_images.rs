//! Convolutions and pools over images.
#![allow(clippy::unwrap_used)]

mod nn_support;

use dfdx::shapes::Const;
use elistimator::device::Cpu;
use elistimator::nn::backend::{Convolution, Pooling};
use elistimator::nn::{
    Activation, AvgPool2D, Conv2D, ConvBlock, GlobalPool2D, Layer, MaxPool2D, Padding, Size2, Tensor, Window, reference,
};
use nn_support::*;

/// Batch, channels in and out, image, kernel, stride, dilation, groups, padding.
#[allow(clippy::type_complexity)]
fn cases() -> Vec<(usize, usize, usize, (usize, usize), (usize, usize), (usize, usize), (usize, usize), usize, Padding)>
{
    let explicit = Padding::Explicit { top: 2, bottom: 0, left: 1, right: 3 };
    vec![
        (1, 1, 1, (1, 1), (1, 1), (1, 1), (1, 1), 1, Padding::Valid),
        (2, 1, 3, (7, 6), (5, 5), (1, 1), (1, 1), 1, Padding::Same),
        (9, 3, 4, (5, 7), (3, 2), (1, 1), (1, 1), 1, Padding::Same),
        (3, 2, 5, (9, 8), (3, 3), (2, 3), (1, 1), 1, Padding::Same),
        (2, 4, 6, (7, 7), (3, 3), (1, 2), (2, 1), 2, explicit),
        (2, 4, 4, (6, 5), (3, 3), (1, 1), (1, 2), 4, 1.into()),
        (2, 1, 2, (9, 9), (2, 3), (2, 2), (3, 1), 1, (1, 0).into()),
        (1, 17, 33, (4, 4), (4, 4), (1, 1), (1, 1), 1, Padding::Valid),
        // Dense, and with channels enough for tiles with fewer multiplications, which reach beyond the image in some.
        (2, 16, 17, (8, 8), (3, 3), (1, 1), (1, 1), 1, Padding::Same),
        (1, 17, 16, (9, 11), (5, 5), (1, 1), (1, 1), 1, Padding::Same),
        (3, 32, 48, (7, 6), (3, 3), (1, 1), (1, 1), 2, explicit),
        (1, 16, 16, (10, 9), (5, 5), (1, 1), (1, 1), 1, Padding::Valid),
    ]
}

#[test]
fn conv2d_agrees_with_differences_and_stock_operations() {
    for (number, (batch, c, o, (h, w), kernel, stride, dilation, groups, padding)) in cases().into_iter().enumerate() {
        let activation = [Activation::Identity, Activation::Relu, Activation::Gelu][number % 3];
        let builder = Conv2D::builder(c, o, kernel).stride(stride).dilation(dilation).groups(groups);
        let builder = builder.padding(padding).activation(activation);
        let builder = if number == 3 { builder.without_bias() } else { builder };
        let mut layer = builder.build(&cpu()).unwrap();
        randomize(&mut layer, 0.5);
        let x = noise(batch * c * h * w, 3);
        let shape = (batch, c, h, w);
        let found = run(&layer, &x, shape, |l, x| l.forward(x));
        let window = Window { kernel: kernel.into(), stride: stride.into(), dilation: dilation.into(), padding };
        let convolution = Convolution {
            window: window.over("test", batch, c, h, w).unwrap(),
            out_channels: o,
            groups,
            input_gradient: true,
        };
        let expected =
            run(&layer, &x, shape, |l, x| reference::conv2d(x, &l.weight, l.bias.as_ref(), &convolution, activation));
        assert_same(&found, &expected, 1e-5);
        assert_eq!(layer.forward(tensor(&x, shape)).unwrap().as_vec(), found.y);
        check_finite_differences(&mut layer, &x, shape, 5e-3, |l, x| l.forward(x));
    }
}

#[test]
fn conv2d_by_hand() {
    let layer = Conv2D::builder(1, 1, 2)
        .weights(elistimator::nn::Init::Values(vec![1.0, 2.0, 3.0, 4.0]))
        .bias(elistimator::nn::Init::Values(vec![0.5]))
        .build(&cpu())
        .unwrap();
    let y = layer.forward(tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (1, 1, 2, 3))).unwrap();
    assert_eq!(y.as_vec(), [1.0 + 4.0 + 12.0 + 20.0 + 0.5, 2.0 + 6.0 + 15.0 + 24.0 + 0.5]);
}

#[test]
fn conv_block_agrees_with_differences_and_stock_operations() {
    for (batch, c, o, (h, w), kernel, pool) in [
        (1, 1, 2, (4, 4), 3, (2, 2)),
        (3, 1, 5, (7, 9), 5, (2, 2)),
        (17, 3, 6, (6, 7), 3, (3, 2)),
        (2, 8, 16, (5, 5), 5, (1, 1)),
        (2, 2, 3, (5, 6), 3, (5, 6)),
    ] {
        let mut layer = ConvBlock::builder(c, o, kernel).pool(pool).build(&cpu()).unwrap();
        randomize(&mut layer, 0.5);
        let x = noise(batch * c * h * w, 3);
        let shape = (batch, c, h, w);
        let found = run(&layer, &x, shape, |l, x| l.forward(x));
        let kernel = Size2::from(kernel);
        let window = Window { kernel, stride: 1.into(), dilation: 1.into(), padding: Padding::Same };
        let convolution = Convolution {
            window: window.over("test", batch, c, h, w).unwrap(),
            out_channels: o,
            groups: 1,
            input_gradient: true,
        };
        let expected =
            run(&layer, &x, shape, |l, x| reference::conv_block(x, &l.weight, l.bias.as_ref(), &convolution, pool));
        assert_same(&found, &expected, 1e-5);
        assert_eq!(layer.forward(tensor(&x, shape)).unwrap().as_vec(), found.y);
        check_finite_differences(&mut layer, &x, shape, 2e-3, |l, x| l.forward(x));
    }
}

#[test]
fn conv_block_is_conv_relu_and_pool_and_keeps_const_sizes() {
    let block = ConvBlock::<Cpu, Const<1>, Const<4>>::new(&cpu(), Const, Const, 5).unwrap();
    let conv = Conv2D::<Cpu, Const<1>, Const<4>>::builder(Const, Const, 5)
        .padding(Padding::Same)
        .weights(elistimator::nn::Init::Values(block.weight.values()))
        .build(&cpu())
        .unwrap();
    let x = tensor(&noise(2 * 28 * 28, 1), (2, Const::<1>, Const::<28>, Const::<28>));
    let fused: Tensor<(usize, Const<4>, usize, usize), Cpu> = block.forward(x.clone()).unwrap();
    let apart = (conv, Activation::Relu, MaxPool2D::new(2)).forward(x).unwrap();
    assert_eq!(dims(&fused), [2, 4, 14, 14]);
    assert_eq!(fused.as_vec(), apart.as_vec());
}

#[test]
fn convolutions_are_the_same_on_any_number_of_threads() {
    let net = (ConvBlock::new(&cpu(), 1, 8, 5).unwrap(), ConvBlock::new(&cpu(), 8, 16, 5).unwrap());
    let x = noise(19 * 28 * 28, 1);
    assert_same_on_one_and_two_threads(|| run(&net, &x, (19usize, 1usize, 28usize, 28usize), |n, x| n.forward(x)));
    let conv = Conv2D::builder(16, 32, 3).padding(1).build(&cpu()).unwrap();
    let x16 = noise(11 * 16 * 81, 1);
    assert_same_on_one_and_two_threads(|| run(&conv, &x16, (11usize, 16usize, 9usize, 9usize), |n, x| n.forward(x)));
    let conv = Conv2D::builder(4, 8, 3).groups(2).activation(Activation::Silu).build(&cpu()).unwrap();
    let x = noise(11 * 4 * 81, 1);
    assert_same_on_one_and_two_threads(|| run(&conv, &x, (11usize, 4usize, 9usize, 9usize), |n, x| n.forward(x)));
}

#[test]
fn large_images_are_cut_into_tiles() {
    for outs in [8, 16] {
        large_images(outs);
    }
}

fn large_images(outs: usize) {
    // 40 rows of 64 pixels with windows of 16 x 9 values take more than one tile, and 16 rows of 16 tiles more than one band.
    let mut layer = Conv2D::builder(16, outs, 3).padding(1).build(&cpu()).unwrap();
    randomize(&mut layer, 0.3);
    let x = noise(2 * 16 * 64 * 64, 3);
    let found = run(&layer, &x, (2usize, 16usize, 64usize, 64usize), |l, x| l.forward(x));
    let window = Window { kernel: 3.into(), stride: 1.into(), dilation: 1.into(), padding: 1.into() };
    let convolution = Convolution {
        window: window.over("test", 2, 16, 64, 64).unwrap(),
        out_channels: outs,
        groups: 1,
        input_gradient: true,
    };
    let expected = run(&layer, &x, (2, 16, 64, 64), |l, x| {
        reference::conv2d(x, &l.weight, l.bias.as_ref(), &convolution, Activation::Identity)
    });
    assert_same(&found, &expected, 2e-5);
}

#[test]
fn pools_agree_with_differences_and_stock_operations() {
    for (h, w, kernel, stride, dilation, padding) in [
        (4, 4, (2, 2), (2, 2), (1, 1), Padding::Valid),
        (5, 7, (3, 2), (1, 2), (1, 1), Padding::Same),
        (7, 6, (3, 3), (2, 2), (1, 1), 1.into()),
        (8, 9, (2, 3), (3, 1), (2, 2), Padding::Explicit { top: 0, bottom: 1, left: 2, right: 0 }),
        (1, 1, (1, 1), (1, 1), (1, 1), Padding::Valid),
    ] {
        let (x, shape) = (noise(3 * 2 * h * w, 5), (3, 2, h, w));
        let window = Window { kernel: kernel.into(), stride: stride.into(), dilation: dilation.into(), padding };
        let over = window.over("test", 3, 2, h, w).unwrap();
        let mut max = MaxPool2D::new(kernel).stride(stride).dilation(dilation).padding(padding);
        let found = run(&max, &x, shape, |l, x| l.forward(x));
        assert_same(&found, &run(&max, &x, shape, |_, x| reference::pool2d(x, &over, Pooling::Max)), 1e-6);
        check_finite_differences(&mut max, &x, shape, 1e-3, |l, x| l.forward(x));
        let mut mean = AvgPool2D::new(kernel).stride(stride).dilation(dilation).padding(padding);
        let found = run(&mean, &x, shape, |l, x| l.forward(x));
        assert_same(&found, &run(&mean, &x, shape, |_, x| reference::pool2d(x, &over, Pooling::Average)), 1e-6);
        check_finite_differences(&mut mean, &x, shape, 5e-3, |l, x| l.forward(x));
    }
}

#[test]
fn pools_by_hand() {
    let x = tensor(&[1.0, 2.0, 3.0, 4.0, 4.0, 0.0], (1, 1, 2, 3));
    assert_eq!(MaxPool2D::new(2).stride(1).forward(x.clone()).unwrap().as_vec(), [4.0, 4.0]);
    assert_eq!(AvgPool2D::new(2).stride(1).forward(x.clone()).unwrap().as_vec(), [2.75, 2.25]);
    assert_eq!(AvgPool2D::new(2).padding(1).forward(x.clone()).unwrap().as_vec(), [1.0, 2.5, 4.0, 2.0]);
    assert_eq!(GlobalPool2D::Max.forward(x.clone()).unwrap().as_vec(), [4.0]);
    assert_close("mean", &GlobalPool2D::Average.forward(x.clone()).unwrap().as_vec(), &[14.0 / 6.0], 1e-6);
    // Of equal values the first receives the gradient.
    let tie = run(&MaxPool2D::new(2), &[1.0; 4], (1, 1, 2, 2), |l, x| l.forward(x));
    assert_eq!(tie.dx.iter().filter(|v| **v != 0.0).count(), 1);
    assert!(tie.dx[0] != 0.0);
    let nan = tensor(&[1.0, f32::NAN, 3.0, 4.0], (1, 1, 2, 2));
    assert!(MaxPool2D::new(2).forward(nan).unwrap().as_vec()[0].is_nan(), "NaN is not lost");
}

#[test]
fn impossible_shapes_say_what_was_found() {
    let conv = Conv2D::new(&cpu(), 3, 4, 5).unwrap();
    let text = message(conv.forward(tensor(&noise(2 * 2 * 64, 1), (2, 2, 8, 8))));
    assert!(text.contains("found an input of shape [2, 2, 8, 8], expected 3 channels"), "{text}");
    let text = message(conv.forward(tensor(&noise(3 * 12, 1), (1, 3, 3, 4))));
    assert!(text.contains("found images of 3x4") && text.contains("at least the window's 5x5"), "{text}");
    assert!(message(conv.forward(tensor(&[], (0, 3, 8, 8)))).contains("no size of 0"));
    assert!(message(conv.forward(tensor(&[], (1, 3, 0, 8)))).contains("no size of 0"));
    assert!(message(Conv2D::builder(4, 6, 3).groups(4).build(&cpu())).contains("found 4 groups"));
    assert!(message(Conv2D::builder(4, 4, 3).stride(0).build(&cpu())).contains("found a stride of 0x0"));
    assert!(message(Conv2D::builder(4, 4, (0, 3)).build(&cpu())).contains("found a kernel of 0x3"));
    assert!(message(ConvBlock::builder(4, 4, 3).pool(16).build(&cpu())).contains("found a pool of 16x16"));
    let block = ConvBlock::builder(1, 1, 3).pool(4).build(&cpu()).unwrap();
    assert!(message(block.forward(tensor(&[0.0; 9], (1, 1, 3, 3)))).contains("before the pool"));
    assert!(message(MaxPool2D::new(0).forward(tensor(&[0.0; 9], (1, 1, 3, 3)))).contains("kernel of 0x0"));
    assert!(message(GlobalPool2D::Max.forward(tensor(&[], (1, 1, 0, 3)))).contains("no size to be 0"));
}
