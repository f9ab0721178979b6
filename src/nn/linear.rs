//! The fully connected layer.

use std::marker::PhantomData;

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::backend::Rows;
use crate::nn::{Activation, Init, Layer, Network, Parameter, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// `activation(x · weightᵀ + bias)`: every output sees every input. `weight` is `(outputs, inputs)`, as in PyTorch.
///
/// The sizes are run-time numbers, or `Const<N>` where the compiler shall know them:
///
/// ```
/// use dfdx::shapes::Const;
/// use elistimator::nn::{Activation, Init, Linear};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let plain = Linear::new(&device, 784, 10)?;
/// let sized = Linear::<Cpu, Const<784>, Const<512>>::builder(Const, Const)
///     .activation(Activation::Relu)
///     .weights(Init::HeUniform)
///     .build(&device)?;
/// assert_eq!(sized.weight.dims(), [512, 784]);
/// # drop(plain);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[doc(alias("Dense", "nn.Linear"))]
pub struct Linear<D: Device, I: Dim = usize, O: Dim = usize> {
    /// `(outputs, inputs)`.
    pub weight: Parameter<D>,
    /// `(outputs)`, unless left out.
    pub bias: Option<Parameter<D>>,
    inputs: I,
    outputs: O,
    activation: Activation,
    input_gradient: bool,
}

/// The options of a [`Linear`] layer before it is built.
#[derive(Debug, Clone)]
pub struct LinearBuilder<D, I: Dim, O: Dim> {
    inputs: I,
    outputs: O,
    activation: Activation,
    weights: Init,
    bias: Option<Init>,
    input_gradient: bool,
    device: PhantomData<fn(&D)>,
}

impl<D: Device, I: Dim, O: Dim> Linear<D, I, O> {
    /// A layer without activation, with Glorot-uniform weights and zero biases.
    ///
    /// # Errors
    /// When a size is 0 or memory runs out.
    pub fn new(device: &D, inputs: I, outputs: O) -> ModelResult<Self> {
        Self::builder(inputs, outputs).build(device)
    }

    /// A layer with options.
    pub fn builder(inputs: I, outputs: O) -> LinearBuilder<D, I, O> {
        LinearBuilder {
            inputs,
            outputs,
            activation: Activation::Identity,
            weights: Init::GlorotUniform,
            bias: Some(Init::Zeros),
            input_gradient: true,
            device: PhantomData,
        }
    }

    fn apply<T: Tape<f32, D>>(&self, x: Tensor<(usize, usize), D, T>) -> ModelResult<Tensor<(usize, usize), D, T>> {
        let (rows, found) = *x.shape();
        if found != self.inputs.size() {
            return Err(ModelError::msg(format!(
                "linear layer: found an input of {rows} rows of {found} values, expected {} values",
                self.inputs.size()
            )));
        }
        D::linear(x, &self.weight, self.bias.as_ref(), self.activation, self.input_gradient)
    }
}

impl<D: Device, I: Dim, O: Dim> LinearBuilder<D, I, O> {
    /// The function applied to the outputs; none by default.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// How the weights start; [`Init::GlorotUniform`] by default.
    #[must_use]
    pub fn weights(mut self, init: Init) -> Self {
        self.weights = init;
        self
    }

    /// How the biases start; [`Init::Zeros`] by default.
    #[must_use]
    pub fn bias(mut self, init: Init) -> Self {
        self.bias = Some(init);
        self
    }

    /// Leaves the biases out.
    #[must_use]
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }

    /// Computes no gradient for the input: faster when the input is data.
    #[must_use]
    pub fn without_input_gradient(mut self) -> Self {
        self.input_gradient = false;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When a size is 0, given initial values do not fit, or memory runs out.
    pub fn build(self, device: &D) -> ModelResult<Linear<D, I, O>> {
        let (inputs, outputs) = (self.inputs.size(), self.outputs.size());
        if inputs == 0 || outputs == 0 {
            let message =
                format!("linear layer: found {inputs} inputs and {outputs} outputs, expected at least 1 of each");
            return Err(ModelError::msg(message));
        }
        let fans = (inputs, outputs);
        Ok(Linear {
            weight: Parameter::new(device, &[outputs, inputs], &self.weights, fans)?,
            bias: self.bias.map(|init| Parameter::new(device, &[outputs], &init, fans)).transpose()?,
            inputs: self.inputs,
            outputs: self.outputs,
            activation: self.activation,
            input_gradient: self.input_gradient,
        })
    }
}

impl<D: Device, I: Dim, O: Dim> Network<D> for Linear<D, I, O> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight", &self.weight)?;
        self.bias.as_ref().map_or(Ok(()), |bias| visitor.parameter("bias", bias))
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight", &mut self.weight)?;
        self.bias.as_mut().map_or(Ok(()), |bias| visitor.parameter("bias", bias))
    }
}

impl<B: Dim, D: Device, I: Dim, O: Dim, T: Tape<f32, D>> Layer<Tensor<(B, I), D, T>> for Linear<D, I, O> {
    type Output = Tensor<(B, O), D, T>;

    fn forward(&self, x: Tensor<(B, I), D, T>) -> ModelResult<Self::Output> {
        let (batch, inputs) = *x.shape();
        let y = self.apply(x.try_reshape_like(&(batch.size(), inputs.size()))?)?;
        Ok(y.try_reshape_like(&(batch, self.outputs))?)
    }
}

/// The same layer at every position of a sequence.
impl<B: Dim, L: Dim, D: Device, I: Dim, O: Dim, T: Tape<f32, D>> Layer<Tensor<(B, L, I), D, T>> for Linear<D, I, O> {
    type Output = Tensor<(B, L, O), D, T>;

    fn forward(&self, x: Tensor<(B, L, I), D, T>) -> ModelResult<Self::Output> {
        let (batch, length, inputs) = *x.shape();
        let y = self.apply(x.try_reshape_like(&(batch.size() * length.size(), inputs.size()))?)?;
        Ok(y.try_reshape_like(&(batch, length, self.outputs))?)
    }
}

/// `activation(x · weightᵀ + bias)` with parameters that belong to another layer: how two places share, or tie, one tensor.
/// The parameter is saved once, where it lives, and its gradients add up. `x` is `(batch, inputs)` or `(batch, length,
/// inputs)`, the weight `(outputs, inputs)`.
///
/// ```
/// use elistimator::nn::{Activation, Layer, Linear, Tensor, linear_with};
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
/// let layer = Linear::new(&device, 3, 3)?;
/// let x: Tensor<(usize, usize), Cpu> = dfdx::tensor::TensorFromVec::tensor_from_vec(&device, vec![0.1; 6], (2, 3));
/// let twice = linear_with(layer.forward(x)?, &layer.weight, None, Activation::Relu)?;
/// # drop(twice);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the sizes do not fit.
pub fn linear_with<D: Device, X: LinearInput<D>>(
    x: X,
    weight: &Parameter<D>,
    bias: Option<&Parameter<D>>,
    activation: Activation,
) -> ModelResult<X::Output> {
    x.map_rows(|rows| {
        let inputs = rows.shape().1;
        match weight.dims() {
            [outputs, found] if *found == inputs && bias.is_none_or(|bias| bias.len() == *outputs) => {
                D::linear(rows, weight, bias, activation, true)
            }
            dims => Err(ModelError::msg(format!(
                "linear: found a weight of shape {dims:?} and a bias of {:?} values, expected {inputs} inputs and a bias per \
                 output",
                bias.map(Parameter::len),
            ))),
        }
    })
}

/// What [`linear_with`] and [`Embedding::logits`](crate::nn::Embedding::logits) take: `(batch, inputs)`, or `(batch, length,
/// inputs)` for the same at every position.
pub trait LinearInput<D: Device> {
    /// The last dimension's type.
    type Inputs: Dim;
    /// The tape that the tensor carries.
    type Tape: Tape<f32, D>;
    /// The same shape with `usize` outputs in the place of the inputs.
    type Output;

    /// What `outputs` makes of all rows, back in their places.
    ///
    /// # Errors
    /// Those of `outputs`, and when the device's memory runs out.
    fn map_rows(
        self,
        outputs: impl FnOnce(Rows<D, Self::Tape>) -> ModelResult<Rows<D, Self::Tape>>,
    ) -> ModelResult<Self::Output>;
}

impl<B: Dim, I: Dim, D: Device, T: Tape<f32, D>> LinearInput<D> for Tensor<(B, I), D, T> {
    type Inputs = I;
    type Tape = T;
    type Output = Tensor<(B, usize), D, T>;

    fn map_rows(
        self,
        outputs: impl FnOnce(Rows<D, T>) -> ModelResult<Rows<D, T>>,
    ) -> ModelResult<Tensor<(B, usize), D, T>> {
        let (batch, inputs) = *self.shape();
        let y = outputs(self.try_reshape_like(&(batch.size(), inputs.size()))?)?;
        let count = y.shape().1;
        Ok(y.try_reshape_like(&(batch, count))?)
    }
}

impl<B: Dim, L: Dim, I: Dim, D: Device, T: Tape<f32, D>> LinearInput<D> for Tensor<(B, L, I), D, T> {
    type Inputs = I;
    type Tape = T;
    type Output = Tensor<(B, L, usize), D, T>;

    fn map_rows(
        self,
        outputs: impl FnOnce(Rows<D, T>) -> ModelResult<Rows<D, T>>,
    ) -> ModelResult<Tensor<(B, L, usize), D, T>> {
        let (batch, length, inputs) = *self.shape();
        let y = outputs(self.try_reshape_like(&(batch.size() * length.size(), inputs.size()))?)?;
        let count = y.shape().1;
        Ok(y.try_reshape_like(&(batch, length, count))?)
    }
}
