//! Updates on the host: one fused parallel pass for each parameter.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfdx::tensor::Cpu;
use rayon::prelude::*;

use crate::ModelResult;
use crate::nn::{Gradients, Parameter, Tensor};
use crate::optim::config::{Adam, RmsProp, Rule, Sgd};
use crate::optim::update::{Update, bias};
use crate::optim::{Adagrad, Ftrl, Lamb, gradient};

/// Values in one piece of work: large enough that handing it to another thread pays.
const CHUNK: usize = 1 << 15;

/// The state of the parameters on the host, by their keys; empty where a rule has none. A checkpoint that is being written
/// shares it: the next update then goes on with a copy.
#[derive(Debug, Default)]
pub struct HostMoments(BTreeMap<u64, [Arc<Vec<f32>>; 2]>);

impl HostMoments {
    fn of(&mut self, parameter: &Parameter<Cpu>) -> &mut [Arc<Vec<f32>>; 2] {
        self.0.entry(parameter.key()).or_default()
    }
}

impl Update for Cpu {
    const UPDATE_ZEROES: bool = true;

    type Moments = HostMoments;

    type Pending = ();

    fn no_moments() -> HostMoments {
        HostMoments::default()
    }

    fn moment(moments: &HostMoments, which: usize, parameter: &Parameter<Self>) -> Arc<Vec<f32>> {
        let of_parameter = moments.0.get(&parameter.key());
        of_parameter.and_then(|moments| moments.get(which)).cloned().unwrap_or_default()
    }

    fn set_moment(
        moments: &mut HostMoments,
        which: usize,
        parameter: &Parameter<Self>,
        values: &[f32],
    ) -> ModelResult<()> {
        if let Some(moment) = moments.of(parameter).get_mut(which) {
            *moment = Arc::new(values.to_vec());
        }
        Ok(())
    }

    fn update(
        step: u64,
        rule: &Rule,
        learning_rate: f64,
        parameter: &mut Parameter<Self>,
        gradients: &mut Gradients<Self>,
        moments: &mut HostMoments,
        (): &mut (),
    ) -> ModelResult<()> {
        let ghost = parameter.identity().ghost();
        let mut gradient = std::mem::take(&mut **gradients.get_or_alloc_mut(&ghost)?);
        let count = rule.moments().len();
        let moments = moments.of(parameter);
        for moment in moments.iter_mut().take(count).filter(|moment| moment.is_empty()) {
            *moment = Arc::new(vec![0.0; gradient.len()]);
        }
        let [m, v] = moments;
        let dims = if matches!(rule, Rule::Own(_)) { parameter.dims().to_vec() } else { Vec::new() };
        let mut outcome = Ok(());
        if let Some(weights) = parameter.host_mut() {
            let (m, v) = (Arc::make_mut(m), Arc::make_mut(v));
            if let Rule::Own(own) = rule {
                let state = [m.as_mut_slice(), v.as_mut_slice()];
                outcome = own.update(step, learning_rate, &dims, weights, &mut gradient, state);
                gradient.fill(0.0);
            } else {
                fused(step, rule, learning_rate as f32, weights, &mut gradient, m, v);
            }
        }
        **gradients.get_or_alloc_mut(&ghost)? = gradient;
        outcome
    }

    fn clip_value(parameter: &Parameter<Self>, gradients: &mut Gradients<Self>, limit: f32) -> ModelResult<()> {
        gradient::host::clip_value(parameter, gradients, limit)
    }

    fn square_sum(parameter: &Parameter<Self>, gradients: &mut Gradients<Self>) -> ModelResult<Tensor<(), Self>> {
        gradient::host::square_sum(parameter, gradients)
    }

    fn scale(
        parameter: &Parameter<Self>,
        gradients: &mut Gradients<Self>,
        factor: &Tensor<(), Self>,
    ) -> ModelResult<()> {
        gradient::host::scale(parameter, gradients, factor)
    }

    fn add(
        parameter: &Parameter<Self>,
        sum: &mut Gradients<Self>,
        gradients: &mut Gradients<Self>,
        weight: f32,
    ) -> ModelResult<()> {
        gradient::host::add(parameter, sum, gradients, weight)
    }
}

/// One pass over weights, gradient and state, after which the gradient is zero.
fn fused(step: u64, rule: &Rule, lr: f32, weights: &mut [f32], gradient: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    match rule {
        Rule::Sgd(Sgd { momentum, nesterov, weight_decay, .. }) => {
            let (momentum, nesterov, decay) = (*momentum as f32, *nesterov, *weight_decay as f32);
            if momentum == 0.0 {
                pass(
                    weights,
                    gradient,
                    m,
                    v,
                    #[inline(always)]
                    move |w, g, _, _| *w -= lr * (g + decay * *w),
                );
            } else {
                pass(
                    weights,
                    gradient,
                    m,
                    v,
                    #[inline(always)]
                    move |w, g, velocity, _| {
                        let g = g + decay * *w;
                        *velocity = momentum * *velocity + g;
                        *w -= lr * if nesterov { g + momentum * *velocity } else { *velocity };
                    },
                );
            }
        }
        Rule::Adam(Adam { betas, epsilon, weight_decay, decoupled, .. }) => {
            let [b1, b2] = betas.map(|beta| beta as f32);
            let [c1, c2] = betas.map(|beta| (1.0 / bias(beta, step)) as f32);
            let (epsilon, decay) = (*epsilon as f32, *weight_decay as f32);
            let (l2, shrink) = if *decoupled { (0.0, 1.0 - lr * decay) } else { (decay, 1.0) };
            pass(
                weights,
                gradient,
                m,
                v,
                #[inline(always)]
                move |w, g, m, v| {
                    let g = g + l2 * *w;
                    *m = b1 * *m + (1.0 - b1) * g;
                    *v = b2 * *v + (1.0 - b2) * g * g;
                    *w = shrink * *w - lr * (*m * c1) / ((*v * c2).sqrt() + epsilon);
                },
            );
        }
        Rule::RmsProp(RmsProp { decay, epsilon, momentum, weight_decay, .. }) => {
            let (rate, epsilon, momentum, l2) =
                (*decay as f32, *epsilon as f32, *momentum as f32, *weight_decay as f32);
            pass(
                weights,
                gradient,
                m,
                v,
                #[inline(always)]
                move |w, g, square, velocity| {
                    let g = g + l2 * *w;
                    *square += (1.0 - rate) * (g * g - *square);
                    let g = g / (square.sqrt() + epsilon);
                    let step = momentum * *velocity + g;
                    if momentum != 0.0 {
                        *velocity = step;
                    }
                    *w -= lr * step;
                },
            );
        }
        Rule::Adagrad(Adagrad { initial_accumulator, epsilon, weight_decay, .. }) => {
            let (initial, epsilon, l2) = (*initial_accumulator as f32, *epsilon as f32, *weight_decay as f32);
            pass(
                weights,
                gradient,
                m,
                v,
                #[inline(always)]
                move |w, g, sum, _| {
                    let g = g + l2 * *w;
                    *sum += g * g;
                    *w -= lr * g / ((initial + *sum).sqrt() + epsilon);
                },
            );
        }
        Rule::Ftrl(Ftrl { initial_accumulator, l1, l2, .. }) => {
            let (initial, l1, l2) = (*initial_accumulator as f32, *l1 as f32, *l2 as f32);
            pass(
                weights,
                gradient,
                m,
                v,
                #[inline(always)]
                move |w, g, sum, linear| {
                    let before = (initial + *sum).sqrt();
                    *sum += g * g;
                    let root = (initial + *sum).sqrt();
                    *linear += g - (root - before) / lr * *w;
                    let shrunk = l1.copysign(*linear) - *linear;
                    *w = if linear.abs() > l1 { shrunk / (root / lr + 2.0 * l2) } else { 0.0 };
                },
            );
        }
        Rule::Lamb(lamb) => fused_lamb(step, lamb, lr, weights, gradient, m, v),
        // What it does to the elements is its own affair.
        Rule::Own(_) => {}
    }
}

/// Two passes, since the length of the step depends on the norms of the whole parameter.
fn fused_lamb(
    step: u64,
    lamb: &Lamb,
    lr: f32,
    weights: &mut [f32],
    gradient: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let [b1, b2] = lamb.betas.map(|beta| beta as f32);
    let [c1, c2] = lamb.betas.map(|beta| (1.0 / bias(beta, step)) as f32);
    let (epsilon, decay) = (lamb.epsilon as f32, lamb.weight_decay as f32);
    let direction = |w: f32, m: f32, v: f32| (m * c1) / ((v * c2).sqrt() + epsilon) + decay * w;
    pass(
        weights,
        gradient,
        m,
        v,
        #[inline(always)]
        move |_, g, m, v| {
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
        },
    );
    // Summed chunk by chunk in their order, so that the result does not depend on the threads.
    let squares: Vec<(f64, f64)> = weights
        .par_chunks(CHUNK)
        .zip(m.par_chunks(CHUNK))
        .zip(v.par_chunks(CHUNK))
        .map(|((weights, m), v)| {
            weights.iter().zip(m).zip(v).fold((0.0, 0.0), |(ww, uu), ((&w, &m), &v)| {
                let u = f64::from(direction(w, m, v));
                (ww + f64::from(w) * f64::from(w), uu + u * u)
            })
        })
        .collect();
    let (ww, uu) = squares.iter().fold((0.0, 0.0), |(ww, uu), (w, u)| (ww + w, uu + u));
    let ratio = if ww > 0.0 && uu > 0.0 { (ww / uu).sqrt() } else { 1.0 };
    let rate = lr * ratio as f32;
    pass(
        weights,
        gradient,
        m,
        v,
        #[inline(always)]
        move |w, _, m, v| *w -= rate * direction(*w, *m, *v),
    );
}

/// Applies `f` to every element, in parallel over fixed chunks, and zeroes the gradient. State that a rule does not have is an
/// empty slice, and stands in as zeros.
fn pass(
    weights: &mut [f32],
    gradient: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    f: impl Fn(&mut f32, f32, &mut f32, &mut f32) + Sync + Copy,
) {
    over::<false>(weights, gradient, m, v, f);
}

/// The same, where wanted without zeroing the gradient.
pub(super) fn over<const KEEPS: bool>(
    weights: &mut [f32],
    gradient: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    f: impl Fn(&mut f32, f32, &mut f32, &mut f32) + Sync + Copy,
) {
    #[inline(always)]
    fn of<const KEEPS: bool>(g: &mut f32) -> f32 {
        if KEEPS { *g } else { std::mem::take(g) }
    }
    let arch = pulp::Arch::new();
    let chunks = weights.par_chunks_mut(CHUNK).zip(gradient.par_chunks_mut(CHUNK));
    // The loops are compiled for the widest vectors that this CPU has.
    match (m.is_empty(), v.is_empty()) {
        (true, _) => chunks.for_each(|(weights, gradient)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for (w, g) in weights.iter_mut().zip(gradient) {
                        f(w, of::<KEEPS>(g), &mut 0.0, &mut 0.0);
                    }
                },
            );
        }),
        (false, true) => chunks.zip(m.par_chunks_mut(CHUNK)).for_each(|((weights, gradient), m)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for ((w, g), m) in weights.iter_mut().zip(gradient).zip(m) {
                        f(w, of::<KEEPS>(g), m, &mut 0.0);
                    }
                },
            );
        }),
        (false, false) => chunks.zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK)).for_each(
            |(((weights, gradient), m), v)| {
                arch.dispatch(
                    #[inline(always)]
                    || {
                        for (((w, g), m), v) in weights.iter_mut().zip(gradient).zip(m).zip(v) {
                            f(w, of::<KEEPS>(g), m, v);
                        }
                    },
                );
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, DeviceSpec};
    use crate::optim::composed::stock;
    use crate::optim::{OptimizerConfig, ParameterUpdate, UpdateRule};

    /// Adam without corrections, in two looks at the gradient.
    #[derive(Debug)]
    struct TwoPasses;

    impl UpdateRule for TwoPasses {
        fn state(&self) -> &'static [&'static str] {
            &["first", "second"]
        }

        fn update(&self, update: &mut ParameterUpdate<'_>) -> ModelResult<()> {
            update.each(|_, g, m, _| *m = 0.9 * *m + 0.1 * g);
            let rate = update.learning_rate() as f32;
            update.each(|w, g, m, v| {
                *v = 0.99 * *v + 0.01 * g * g;
                *w -= rate * *m / (v.sqrt() + 1e-3);
            });
            Ok(())
        }
    }

    /// Our pass and dfdx's kernels, from the same start with the same gradients; for a rule of one's own, the numbers where they
    /// live and copies of them.
    #[test]
    fn the_fused_pass_computes_what_the_stock_kernels_do() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let rules: [OptimizerConfig; 13] = [
            Sgd::new(0.1).into(),
            Sgd::new(0.1).momentum(0.9).weight_decay(0.01).into(),
            Sgd::new(0.1).momentum(0.9).nesterov(true).into(),
            Adam::new(0.01).into(),
            Adam::new(0.01).weight_decay(0.1).into(),
            Adam::new(0.01).decoupled_weight_decay(0.1).into(),
            RmsProp::new(0.01).into(),
            RmsProp::new(0.01).momentum(0.5).weight_decay(0.1).into(),
            Adagrad::new(0.1).into(),
            Ftrl::new(0.1).l1(0.5).l2(0.1).into(),
            Lamb::new(0.01).into(),
            Lamb::new(0.01).weight_decay(0.1).into(),
            OptimizerConfig::own(0.01, TwoPasses),
        ];
        for len in [3, CHUNK + 5] {
            let start: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
            for config in &rules {
                let mut ours = Parameter::from_vec(&device, &[len], start.clone()).unwrap();
                let mut theirs = Parameter::from_vec(&device, &[len], start.clone()).unwrap();
                let (mut our_moments, mut their_moments) = (Cpu::no_moments(), [(); 2].map(|()| Gradients::leaky()));
                for step in 1..=5 {
                    let gradient: Vec<f32> = (0..len).map(|i| (((i + step) * 53 % 97) as f32) / 40.0 - 1.0).collect();
                    let gradients = |parameter: &Parameter<Cpu>| {
                        let mut gradients = Gradients::leaky();
                        **gradients.get_or_alloc_mut(&parameter.identity()).unwrap() = gradient.clone();
                        gradients
                    };
                    let (lr, step) = (config.learning_rate(), step as u64);
                    let mut our_gradients = gradients(&ours);
                    Cpu::update(step, &config.rule, lr, &mut ours, &mut our_gradients, &mut our_moments, &mut ())
                        .unwrap();
                    let mut their_gradients = gradients(&theirs);
                    stock(step, &config.rule, lr, &mut theirs, &mut their_gradients, &mut their_moments).unwrap();
                }
                let worst = ours.values().iter().zip(theirs.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-6, "{config:?}: {worst}");
                assert_ne!(ours.values(), start);
            }
        }
    }

    /// Two steps of Adam by hand: gradients 1 and -2 on one weight of 1, learning rate 0.1.
    #[test]
    fn adam_follows_its_formula() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let mut parameter = Parameter::from_vec(&device, &[1], vec![1.0]).unwrap();
        let mut moments = Cpu::no_moments();
        let config = OptimizerConfig::from(Adam::new(0.1));
        let (mut m, mut v, mut w) = (0.0f64, 0.0f64, 1.0f64);
        for (step, g) in [(1, 1.0), (2, -2.0)] {
            let mut gradients = Gradients::leaky();
            **gradients.get_or_alloc_mut(&parameter.identity()).unwrap() = vec![g as f32];
            Cpu::update(step, &config.rule, 0.1, &mut parameter, &mut gradients, &mut moments, &mut ()).unwrap();
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            w -=
                0.1 * (m / (1.0 - 0.9f64.powi(step as i32))) / ((v / (1.0 - 0.999f64.powi(step as i32))).sqrt() + 1e-8);
        }
        assert!((f64::from(parameter.values()[0]) - w).abs() < 1e-6, "{} {w}", parameter.values()[0]);
    }

    /// The first step is the learning rate whatever the decays, since both moments are then the gradient's by the same share.
    #[test]
    fn the_first_step_of_adam_is_the_learning_rate_also_with_slow_decays() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        for betas in [(0.9, 0.999), (0.999, 0.99999), (0.9999, 0.999999)] {
            let config = OptimizerConfig::from(Adam::new(0.1).betas(betas.0, betas.1));
            let mut parameter = Parameter::from_vec(&device, &[1], vec![1.0]).unwrap();
            let mut gradients = Gradients::leaky();
            **gradients.get_or_alloc_mut(&parameter.identity()).unwrap() = vec![0.5];
            Cpu::update(1, &config.rule, 0.1, &mut parameter, &mut gradients, &mut Cpu::no_moments(), &mut ()).unwrap();
            let moved = 1.0 - parameter.values()[0];
            assert!((moved - 0.1).abs() < 2e-7, "{betas:?}: {moved}");
        }
    }
}
