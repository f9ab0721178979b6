//! The sum of a step's micro-batches.

use dfdx::tensor_ops::{TryAdd, TryMul};

use crate::gradient_pool::GradientPool;
use crate::nn::{Gradients, Network, Part, Tensor, Visitor};
use crate::optim::Update;
use crate::training_log::numbered;
use crate::{Device, Error, ErrorKind, ModelResult};

/// What a backward pass leaves: the loss, the gradients, and the prefix of the parameters they are for.
type Backpropagated<D> = (Tensor<(), D>, Gradients<D>, Option<String>);

/// Losses, named values and gradients, each averaged over the micro-batches by their shares of the examples. Nothing is
/// read from the device; a single batch passes through untouched.
pub(crate) struct Accumulation<D: Device> {
    pub(crate) losses: Vec<Tensor<(), D>>,
    pub(crate) scalars: Vec<(String, Tensor<(), D>)>,
    pub(crate) gradients: Vec<(Gradients<D>, Option<String>)>,
    is_begun: bool,
}

impl<D: Device> Default for Accumulation<D> {
    fn default() -> Self {
        Self { losses: Vec::new(), scalars: Vec::new(), gradients: Vec::new(), is_begun: false }
    }
}

impl<D: Device> Accumulation<D> {
    pub(crate) fn add<N: Network<D>>(
        &mut self,
        net: &N,
        share: f64,
        losses: Vec<Backpropagated<D>>,
        scalars: Vec<(String, Tensor<(), D>)>,
        pool: &mut GradientPool<D>,
    ) -> ModelResult<()> {
        if !self.is_begun && share == 1.0 {
            for (loss, gradients, scope) in losses {
                self.losses.push(loss);
                self.gradients.push((gradients, scope));
            }
            self.scalars = scalars;
        } else if !self.is_begun {
            for (loss, mut gradients, scope) in losses {
                let mut sum = pool.take()?;
                add_all(net, &mut sum, &mut gradients, share)?;
                pool.recycle(gradients, net)?;
                self.losses.push(loss.try_mul(share as f32)?);
                self.gradients.push((sum, scope));
            }
            for (name, value) in scalars {
                self.scalars.push((name, value.try_mul(share as f32)?));
            }
        } else {
            self.check(&losses, &scalars)?;
            let sums = self.losses.iter_mut().zip(&mut self.gradients);
            for ((total, (sum, _)), (loss, mut gradients, _)) in sums.zip(losses) {
                add_all(net, sum, &mut gradients, share)?;
                pool.recycle(gradients, net)?;
                *total = total.clone().try_add(loss.try_mul(share as f32)?)?;
            }
            for ((_, total), (_, value)) in self.scalars.iter_mut().zip(scalars) {
                *total = total.clone().try_add(value.try_mul(share as f32)?)?;
            }
        }
        self.is_begun = true;
        Ok(())
    }

    /// Micro-batches of one step must ask for the same.
    fn check(&self, losses: &[Backpropagated<D>], scalars: &[(String, Tensor<(), D>)]) -> ModelResult<()> {
        let is_same = self.gradients.iter().map(|(_, scope)| scope).eq(losses.iter().map(|(_, _, scope)| scope))
            && self.scalars.iter().map(|(name, _)| name).eq(scalars.iter().map(|(name, _)| name));
        if is_same {
            return Ok(());
        }
        let message = "the micro-batches of a step returned other losses or named values than its first one";
        Err(Error::new(ErrorKind::Model, message).into())
    }
}

fn add_all<D: Device, N: Network<D>>(
    net: &N,
    sum: &mut Gradients<D>,
    gradients: &mut Gradients<D>,
    share: f64,
) -> ModelResult<()> {
    net.visit(&mut Visitor::new(&mut |_, part| match part {
        Part::Parameter(parameter) if parameter.is_trainable() => {
            <D as Update>::add(parameter, sum, gradients, share as f32)
        }
        _ => Ok(()),
    }))
}

/// `gradient_norm`, `gradient_norm_2` and so on, in the order of the losses.
pub(crate) fn named_norms<D: Device>(norms: Vec<Tensor<(), D>>) -> impl Iterator<Item = (String, Tensor<(), D>)> {
    norms.into_iter().enumerate().map(|(index, norm)| (numbered("gradient_norm", index), norm))
}
