//! An optimiser at work: its settings and its state.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfdx::tensor_ops::TryStack;

use crate::nn::variables::{self, Named, Shared, View};
use crate::nn::{Gradients, Network, Parameter, Part, PartMut, Tensor, Visitor, VisitorMut};
use crate::optim::config::{NOT_NEGATIVE, Rule};
use crate::optim::{OptimizerConfig, gradient};
use crate::{Device, Error, ErrorKind, ModelError, ModelResult, Result};

/// Applies gradients to a network, and holds what the rule remembers: velocities, moments, the count of updates. The estimator
/// has one; make your own in a loop by hand.
pub struct Optimizer<D: Device> {
    config: OptimizerConfig,
    learning_rate: f64,
    /// What the schedule multiplies by, where the two learning rates do not tell.
    factor: Option<f64>,
    moments: D::Moments,
    /// By the parameters' place in the network: how often each was updated, and by which rule.
    slots: Vec<Slot>,
    /// Of the updates since they were last taken.
    gradient_norms: Vec<Tensor<(), D>>,
    /// For each parameter, whether the last update left its gradient zero; and where these gradients are.
    spent: Vec<bool>,
    spent_at: usize,
    measures_norm: bool,
}

/// How many norms wait for being taken.
const MAX_NORMS: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Slot {
    rule: usize,
    decays: bool,
    is_frozen: bool,
    updates: u64,
}

impl Slot {
    fn new(config: &OptimizerConfig, name: &str) -> Self {
        Self { rule: config.rule_of(name), decays: config.decays(name), is_frozen: config.is_frozen(name), updates: 0 }
    }
}

impl<D: Device> Optimizer<D> {
    /// With nothing remembered yet.
    pub fn new(config: OptimizerConfig) -> Self {
        let learning_rate = config.learning_rate();
        Self {
            config,
            learning_rate,
            factor: None,
            moments: D::no_moments(),
            slots: Vec::new(),
            gradient_norms: Vec::new(),
            spent: Vec::new(),
            spent_at: 0,
            measures_norm: false,
        }
    }

    /// The learning rate of the next update, for parameters outside groups.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// Sets the learning rate of the next updates; those of groups are scaled by the same factor.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        (self.learning_rate, self.factor) = (learning_rate, None);
    }

    /// The same by a schedule's factor, which groups follow also where the common learning rate is 0.
    pub(crate) fn schedule(&mut self, learning_rate: f64, factor: f64) {
        (self.learning_rate, self.factor) = (learning_rate, Some(factor));
    }

    /// Whether an update can be made with these settings and this learning rate.
    pub(crate) fn check(&self) -> Result<()> {
        self.config.check()?;
        if self.learning_rate.is_finite() && self.learning_rate >= 0.0 {
            return Ok(());
        }
        let message = format!("learning rate: found {}, expected {NOT_NEGATIVE}", self.learning_rate);
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// Updates every trainable parameter whose name starts with `scope`, all without one. A parameter that the loss did not
    /// reach has a gradient of zero: momentum and weight decay still move it. The gradients are used up by it: on the CPU they
    /// are zero afterwards.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a learning rate or another setting that is not finite or negative, and for a scope that no
    /// parameter's name starts with; those of the device.
    pub fn update<N: Network<D>>(
        &mut self,
        net: &mut N,
        gradients: &mut Gradients<D>,
        scope: Option<&str>,
    ) -> ModelResult<()> {
        self.check()?;
        self.clip(net, gradients, scope)?;
        self.spent_at = std::ptr::from_ref(&*gradients).addr();
        let Self { config, learning_rate, factor, moments, slots, spent, .. } = self;
        spent.clear();
        let factor = match config.learning_rate() {
            0.0 => factor.unwrap_or(1.0),
            base => *learning_rate / base,
        };
        let (mut index, mut is_scope_known) = (0, scope.is_none());
        let mut pending = D::Pending::default();
        net.visit_mut(&mut VisitorMut::new(&mut |name, part| {
            let PartMut::Parameter(parameter) = part else { return Ok(()) };
            if slots.len() == index {
                slots.push(Slot::new(config, name));
            }
            let slot = &mut slots[index];
            index += 1;
            spent.push(false);
            is_scope_known |= scope.is_some_and(|scope| name.starts_with(scope));
            if !parameter.is_trainable() || slot.is_frozen || scope.is_some_and(|scope| !name.starts_with(scope)) {
                return Ok(());
            }
            let rule = config.rule(slot.rule);
            let rate = if slot.rule == 0 { *learning_rate } else { rule.learning_rate() * factor };
            // FTRL divides by the rate, in `f32`; the smaller it is, the less it moves.
            if (rate as f32) < f32::MIN_POSITIVE && matches!(rule, Rule::Ftrl(_)) {
                return Ok(());
            }
            // From a file it may be any number.
            slot.updates = slot.updates.saturating_add(1);
            if slot.decays {
                D::update(slot.updates, rule, rate, parameter, gradients, moments, &mut pending)?;
            } else {
                D::update(slot.updates, &rule.without_decay(), rate, parameter, gradients, moments, &mut pending)?;
            }
            if let Some(spent) = spent.last_mut() {
                *spent = D::UPDATE_ZEROES;
            }
            Ok(())
        }))?;
        D::finish(pending, gradients, moments)?;
        match scope {
            Some(scope) if !is_scope_known => Err(no_name(&format!("the loss for {scope:?}"), net)?.into()),
            _ => Ok(()),
        }
    }

    /// Refuses groups and frozen parts that this network has not: a slip of the pen would train them in another way than meant.
    pub(crate) fn check_names<N: Network<D>>(&self, net: &N) -> ModelResult<()> {
        for (what, pattern) in self.config.parts() {
            let mut fits = false;
            net.visit(&mut Visitor::new(&mut |name, part| {
                fits |= matches!(part, Part::Parameter(_)) && crate::nn::matches(pattern, name);
                Ok(())
            }))?;
            if !fits {
                return Err(no_name(&format!("{what} {pattern:?}"), net)?.into());
            }
        }
        Ok(())
    }

    /// Whether the settings keep this parameter out of training.
    pub(crate) fn is_frozen(&self, name: &str) -> bool {
        self.config.is_frozen(name)
    }

    /// How many values are remembered for each one of this parameter.
    pub(crate) fn moments_of(&self, name: &str) -> usize {
        if self.config.is_frozen(name) { 0 } else { self.config.rule(self.config.rule_of(name)).moments().len() }
    }

    /// For each parameter, whether the last update left its gradient among these zero; empty if there was none since the last
    /// call, or one with other gradients.
    pub(crate) fn take_spent(&mut self, gradients: &Gradients<D>) -> Vec<bool> {
        let spent = std::mem::take(&mut self.spent);
        if self.spent_at == std::ptr::from_ref(gradients).addr() { spent } else { Vec::new() }
    }

    /// Measures the norms of the gradients in the next updates, also without clipping.
    pub fn measure_norm(&mut self, on: bool) {
        self.measures_norm = on;
    }

    /// The norms of the gradients before [clipping by norm](OptimizerConfig::clip_norm), one for each update since the last
    /// call, still on the device; none without that setting or [`measure_norm`](Self::measure_norm).
    pub fn take_gradient_norms(&mut self) -> Vec<Tensor<(), D>> {
        std::mem::take(&mut self.gradient_norms)
    }

    /// Clips the gradients that an update will use, without reading anything from the device.
    fn clip<N: Network<D>>(&mut self, net: &N, gradients: &mut Gradients<D>, scope: Option<&str>) -> ModelResult<()> {
        let [clip_value, clip_norm] =
            [self.config.clip_value, self.config.clip_norm].map(|limit| limit.map(|limit| limit as f32));
        let measures_norm = self.measures_norm || clip_norm.is_some();
        if clip_value.is_none() && !measures_norm {
            return Ok(());
        }
        let config = &self.config;
        let is_updated = |name: &str, parameter: &Parameter<D>| {
            parameter.is_trainable() && !config.is_frozen(name) && scope.is_none_or(|scope| name.starts_with(scope))
        };
        let mut squares = Vec::new();
        net.visit(&mut Visitor::new(&mut |name, part| {
            let Part::Parameter(parameter) = part else { return Ok(()) };
            if !is_updated(name, parameter) {
                return Ok(());
            }
            if let Some(limit) = clip_value {
                D::clip_value(parameter, gradients, limit)?;
            }
            if measures_norm {
                squares.push(D::square_sum(parameter, gradients)?);
            }
            Ok(())
        }))?;
        if squares.is_empty() {
            return Ok(());
        }
        let norm = D::sum(squares.try_stack()?)?.try_sqrt()?;
        if let Some(limit) = clip_norm.filter(|limit| limit.is_finite()) {
            let factor = gradient::clip_factor(&norm, limit)?;
            net.visit(&mut Visitor::new(&mut |name, part| match part {
                Part::Parameter(parameter) if is_updated(name, parameter) => D::scale(parameter, gradients, &factor),
                _ => Ok(()),
            }))?;
        }
        // Nobody may be taking them.
        if self.gradient_norms.len() == MAX_NORMS {
            self.gradient_norms.remove(0);
        }
        self.gradient_norms.push(norm);
        Ok(())
    }

    /// What is remembered, by name: `velocity/conv1.weight`, and `updates/conv1.weight` with the count in four 16-bit pieces,
    /// lowest first, which f32 holds exactly. Empty for what was never updated.
    ///
    /// # Errors
    /// Those of the device.
    pub fn tensors<N: Network<D>>(&self, net: &N) -> ModelResult<Vec<Named>> {
        let own = |(name, dims, values)| (name, dims, Arc::unwrap_or_clone(values));
        Ok(self.shared_tensors(net)?.into_iter().map(own).collect())
    }

    /// The same without a copy of what is on the host.
    pub(crate) fn shared_tensors<N: Network<D>>(&self, net: &N) -> ModelResult<Vec<Shared>> {
        let mut tensors = Vec::new();
        let mut slots = self.slots.iter();
        net.visit(&mut Visitor::new(&mut |name, part| {
            let Part::Parameter(parameter) = part else { return Ok(()) };
            let Some(slot) = slots.next().filter(|slot| slot.updates > 0) else { return Ok(()) };
            let pieces: Vec<f32> = (0..4).map(|piece| f32::from((slot.updates >> (16 * piece)) as u16)).collect();
            tensors.push((format!("updates/{name}"), vec![4], Arc::new(pieces)));
            for (which, moment) in self.config.rule(slot.rule).moments().iter().enumerate() {
                let values = D::moment(&self.moments, which, parameter);
                tensors.push((format!("{moment}/{name}"), parameter.dims().to_vec(), values));
            }
            Ok(())
        }))?;
        Ok(tensors)
    }

    /// Takes over what [`tensors`](Self::tensors) gave. Everything is checked before anything is changed.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] naming what is missing, unknown, or of another shape.
    pub fn restore<N: Network<D>>(&mut self, net: &N, tensors: &[Named]) -> Result<()> {
        self.restore_views(net, tensors.iter().map(variables::view))
    }

    /// [`restore`](Self::restore) from where the values are.
    pub(crate) fn restore_views<'v, N: Network<D>>(
        &mut self,
        net: &N,
        tensors: impl Iterator<Item = View<'v>>,
    ) -> Result<()> {
        let mut found: BTreeMap<&str, (&[usize], &[f32])> =
            tensors.map(|(name, dims, values)| (name, (dims, values))).collect();
        let mut wrong = Vec::new();
        let mut slots = Vec::new();
        let mut restored = D::no_moments();
        net.visit(&mut Visitor::new(&mut |name, part| {
            let Part::Parameter(parameter) = part else { return Ok(()) };
            let rule = self.config.rule_of(name);
            let updates = match found.remove(format!("updates/{name}").as_str()) {
                None => 0,
                Some((_, pieces)) => match count(pieces) {
                    Some(updates) => updates,
                    None => {
                        wrong.push(format!("\"updates/{name}\" holds {pieces:?}, expected four 16-bit numbers"));
                        0
                    }
                },
            };
            slots.push(Slot { updates, ..Slot::new(&self.config, name) });
            if updates == 0 {
                return Ok(());
            }
            for (which, moment) in self.config.rule(rule).moments().iter().enumerate() {
                let full = format!("{moment}/{name}");
                match found.remove(full.as_str()) {
                    None => wrong.push(format!("{full:?} is missing")),
                    Some((dims, _)) if dims != parameter.dims() => {
                        wrong.push(format!("{full:?} has shape {dims:?}, expected {:?}", parameter.dims()));
                    }
                    Some((_, values)) => D::set_moment(&mut restored, which, parameter, values)?,
                }
            }
            Ok(())
        }))
        .map_err(ModelError::into_error)?;
        wrong.extend(found.keys().map(|name| format!("{name:?} is not part of this optimiser")));
        if !wrong.is_empty() {
            let message = format!("the optimiser's state does not fit: {}", wrong.join(", "));
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        (self.slots, self.moments) = (slots, restored);
        Ok(())
    }
}

/// The count in four pieces of 16 bits.
fn count(pieces: &[f32]) -> Option<u64> {
    let is_piece = |piece: &f32| (0.0..=65_535.0).contains(piece) && piece.fract() == 0.0;
    (pieces.len() == 4 && pieces.iter().all(is_piece))
        .then(|| pieces.iter().rev().fold(0, |count, &piece| count << 16 | piece as u64))
}

impl<D: Device> std::fmt::Debug for Optimizer<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Optimizer({:?})", self.config)
    }
}

/// The error of a prefix or pattern that fits no parameter's name.
fn no_name<D: Device, N: Network<D>>(what: &str, net: &N) -> ModelResult<Error> {
    let mut names = Vec::new();
    net.visit(&mut Visitor::new(&mut |name, part| {
        if matches!(part, Part::Parameter(_)) {
            names.push(name.to_owned());
        }
        Ok(())
    }))?;
    let message = format!("{what}: no parameter has such a name; there are {names:?}");
    Ok(Error::new(ErrorKind::InvalidArgument, message))
}
