//! Layers and losses at the edges of what they take: huge values, infinities, many values, views.
#![allow(clippy::unwrap_used)]

mod nn_support;

use elistimator::nn::{Activation, CrossEntropy, Layer, Loss, sparse_cross_entropy};
use nn_support::*;

fn activated(activation: Activation, x: &[f32]) -> Vec<f32> {
    activation.forward(tensor(x, (x.len(),))).unwrap().as_vec()
}

#[test]
fn activations_reach_their_limits() {
    let x = [-1e10, -1e4, -200.0, -40.0, -20.0, 20.0, 40.0, 200.0, 1e4, 1e10];
    for activation in [Activation::Sigmoid, Activation::Tanh, Activation::Gelu, Activation::Silu] {
        println!("{activation:?} {:?}", activated(activation, &x));
    }
    for x in [-12.0f32, -10.0, -8.0, -6.0, -5.0, -4.0, -3.0] {
        println!("{x} gelu {:?} silu {:?} sigmoid {:?}", activated(Activation::Gelu, &[x]), activated(Activation::Silu, &[x]), activated(Activation::Sigmoid, &[x]));
    }
}

#[test]
fn many_values() {
    for n in [1 << 16, 1 << 18, 1 << 20, 1 << 22] {
        let x = vec![0.3; n];
        let loss = Loss::Squared.mean(tensor(&x, (n / 16, 16)), tensor(&vec![0.0; n], (n / 16, 16))).unwrap();
        let long = Loss::Squared.per_example(tensor(&x, (1, n)), tensor(&vec![0.0; n], (1, n))).unwrap();
        println!("{n} {} {:?}", loss.as_vec()[0], long.as_vec());
        let labels = vec![0usize; n / 2];
        let loss = sparse_cross_entropy(tensor(&x, (n / 2, 2)), &labels).unwrap();
        println!("{n} ce {}", loss.as_vec()[0]);
    }
}

#[test]
fn large_logits() {
    for at in [30.0, 1e3, 1e6] {
        let loss = sparse_cross_entropy(tensor(&[at, at], (1, 2)), &[0]).unwrap();
        println!("{at} {:?}", loss.as_vec());
        let loss = sparse_cross_entropy(tensor(&[at, at - 14.0], (1, 2)), &[0]).unwrap();
        println!("{at} {:?}", loss.as_vec());
    }
    let inf = f32::NEG_INFINITY;
    let loss = CrossEntropy::new().mask(&[true, false]).sparse(tensor(&[1.0, 2.0, inf, inf], (2, 2)), &[0, 0]).unwrap();
    println!("masked {:?}", loss.as_vec());
    for x in [-200.0, -100.0, -50.0, -20.0, -5.0, 20.0, 200.0] {
        let l = |w: f32, t: f32| Loss::BinaryCrossEntropy{ positive_weight: w }.mean(tensor(&[x], (1,1)), tensor(&[t], (1,1))).unwrap().as_vec()[0];
        println!("bce {x} {} {} {} {}", l(1.0, 0.0), l(1.0,1.0), l(2.0, 0.0), l(2.0, 1.0));
    }
}
