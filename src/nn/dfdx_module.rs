//! dfdx's own modules among ours.

use std::sync::{Mutex, PoisonError};

use dfdx::nn::Module;
use dfdx::nn::tensor_collection::{
    RecursiveWalker, TensorCollection, TensorOptions, TensorVisitor, ViewTensorMut, ViewTensorName, ViewTensorRef,
};
use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::{Layer, Network, Parameter, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// A module of dfdx, or a tuple of them, as a layer: `Dfdx::new(device.build_module::<LayerNorm1D<64>, f32>())?`. Its
/// tensors keep the names that dfdx gives them (`0.weight`). It is for modules whose forward pass needs no `&mut`; instead
/// of dfdx's dropout and batch normalisation take ours.
#[derive(Debug)]
pub struct Dfdx<M, D: Device> {
    /// The tensors of the module share identity with the parameters, and get their values before each pass.
    module: Mutex<M>,
    parameters: Vec<(String, Parameter<D>)>,
}

impl<M: TensorCollection<f32, D>, D: Device> Dfdx<M, D> {
    /// Takes over a built module.
    ///
    /// # Errors
    /// When the device runs out of memory.
    pub fn new(module: M) -> ModelResult<Self> {
        let mut found = Found { parameters: Vec::new() };
        M::iter_tensors(&mut RecursiveWalker { m: (&module, String::new()), f: &mut found })
            .map_err(|error: Failure| error.0)?;
        Ok(Self { module: Mutex::new(module), parameters: found.parameters })
    }
}

impl<X, M: TensorCollection<f32, D> + Module<X>, D: Device> Layer<X> for Dfdx<M, D> {
    type Output = M::Output;

    fn forward(&self, x: X) -> ModelResult<Self::Output> {
        let mut module = self.module.lock().unwrap_or_else(PoisonError::into_inner);
        let mut assign = Assign { parameters: self.parameters.iter() };
        M::iter_tensors(&mut RecursiveWalker { m: &mut *module, f: &mut assign }).map_err(|error: Failure| error.0)?;
        module.try_forward(x).map_err(|error| ModelError::msg(format!("{error:?}")))
    }
}

impl<M, D: Device> Network<D> for Dfdx<M, D> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        self.parameters.iter().try_for_each(|(name, parameter)| visitor.parameter(name, parameter))
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        self.parameters.iter_mut().try_for_each(|(name, parameter)| visitor.parameter(name, parameter))
    }
}

/// dfdx's walker wants one error type.
struct Failure(ModelError);

/// Makes a parameter of each tensor.
struct Found<D: Device> {
    parameters: Vec<(String, Parameter<D>)>,
}

impl<D: Device> TensorVisitor<f32, D> for Found<D> {
    type Viewer = (ViewTensorRef, ViewTensorName);
    type Err = Failure;
    type E2 = f32;
    type D2 = D;

    fn visit<S: Shape>(
        &mut self,
        options: TensorOptions<S, f32, D>,
        (tensor, name): (&Tensor<S, D>, String),
    ) -> Result<Option<Tensor<S, D>>, Failure> {
        let dims: Vec<usize> = tensor.shape().concrete().into_iter().collect();
        let flat = tensor.clone().try_reshape_like(&(tensor.shape().num_elements(),));
        let mut parameter = Parameter::from_tensor(flat.map_err(|error| Failure(error.into()))?, &dims);
        parameter.set_trainable(options.do_gradient_update);
        self.parameters.push((name, parameter));
        Ok(None)
    }
}

/// Gives each tensor the values of its parameter.
struct Assign<'a, D: Device> {
    parameters: std::slice::Iter<'a, (String, Parameter<D>)>,
}

impl<D: Device> TensorVisitor<f32, D> for Assign<'_, D> {
    type Viewer = ViewTensorMut;
    type Err = Failure;
    type E2 = f32;
    type D2 = D;

    fn visit<S: Shape>(
        &mut self,
        _: TensorOptions<S, f32, D>,
        tensor: &mut Tensor<S, D>,
    ) -> Result<Option<Tensor<S, D>>, Failure> {
        if let Some((_, parameter)) = self.parameters.next() {
            *tensor = parameter.shaped(*tensor.shape()).map_err(Failure)?;
        }
        Ok(None)
    }
}
