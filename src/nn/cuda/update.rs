//! Updates on CUDA devices: many parameters in one launch, where nobody shares their values.

use std::sync::Arc;

use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, SampleTensor, Storage};
use dfdx::tensor_ops::SgdConfig;

use super::gradient;
use super::optimizer::{self, Fused, Pending};
use crate::ModelResult;
use crate::nn::{Gradients, Parameter, Tensor};
use crate::optim::composed::{Moments, stock};
use crate::optim::update::{Update, bias};
use crate::optim::{Adagrad, Adam, Ftrl, RmsProp, Rule, Sgd};

/// The kernel's form of a rule, if there is one.
fn fused(step: u64, rule: &Rule, learning_rate: f64) -> Option<Fused> {
    let rate = learning_rate as f32;
    match rule {
        Rule::Sgd(Sgd { momentum, nesterov, weight_decay, .. }) => {
            Some(Fused::Sgd { rate, momentum: *momentum as f32, nesterov: *nesterov, l2: *weight_decay as f32 })
        }
        Rule::Adam(Adam { betas, epsilon, weight_decay, decoupled, .. }) => {
            let decay = *weight_decay as f32;
            let (l2, decoupled) = if *decoupled { (0.0, decay) } else { (decay, 0.0) };
            Some(Fused::Adam {
                rate,
                betas: betas.map(|beta| beta as f32),
                epsilon: *epsilon as f32,
                corrections: betas.map(|beta| bias(beta, step) as f32),
                l2,
                decoupled,
            })
        }
        Rule::RmsProp(RmsProp { decay, epsilon, momentum, weight_decay, .. }) => Some(Fused::RmsProp {
            rate,
            decay: *decay as f32,
            epsilon: *epsilon as f32,
            momentum: *momentum as f32,
            l2: *weight_decay as f32,
        }),
        Rule::Adagrad(Adagrad { initial_accumulator, epsilon, weight_decay, .. }) => Some(Fused::Adagrad {
            rate,
            initial: *initial_accumulator as f32,
            epsilon: *epsilon as f32,
            l2: *weight_decay as f32,
        }),
        Rule::Ftrl(Ftrl { initial_accumulator, l1, l2, .. }) => {
            Some(Fused::Ftrl { rate, initial: *initial_accumulator as f32, l1: *l1 as f32, l2: *l2 as f32 })
        }
        Rule::Lamb(lamb) => Some(Fused::Lamb(optimizer::Lamb {
            rate,
            betas: lamb.betas.map(|beta| beta as f32),
            epsilon: lamb.epsilon as f32,
            corrections: lamb.betas.map(|beta| (1.0 / bias(beta, step)) as f32),
            decay: lamb.weight_decay as f32,
        })),
        // On the host.
        Rule::Own(_) => None,
    }
}

impl Update for Cuda {
    type Moments = Moments<Self>;

    type Pending = Pending;

    fn no_moments() -> Moments<Self> {
        [(); 2].map(|()| Gradients::leaky())
    }

    fn moment(moments: &Moments<Self>, which: usize, parameter: &Parameter<Self>) -> Arc<Vec<f32>> {
        let moment = moments.get(which).map(|moment| moment.get(&parameter.identity()).as_vec());
        Arc::new(moment.unwrap_or_default())
    }

    fn set_moment(
        moments: &mut Moments<Self>,
        which: usize,
        parameter: &Parameter<Self>,
        values: &[f32],
    ) -> ModelResult<()> {
        match moments.get_mut(which) {
            Some(moment) => fill(parameter, moment, values),
            None => Ok(()),
        }
    }

    fn update(
        step: u64,
        rule: &Rule,
        learning_rate: f64,
        parameter: &mut Parameter<Self>,
        gradients: &mut Gradients<Self>,
        moments: &mut Moments<Self>,
        pending: &mut Pending,
    ) -> ModelResult<()> {
        let fused = fused(step, rule, learning_rate);
        if fused.is_some() && parameter.is_shared() {
            // One that a network shows twice waits already.
            // SAFETY: as below.
            unsafe { pending.launch() }?;
            // dfdx's kernels round differently: whether somebody holds the values, such as a save, must not change training.
            if parameter.is_shared() {
                own_values(parameter)?;
            }
        }
        // SAFETY: the optimiser alone calls this, since nobody else can make a `Rule`. It borrows the gradients and the moments
        // until it calls `finish`, which launches; what it does with them meanwhile is about other parameters, or behind a
        // launch of what waits.
        if let Some(fused) = fused
            && unsafe { pending.add(fused, parameter, gradients, moments) }?
        {
            return Ok(());
        }
        // A parameter that a network shows twice waits already.
        // SAFETY: as above.
        unsafe { pending.launch() }?;
        match rule {
            Rule::Own(rule) => rule.on_host(step, learning_rate, parameter, gradients, moments, fill)?,
            _ => stock(step, rule, learning_rate, parameter, gradients, moments)?,
        }
        parameter.is_alone_again();
        Ok(())
    }

    fn finish(mut pending: Pending, _: &mut Gradients<Self>, _: &mut Moments<Self>) -> ModelResult<()> {
        // SAFETY: the optimiser has borrowed the gradients and the moments since the updates were added.
        unsafe { pending.launch() }
    }

    fn clip_value(parameter: &Parameter<Self>, gradients: &mut Gradients<Self>, limit: f32) -> ModelResult<()> {
        gradient::clip_value(parameter, gradients, limit)
    }

    fn square_sum(parameter: &Parameter<Self>, gradients: &mut Gradients<Self>) -> ModelResult<Tensor<(), Self>> {
        gradient::square_sum(parameter, gradients)
    }

    fn scale(
        parameter: &Parameter<Self>,
        gradients: &mut Gradients<Self>,
        factor: &Tensor<(), Self>,
    ) -> ModelResult<()> {
        gradient::scale(parameter, gradients, factor)
    }

    fn add(
        parameter: &Parameter<Self>,
        sum: &mut Gradients<Self>,
        gradients: &mut Gradients<Self>,
        weight: f32,
    ) -> ModelResult<()> {
        gradient::add(parameter, sum, gradients, weight)
    }
}

/// Gives a parameter memory of its own, with the same values: an update by 0 times 0, which dfdx makes in a copy.
fn own_values(parameter: &mut Parameter<Cuda>) -> ModelResult<()> {
    let nothing = SgdConfig { lr: 0.0, momentum: None, weight_decay: None };
    parameter.update(|tensor| {
        let (device, len) = (tensor.device().clone(), tensor.shape().0);
        let zeros: <Cuda as Storage<f32>>::Vec = device.try_alloc_len(len)?;
        let mut unused: <Cuda as Storage<f32>>::Vec = device.try_alloc_len(len)?;
        Ok(nothing.try_update(tensor, &mut unused, &zeros)?)
    })?;
    parameter.is_alone_again();
    Ok(())
}

/// Fills a parameter's moment with values; dfdx offers no other way into its storage.
fn fill(parameter: &Parameter<Cuda>, moment: &mut Gradients<Cuda>, values: &[f32]) -> ModelResult<()> {
    let identity = parameter.identity();
    let device = identity.device().clone();
    let replay = Replay { values, next: std::cell::Cell::new(0) };
    Ok(device.try_fill_with_distr(moment.get_or_alloc_mut(&identity)?, replay)?)
}

/// Hands out given values in order, in the guise of a distribution.
struct Replay<'v> {
    values: &'v [f32],
    next: std::cell::Cell<usize>,
}

impl rand::distributions::Distribution<f32> for Replay<'_> {
    fn sample<R: rand::Rng + ?Sized>(&self, _: &mut R) -> f32 {
        let index = self.next.get();
        self.next.set(index + 1);
        self.values.get(index).copied().unwrap_or(0.0)
    }
}
