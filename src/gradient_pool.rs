//! Gradient buffers, used again from step to step.

use dfdx::optim::UnusedTensors;

use crate::nn::{Gradients, Network, Part, Visitor};
use crate::{Device, ModelResult};

/// Keeps the gradient buffers of finished steps: a fresh allocation of a large one costs page faults in every step.
pub(crate) struct GradientPool<D: Device> {
    leaves: UnusedTensors,
    /// Which of the network's parameters, in their order, are among them: those that were trainable once. A model function may
    /// freeze and free them from step to step, and their gradients must be neither lost nor left over.
    is_leaf: Vec<bool>,
    spare: Vec<Gradients<D>>,
}

impl<D: Device> GradientPool<D> {
    /// For the trainable parameters of this network, as they are now.
    pub(crate) fn new<N: Network<D>>(net: &N) -> ModelResult<Self> {
        let (leaves, is_leaf) = trainable(net)?;
        let mut pool = Self { leaves, is_leaf, spare: Vec::new() };
        pool.recycle(Gradients::leaky(), net)?;
        Ok(pool)
    }

    /// Follows parameters that were frozen or set free since, and another network in place of this one.
    pub(crate) fn refresh<N: Network<D>>(&mut self, net: &N) -> ModelResult<()> {
        if trainable(net)?.0.ids != self.leaves.ids {
            *self = Self::new(net)?;
        }
        Ok(())
    }

    /// Gradients that are zero for every trainable parameter; those that it does not hold yet are zero when asked for.
    pub(crate) fn take(&mut self) -> ModelResult<Gradients<D>> {
        let mut gradients = self.spare.pop().unwrap_or_else(Gradients::leaky);
        gradients.retain_leafs(&self.leaves.ids);
        Ok(gradients)
    }

    /// Takes back what a backward pass over this network returned, and zeroes it.
    pub(crate) fn recycle<N: Network<D>>(&mut self, gradients: Gradients<D>, net: &N) -> ModelResult<()> {
        self.recycle_spent(gradients, net, &[])
    }

    /// The same after an update that left the gradients of some parameters zero: `spent` says which, in the order of the
    /// network's parameters. Writing to all of them once more would cost a large network a twentieth of its step.
    pub(crate) fn recycle_spent<N: Network<D>>(
        &mut self,
        mut gradients: Gradients<D>,
        net: &N,
        spent: &[bool],
    ) -> ModelResult<()> {
        let (mut spent, mut is_leaf) = (spent.iter(), self.is_leaf.iter_mut());
        let leaves = &mut self.leaves;
        net.visit(&mut Visitor::new(&mut |_, part| {
            let Part::Parameter(parameter) = part else { return Ok(()) };
            let (is_spent, is_leaf) = (spent.next().copied().unwrap_or(false), is_leaf.next());
            if let Some(is_leaf) = is_leaf {
                if parameter.is_trainable() && !*is_leaf {
                    *is_leaf = true;
                    parameter.with_identity(|tensor| leaves.add(tensor));
                }
                if is_spent || !*is_leaf {
                    return Ok(());
                }
                parameter.with_identity(|tensor| -> ModelResult<()> {
                    let zeroed = gradients.get_or_alloc_mut(tensor)?;
                    Ok(tensor.device().try_fill_with_zeros(zeroed)?)
                })?;
            }
            Ok(())
        }))?;
        self.spare.push(gradients);
        Ok(())
    }
}

/// The parameters that gradients are kept for.
fn trainable<D: Device, N: Network<D>>(net: &N) -> ModelResult<(UnusedTensors, Vec<bool>)> {
    let (mut leaves, mut is_leaf) = (UnusedTensors::default(), Vec::new());
    net.visit(&mut Visitor::new(&mut |_, part| {
        if let Part::Parameter(parameter) = part {
            is_leaf.push(parameter.is_trainable());
            if parameter.is_trainable() {
                parameter.with_identity(|tensor| leaves.add(tensor));
            }
        }
        Ok(())
    }))?;
    Ok((leaves, is_leaf))
}

impl<D: Device> std::fmt::Debug for GradientPool<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GradientPool of {} parameters", self.leaves.ids.len())
    }
}
