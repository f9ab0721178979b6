//! What docs/from-pytorch.md says of tapes: which operations reach a parameter, and how losses are added.
#![allow(missing_docs, clippy::unwrap_used)]

use elistimator::prelude::*;

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
enum Way {
    /// One loss of one forward pass.
    Plain,
    /// Half of it twice, from two forward passes with a tape each.
    Sum,
    /// Half of it twice, but the second pass without a tape.
    HalfRecorded,
    /// Without the tape on the parameter.
    Bare,
}

#[derive(Serialize, Deserialize, Clone)]
struct Scaled(Way);

network! {
    struct Net<D> { dense: Linear<D>, scale: Parameter<D> }
}

impl<D: Device> Net<D> {
    /// `dense(x) * exp(scale)`.
    fn forward<T: Tape<f32, D>>(
        &self,
        x: Tensor<(usize, usize), D, T>,
        is_bare: bool,
    ) -> ModelResult<Tensor<(usize, usize), D, T>> {
        let y = self.dense.forward(x)?;
        let shape = *y.shape();
        let scale = self.scale.shaped((shape.1,))?;
        if is_bare {
            let scale = scale.try_exp()?.try_broadcast_like::<_, Axis<0>>(&shape)?;
            return Ok(y.try_mul(scale)?);
        }
        let (y, tape) = y.split_tape();
        let scale = scale.put_tape(tape).try_exp()?.try_broadcast_like::<_, Axis<0>>(&shape)?;
        Ok(scale.try_mul(y)?)
    }
}

impl<D: Device> ModelFn<D> for Scaled {
    type Net = Net<D>;

    fn build(&self, device: &D) -> ModelResult<Net<D>> {
        Ok(Net { dense: Linear::new(device, 2, 2)?, scale: Parameter::new(device, &[2], &Init::Zeros, (2, 2))? })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(0.1).into()
    }

    fn train(&self, net: &mut Net<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let x: Tensor<(usize, usize), D> = features.tensor("x")?;
        let y: Tensor<(usize, usize), D> = features.tensor("y")?;
        let first = net.forward(x.clone().traced(step.tape()?), self.0 == Way::Bare)?;
        let first = Loss::Squared.mean(first, y.clone())?;
        let loss = match self.0 {
            Way::Plain | Way::Bare => first,
            Way::Sum => {
                let second = net.forward(x.traced(step.tape()?), false)?;
                first.try_mul(0.5)?.try_add(Loss::Squared.mean(second, y)?.try_mul(0.5)?)?
            }
            Way::HalfRecorded => {
                let second = net.forward(x, false)?;
                first.try_mul(0.5)?.try_add(Loss::Squared.mean(second, y)?.try_mul(0.5)?)?
            }
        };
        Ok(TrainSpec::new(loss))
    }
}

/// Weights of the dense layer and the scales after so many steps.
fn trained(way: Way, steps: u64) -> (Vec<f32>, Vec<f32>) {
    let record = inputs! { "x" => [[0.5f32, -1.0], [1.0, 0.25]], "y" => [[1.0f32, 2.0], [-1.0, 0.5]] };
    let mut estimator = Elistimator::builder(Scaled(way)).progress(ProgressMode::Off).seed(3).build().unwrap();
    estimator.setup(Inputs::train(Dataset::from_arrays(record).unwrap().batch(2))).unwrap();
    estimator.train_steps(steps).unwrap();
    let values = |name| estimator.variable(name).unwrap().to_f32().unwrap();
    (values("dense.weight"), values("scale"))
}

/// The largest difference.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn losses_with_a_tape_each_add_up() {
    let (plain, sum) = (trained(Way::Plain, 5), trained(Way::Sum, 5));
    assert!(apart(&plain.0, &sum.0) < 1e-5 && apart(&plain.1, &sum.1) < 1e-5, "{plain:?} {sum:?}");
    let half = trained(Way::HalfRecorded, 5);
    assert!(apart(&plain.0, &half.0) > 1e-3, "a pass without a tape gives no gradients");
}

#[test]
fn a_parameter_is_trained_where_the_tape_was_put_on_it() {
    assert!(trained(Way::Plain, 1).1.iter().all(|scale| *scale != 0.0));
    assert_eq!(trained(Way::Bare, 1).1, [0.0, 0.0]);
    // One step of gradient descent on `exp(scale)` at 0, from the loss's own numbers.
    let (weights, _) = trained(Way::Plain, 0);
    let (x, y) = ([[0.5f32, -1.0], [1.0, 0.25]], [[1.0f32, 2.0], [-1.0, 0.5]]);
    let expected: Vec<f32> = (0..2)
        .map(|output| {
            let z = |row: usize| weights[2 * output] * x[row][0] + weights[2 * output + 1] * x[row][1];
            -0.1 * (0..2).map(|row| 2.0 * (z(row) - y[row][output]) * z(row) / 4.0).sum::<f32>()
        })
        .collect();
    assert!(apart(&trained(Way::Plain, 1).1, &expected) < 1e-6);
}
