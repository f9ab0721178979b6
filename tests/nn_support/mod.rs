//! What the tests of layers share: gradients by the tape, by finite differences, and by another computation.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor::{TensorFromVec, Trace};
use dfdx::tensor_ops::{Backward, ReshapeTo, SumTo, TryMul};
use elistimator::device::Cpu;
use elistimator::nn::{Gradients, Network, Part, PartMut, StepTape, Tensor, Visitor, VisitorMut};
use elistimator::{Device, DeviceSpec, ModelResult};

pub type Traced<S> = Tensor<S, Cpu, StepTape<Cpu>>;

pub fn cpu() -> Cpu {
    Cpu::open(DeviceSpec::Cpu, 7).unwrap()
}

/// Values in [-1, 1) that are the same everywhere.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub fn tensor<S: Shape>(values: &[f32], shape: S) -> Tensor<S, Cpu> {
    cpu().tensor_from_vec(values.to_vec(), shape)
}

/// What a forward and backward pass gave; the loss is the sum of the outputs times fixed random factors.
pub struct Run {
    pub y: Vec<f32>,
    pub dx: Vec<f32>,
    pub gradients: BTreeMap<String, Vec<f32>>,
}

pub fn run<N: Network<Cpu>, S: Shape, O: Shape>(
    net: &N,
    x: &[f32],
    shape: S,
    f: impl Fn(&N, Traced<S>) -> ModelResult<Traced<O>>,
) -> Run {
    let x = tensor(x, shape);
    let y = f(net, x.trace(Gradients::leaky())).unwrap();
    let values = y.as_vec();
    let len = values.len();
    let factors = tensor(&noise(len, 99), (len,));
    let loss = y.try_reshape_like(&(len,)).unwrap().mul_and_sum(factors);
    let mut gradients = loss.backward();
    let mut by_name = BTreeMap::new();
    net.visit(&mut Visitor::new(&mut |name, part| {
        if let Part::Parameter(parameter) = part {
            let flat = parameter.flat();
            gradients.try_alloc_for(&flat).unwrap();
            by_name.insert(name.to_owned(), gradients.get(&flat).as_vec());
        }
        Ok(())
    }))
    .unwrap();
    gradients.try_alloc_for(&x).unwrap();
    // dfdx does not read empty tensors.
    let dx = if shape.num_elements() == 0 { Vec::new() } else { gradients.get(&x).as_vec() };
    Run { y: values, dx, gradients: by_name }
}

trait MulAndSum {
    fn mul_and_sum(self, factors: Tensor<(usize,), Cpu>) -> Traced<()>;
}

impl MulAndSum for Traced<(usize,)> {
    fn mul_and_sum(self, factors: Tensor<(usize,), Cpu>) -> Traced<()> {
        self.try_mul(factors).unwrap().try_sum().unwrap()
    }
}

/// Compares gradients with central differences at up to `count` places of the input and of each parameter. Places where
/// the function has a kink are left out, but not more than a third of them.
pub fn check_finite_differences<N: Network<Cpu>, S: Shape, O: Shape>(
    net: &mut N,
    x: &[f32],
    shape: S,
    step: f32,
    f: impl Fn(&N, Traced<S>) -> ModelResult<Traced<O>>,
) {
    let found = run(net, x, shape, &f);
    let loss = |net: &N, x: &[f32]| -> f64 {
        let y = f(net, tensor(x, shape).trace(Gradients::leaky())).unwrap().as_vec();
        y.iter().zip(noise(y.len(), 99)).map(|(y, r)| f64::from(*y) * f64::from(r)).sum()
    };
    let base = loss(net, x);
    let mut kinks = 0;
    let mut places = 0;
    let mut compare = |what: &str, place: usize, gradient: f32, plus: f64, minus: f64| {
        places += 1;
        let (right, left) = ((plus - base) / f64::from(step), (base - minus) / f64::from(step));
        let numeric = 0.5 * (right + left);
        let gradient = f64::from(gradient);
        let tolerance = 0.02 * numeric.abs().max(gradient.abs()) + 0.01;
        if (gradient - numeric).abs() > tolerance {
            // A kink shows as one-sided differences that are far apart, with the gradient at one of them or between.
            let is_kink = (right - left).abs() > (gradient - numeric).abs();
            assert!(is_kink, "{what}[{place}]: gradient {gradient}, expected {numeric} ({left} left, {right} right)");
            kinks += 1;
        }
    };
    for place in spread(x.len(), 24) {
        let at = |delta: f32| {
            let mut x = x.to_vec();
            x[place] += delta;
            loss(net, &x)
        };
        compare("x", place, found.dx[place], at(step), at(-step));
    }
    for (name, gradient) in &found.gradients {
        for place in spread(gradient.len(), 16) {
            let mut at = |delta: f32| {
                let original = std::cell::Cell::new(0.0);
                change(net, name, |values| values[place] = original.replace(values[place]) + values[place] + delta);
                let loss = loss(net, x);
                change(net, name, |values| values[place] = original.get());
                loss
            };
            let (plus, minus) = (at(step), at(-step));
            compare(name, place, gradient[place], plus, minus);
        }
    }
    assert!(kinks * 3 <= places, "{kinks} of {places} places have kinks");
}

/// Changes the values of one parameter.
pub fn change<N: Network<Cpu>>(net: &mut N, name: &str, f: impl Fn(&mut [f32])) {
    net.visit_mut(&mut VisitorMut::new(&mut |found, part| {
        if let PartMut::Parameter(parameter) = part
            && found == name
        {
            let mut values = parameter.values();
            f(&mut values);
            parameter.set_values(&values)?;
        }
        Ok(())
    }))
    .unwrap();
}

/// Fills all parameters with noise, since zero biases hide mistakes.
pub fn randomize<N: Network<Cpu>>(net: &mut N, scale: f32) {
    let mut seed = 1000;
    net.visit_mut(&mut VisitorMut::new(&mut |_, part| {
        if let PartMut::Parameter(parameter) = part {
            seed += 1;
            let values: Vec<f32> = noise(parameter.len(), seed).iter().map(|v| v * scale).collect();
            parameter.set_values(&values)?;
        }
        Ok(())
    }))
    .unwrap();
}

fn spread(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(len);
    (0..count).map(move |i| i * len / count)
}

pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1.0f32, |scale, value| scale.max(value.abs()));
    for (index, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * scale, "{what}[{index}]: found {f}, expected {e} (scale {scale})");
    }
}

/// Compares two runs in all they gave.
pub fn assert_same(found: &Run, expected: &Run, tolerance: f32) {
    assert_close("y", &found.y, &expected.y, tolerance);
    assert_close("dx", &found.dx, &expected.dx, tolerance);
    assert_eq!(found.gradients.len(), expected.gradients.len());
    for (name, gradient) in &found.gradients {
        assert_close(name, gradient, &expected.gradients[name], tolerance);
    }
}

/// Runs `f` on one rayon thread and on two, and asserts bit-identical results.
pub fn assert_same_on_one_and_two_threads(f: impl Fn() -> Run + Sync) {
    let bits = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let run = pool.install(&f);
        let all: Vec<u32> =
            run.y.iter().chain(&run.dx).chain(run.gradients.values().flatten()).map(|v| v.to_bits()).collect();
        all
    };
    assert_eq!(bits(1), bits(2));
}

/// The message of an error.
pub fn message<T>(result: ModelResult<T>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => format!("{error:?}"),
    }
}

/// The dimensions of a tensor.
pub fn dims<S: Shape, T>(tensor: &Tensor<S, Cpu, T>) -> Vec<usize> {
    tensor.shape().concrete().into_iter().collect()
}
