//! Gradient buffers, used again from step to step.

use dfdx::optim::UnusedTensors;

use crate::nn::{Gradients, Network, Part, Visitor};
use crate::{Device, ModelResult};

/// Zeroes one parameter's gradient, allocating it if needed.
type Zero<D> = Box<dyn Fn(&mut Gradients<D>) -> ModelResult<()> + Send + Sync>;

/// Keeps the gradient buffers of finished steps: a fresh allocation of a large one costs page faults in every step.
pub(crate) struct GradientPool<D: Device> {
    zeros: Vec<Zero<D>>,
    leaves: UnusedTensors,
    spare: Vec<Gradients<D>>,
}

impl<D: Device> GradientPool<D> {
    /// For the trainable parameters of this network, as they are now.
    pub(crate) fn new<N: Network<D>>(net: &N) -> ModelResult<Self> {
        let mut zeros: Vec<Zero<D>> = Vec::new();
        let mut leaves = UnusedTensors::default();
        net.visit(&mut Visitor::new(&mut |_, part| {
            if let Part::Parameter(parameter) = part
                && parameter.is_trainable()
            {
                let tensor = parameter.identity();
                leaves.add(&tensor);
                let device = tensor.device().clone();
                // The ghost has the parameter's identity without its storage: holding that would make every update copy it.
                let ghost = tensor.ghost();
                zeros.push(Box::new(move |gradients| {
                    Ok(device.try_fill_with_zeros(gradients.get_or_alloc_mut(&ghost)?)?)
                }));
            }
            Ok(())
        }))?;
        Ok(Self { zeros, leaves, spare: Vec::new() })
    }

    /// Gradients that are zero for every trainable parameter.
    pub(crate) fn take(&mut self) -> ModelResult<Gradients<D>> {
        let mut gradients = self.spare.pop().unwrap_or_else(Gradients::leaky);
        self.zeros.iter().try_for_each(|zero| zero(&mut gradients))?;
        gradients.retain_leafs(&self.leaves.ids);
        Ok(gradients)
    }

    /// Takes back what a backward pass returned.
    pub(crate) fn recycle(&mut self, gradients: Gradients<D>) {
        self.spare.push(gradients);
    }
}

impl<D: Device> std::fmt::Debug for GradientPool<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GradientPool of {} parameters", self.zeros.len())
    }
}
