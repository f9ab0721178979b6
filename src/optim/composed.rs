//! Updates by what dfdx has: its kernels for SGD and Adam, and RMSprop, Adagrad, FTRL and LAMB composed of its operations, for
//! devices on which they have no kernel of their own. (dfdx's RMSprop has epsilon inside the root.)
//!
//! Nothing is read from the device. Formulas are at [`RmsProp`], [`Adagrad`], [`Ftrl`] and [`Lamb`].

use dfdx::optim::{AdamConfig, Momentum, SgdConfig, WeightDecay};
use dfdx::tensor_ops::{BroadcastTo, ChooseFrom, SumTo, TryAdd, TryDiv, TryGt, TryMul, TrySub};

use super::gradient::{Flat, read, write};
use super::update::bias;
use crate::nn::{Gradients, Parameter};
use crate::optim::config::{Adam, RmsProp, Rule, Sgd};
use crate::optim::{Adagrad, Ftrl, Lamb};
use crate::{Device, ModelResult};

/// Where dfdx's kernels have the state of the parameters: one set of buffers for each moment.
pub(crate) type Moments<D> = [Gradients<D>; 2];

fn l2(weight_decay: f64) -> Option<WeightDecay> {
    (weight_decay != 0.0).then_some(WeightDecay::L2(weight_decay))
}

/// An update by dfdx's own kernels and operations.
pub(crate) fn stock<D: Device>(
    step: u64,
    rule: &Rule,
    learning_rate: f64,
    parameter: &mut Parameter<D>,
    gradients: &mut Gradients<D>,
    moments: &mut Moments<D>,
) -> ModelResult<()> {
    // The ghost has the identity without the storage, which the update would otherwise have to copy.
    let ghost = parameter.identity().ghost();
    match rule {
        Rule::Adagrad(rule) => adagrad(rule, learning_rate, parameter, gradients, moments),
        Rule::Ftrl(rule) => ftrl(rule, learning_rate, parameter, gradients, moments),
        Rule::Lamb(rule) => lamb(step, rule, learning_rate, parameter, gradients, moments),
        Rule::Own(rule) => {
            let put = |parameter: &Parameter<D>, moment: &mut Gradients<D>, values: &[f32]| {
                let device = parameter.identity().device().clone();
                write(parameter, moment, device.try_tensor_from_vec(values.to_vec(), (values.len(),))?)
            };
            rule.on_host(step, learning_rate, parameter, gradients, moments, put)
        }
        Rule::RmsProp(rule) => rms_prop(rule, learning_rate, parameter, gradients, moments),
        Rule::Sgd(Sgd { momentum, nesterov, weight_decay, .. }) => {
            let momentum = match (*momentum, nesterov) {
                (0.0, _) => None,
                (momentum, false) => Some(Momentum::Classic(momentum)),
                (momentum, true) => Some(Momentum::Nesterov(momentum)),
            };
            let config = SgdConfig { lr: learning_rate, momentum, weight_decay: l2(*weight_decay) };
            let (gradient, velocity) = (gradients.get_or_alloc_mut(&ghost)?, moments[0].get_or_alloc_mut(&ghost)?);
            parameter.update(|tensor| Ok(config.try_update(tensor, velocity, gradient)?))
        }
        Rule::Adam(Adam { betas, epsilon, weight_decay, decoupled, .. }) => {
            let weight_decay = match decoupled {
                true => (*weight_decay != 0.0).then_some(WeightDecay::Decoupled(*weight_decay)),
                false => l2(*weight_decay),
            };
            let config = AdamConfig { lr: learning_rate, betas: *betas, eps: *epsilon, weight_decay };
            let [first, second] = moments;
            let (first, second) = (first.get_or_alloc_mut(&ghost)?, second.get_or_alloc_mut(&ghost)?);
            let gradient = gradients.get_or_alloc_mut(&ghost)?;
            let step = i32::try_from(step).unwrap_or(i32::MAX);
            parameter.update(|tensor| Ok(config.try_update(step, tensor, first, second, gradient)?))
        }
    }
}

fn weights<D: Device>(parameter: &Parameter<D>) -> Flat<D> {
    parameter.flat()
}

/// `w += factor * change`.
fn move_by<D: Device>(parameter: &mut Parameter<D>, change: &Flat<D>, factor: f64) -> ModelResult<()> {
    parameter.update(|tensor| Ok(tensor.try_axpy(1.0, change, factor)?))
}

fn rms_prop<D: Device>(
    rule: &RmsProp,
    learning_rate: f64,
    parameter: &mut Parameter<D>,
    gradients: &mut Gradients<D>,
    [square, velocity]: &mut Moments<D>,
) -> ModelResult<()> {
    let decay = weights(parameter).try_mul(rule.weight_decay as f32)?;
    let gradient = read(parameter, gradients)?.try_add(decay)?;
    let rate = rule.decay as f32;
    let mean = read(parameter, square)?.try_mul(rate)?.try_add(gradient.clone().try_square()?.try_mul(1.0 - rate)?)?;
    write(parameter, square, mean.clone())?;
    let mut step = gradient.try_div(mean.try_sqrt()?.try_add(rule.epsilon as f32)?)?;
    if rule.momentum != 0.0 {
        step = read(parameter, velocity)?.try_mul(rule.momentum as f32)?.try_add(step)?;
        write(parameter, velocity, step.clone())?;
    }
    move_by(parameter, &step, -learning_rate)
}

fn adagrad<D: Device>(
    rule: &Adagrad,
    learning_rate: f64,
    parameter: &mut Parameter<D>,
    gradients: &mut Gradients<D>,
    [sum, _]: &mut Moments<D>,
) -> ModelResult<()> {
    let gradient = read(parameter, gradients)?;
    let decay = weights(parameter).try_mul(rule.weight_decay as f32)?;
    let gradient = gradient.try_add(decay)?;
    let total = read(parameter, sum)?.try_add(gradient.clone().try_square()?)?;
    let root = total.clone().try_add(rule.initial_accumulator as f32)?.try_sqrt()?.try_add(rule.epsilon as f32)?;
    write(parameter, sum, total)?;
    move_by(parameter, &gradient.try_div(root)?, -learning_rate)
}

fn ftrl<D: Device>(
    rule: &Ftrl,
    learning_rate: f64,
    parameter: &mut Parameter<D>,
    gradients: &mut Gradients<D>,
    [sum, linear]: &mut Moments<D>,
) -> ModelResult<()> {
    let gradient = read(parameter, gradients)?;
    let before = read(parameter, sum)?;
    let total = before.clone().try_add(gradient.clone().try_square()?)?;
    let root = |sum: Flat<D>| -> ModelResult<Flat<D>> { Ok(sum.try_add(rule.initial_accumulator as f32)?.try_sqrt()?) };
    let after = root(total.clone())?;
    let sigma = after.clone().try_sub(root(before)?)?.try_div(learning_rate as f32)?;
    let pulled = gradient.try_sub(sigma.try_mul(weights(parameter))?)?;
    let z = read(parameter, linear)?.try_add(pulled)?;
    write(parameter, sum, total)?;
    write(parameter, linear, z.clone())?;
    // `sign(z) * l1 - z` where `|z| > l1`, and exactly 0 elsewhere.
    let shrunk = z.clone().try_clamp(-rule.l1 as f32, rule.l1 as f32)?.try_sub(z)?;
    let quadratic = after.try_div(learning_rate as f32)?.try_add(2.0 * rule.l2 as f32)?;
    let target = shrunk.try_div(quadratic)?;
    parameter.update(|tensor| Ok(tensor.try_axpy(0.0, &target, 1.0)?))
}

fn lamb<D: Device>(
    step: u64,
    rule: &Lamb,
    learning_rate: f64,
    parameter: &mut Parameter<D>,
    gradients: &mut Gradients<D>,
    [first, second]: &mut Moments<D>,
) -> ModelResult<()> {
    let [b1, b2] = rule.betas.map(|beta| beta as f32);
    let [c1, c2] = rule.betas.map(|beta| (1.0 / bias(beta, step)) as f32);
    let gradient = read(parameter, gradients)?;
    let m = read(parameter, first)?.try_mul(b1)?.try_add(gradient.clone().try_mul(1.0 - b1)?)?;
    let v = read(parameter, second)?.try_mul(b2)?.try_add(gradient.try_square()?.try_mul(1.0 - b2)?)?;
    write(parameter, first, m.clone())?;
    write(parameter, second, v.clone())?;
    let w = weights(parameter);
    let root = v.try_mul(c2)?.try_sqrt()?.try_add(rule.epsilon as f32)?;
    let decay = w.clone().try_mul(rule.weight_decay as f32)?;
    let direction = m.try_mul(c1)?.try_div(root)?.try_add(decay)?;

    // The ratio of the norms, or 1 where one of them is 0; on the device, so that nothing waits for it.
    let ww = w.try_square()?.try_sum::<(), _>()?;
    let uu = direction.clone().try_square()?.try_sum::<(), _>()?;
    let device = ww.device().clone();
    let one = device.try_ones_like(&())?;
    let both = ww.clone().try_mul(uu.clone())?;
    let ratio = both.try_gt(0.0)?.try_choose(ww.try_div(uu)?.try_sqrt()?, one)?;
    let change = direction.try_mul(ratio.try_broadcast_like(&(parameter.len(),))?)?;
    move_by(parameter, &change, -learning_rate)
}
