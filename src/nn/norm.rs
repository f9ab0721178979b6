//! Normalisation layers.

use std::sync::{Mutex, PoisonError};

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::Tape;
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::{Init, Layer, Network, Parameter, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// Gives the values of each row mean 0 and variance 1, then a gain and an offset per value (Ba et al. 2016): `(batch, size)`
/// or `(batch, length, size)` to the same. `weight` and `bias` are `(size)`.
///
/// ```
/// use elistimator::nn::LayerNorm;
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let norm = LayerNorm::new(&Cpu::open(DeviceSpec::Cpu, 7)?, 64)?.epsilon(1e-12);
/// # drop(norm);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LayerNorm<D: Device, E: Dim = usize> {
    /// The gains, `(size)`.
    pub weight: Parameter<D>,
    /// The offsets, `(size)`.
    pub bias: Parameter<D>,
    size: E,
    epsilon: f32,
}

impl<D: Device, E: Dim> LayerNorm<D, E> {
    /// Gains of 1 and offsets of 0; 1e-5 is added to the variance.
    ///
    /// # Errors
    /// When the size is 0 or memory runs out.
    pub fn new(device: &D, size: E) -> ModelResult<Self> {
        let (weight, bias) = gains_and_offsets(device, "layer normalisation", size.size())?;
        Ok(Self { weight, bias, size, epsilon: 1e-5 })
    }

    /// What is added to the variance; one that is not finite or negative is an error of the forward pass.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f32) -> Self {
        self.epsilon = epsilon;
        self
    }

    fn apply<T: Tape<f32, D>>(&self, x: Tensor<(usize, usize), D, T>) -> ModelResult<Tensor<(usize, usize), D, T>> {
        let (rows, found) = *x.shape();
        if found != self.size.size() {
            return Err(ModelError::msg(format!(
                "layer normalisation: found {rows} rows of {found} values, expected {}",
                self.size.size()
            )));
        }
        check_epsilon("layer normalisation", self.epsilon)?;
        D::layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}

fn check_epsilon(layer: &str, epsilon: f32) -> ModelResult<()> {
    if epsilon.is_finite() && epsilon >= 0.0 {
        return Ok(());
    }
    Err(ModelError::msg(format!("{layer}: found the epsilon {epsilon}, expected a finite number that is not negative")))
}

fn gains_and_offsets<D: Device>(device: &D, layer: &str, size: usize) -> ModelResult<(Parameter<D>, Parameter<D>)> {
    if size == 0 {
        return Err(ModelError::msg(format!("{layer}: found a size of 0, expected at least 1")));
    }
    let parameter = |init: &Init| Parameter::new(device, &[size], init, (1, 1));
    Ok((parameter(&Init::Ones)?, parameter(&Init::Zeros)?))
}

impl<D: Device, E: Dim> Network<D> for LayerNorm<D, E> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight", &self.weight)?;
        visitor.parameter("bias", &self.bias)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight", &mut self.weight)?;
        visitor.parameter("bias", &mut self.bias)
    }
}

impl<B: Dim, E: Dim, D: Device, T: Tape<f32, D>> Layer<Tensor<(B, E), D, T>> for LayerNorm<D, E> {
    type Output = Tensor<(B, E), D, T>;

    fn forward(&self, x: Tensor<(B, E), D, T>) -> ModelResult<Self::Output> {
        let shape = *x.shape();
        Ok(self.apply(x.try_reshape_like(&(shape.0.size(), shape.1.size()))?)?.try_reshape_like(&shape)?)
    }
}

impl<B: Dim, L: Dim, E: Dim, D: Device, T: Tape<f32, D>> Layer<Tensor<(B, L, E), D, T>> for LayerNorm<D, E> {
    type Output = Tensor<(B, L, E), D, T>;

    fn forward(&self, x: Tensor<(B, L, E), D, T>) -> ModelResult<Self::Output> {
        let shape = *x.shape();
        let rows = (shape.0.size() * shape.1.size(), shape.2.size());
        Ok(self.apply(x.try_reshape_like(&rows)?)?.try_reshape_like(&shape)?)
    }
}

/// Gives each channel mean 0 and variance 1 over the batch, then a gain and an offset (Ioffe and Szegedy 2015): `(batch,
/// channels)`, `(batch, channels, length)` or `(batch, channels, height, width)` to the same. Training uses the batch's
/// statistics and moves the running ones towards them; evaluation uses the running ones, which are saved.
///
/// ```
/// use elistimator::nn::BatchNorm;
/// use elistimator::{Device, DeviceSpec, device::Cpu};
/// # fn main() -> elistimator::ModelResult<()> {
/// let norm = BatchNorm::new(&Cpu::open(DeviceSpec::Cpu, 7)?, 32)?.momentum(0.01);
/// # drop(norm);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BatchNorm<D: Device, C: Dim = usize> {
    /// The gains, `(channels)`.
    pub weight: Parameter<D>,
    /// The offsets, `(channels)`.
    pub bias: Parameter<D>,
    /// The running mean and variance, which a forward pass on `&self` moves.
    running: Mutex<Running<D>>,
    channels: C,
    epsilon: f32,
    momentum: f64,
}

#[derive(Debug)]
struct Running<D: Device> {
    mean: Parameter<D>,
    variance: Parameter<D>,
}

impl<D: Device, C: Dim> BatchNorm<D, C> {
    /// Gains of 1 and offsets of 0; 1e-5 is added to the variance; the running statistics move by a tenth.
    ///
    /// # Errors
    /// When there is no channel or memory runs out.
    pub fn new(device: &D, channels: C) -> ModelResult<Self> {
        let (weight, bias) = gains_and_offsets(device, "batch normalisation", channels.size())?;
        let (variance, mean) = gains_and_offsets(device, "batch normalisation", channels.size())?;
        let running = Mutex::new(Running { mean: mean.statistic(), variance: variance.statistic() });
        Ok(Self { weight, bias, running, channels, epsilon: 1e-5, momentum: 0.1 })
    }

    /// What is added to the variance; one that is not finite or negative is an error of the forward pass.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f32) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// From 0 to 1, how far the running statistics move towards the batch's: `new = (1 - momentum) * old + momentum * batch`, as in
    /// PyTorch.
    #[must_use]
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    fn apply<T: Tape<f32, D>>(
        &self,
        x: Tensor<(usize, usize, usize), D, T>,
    ) -> ModelResult<Tensor<(usize, usize, usize), D, T>> {
        let (batch, channels, pixels) = *x.shape();
        if channels != self.channels.size() {
            return Err(ModelError::msg(format!(
                "batch normalisation: found {channels} channels, expected {}",
                self.channels.size()
            )));
        }
        check_epsilon("batch normalisation", self.epsilon)?;
        if !(0.0..=1.0).contains(&self.momentum) {
            let found = self.momentum;
            return Err(ModelError::msg(format!("batch normalisation: found the momentum {found}, expected 0 to 1")));
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if !T::OWNS_TAPE {
            let statistics = (running.mean.flat(), running.variance.flat());
            return Ok(D::batch_norm(x, &self.weight, &self.bias, self.epsilon, Some(statistics))?.0);
        }
        let count = batch * pixels;
        if count < 2 {
            return Err(ModelError::msg(format!(
                "batch normalisation: found {count} values per channel in training, expected at least 2; \
                 `drop_remainder` after `batch` leaves out a last batch of one example"
            )));
        }
        let (y, mean, variance) = D::batch_norm(x, &self.weight, &self.bias, self.epsilon, None)?;
        let (keep, take) = (1.0 - self.momentum, self.momentum);
        // The running variance is the unbiased one.
        let unbiased = take * count as f64 / (count - 1) as f64;
        running.mean.update(|tensor| Ok(tensor.try_axpy(keep, &mean, take)?))?;
        running.variance.update(|tensor| Ok(tensor.try_axpy(keep, &variance, unbiased)?))?;
        Ok(y)
    }
}

impl<D: Device, C: Dim> Network<D> for BatchNorm<D, C> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight", &self.weight)?;
        visitor.parameter("bias", &self.bias)?;
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        visitor.parameter("running_mean", &running.mean)?;
        visitor.parameter("running_var", &running.variance)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight", &mut self.weight)?;
        visitor.parameter("bias", &mut self.bias)?;
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        visitor.parameter("running_mean", &mut running.mean)?;
        visitor.parameter("running_var", &mut running.variance)
    }
}

macro_rules! batch_norm_of {
    ($($Rest:ident $rest:tt),*) => {
        impl<B: Dim, C: Dim, $($Rest: Dim,)* D: Device, T: Tape<f32, D>> Layer<Tensor<(B, C, $($Rest,)*), D, T>>
            for BatchNorm<D, C>
        {
            type Output = Tensor<(B, C, $($Rest,)*), D, T>;

            fn forward(&self, x: Self::Output) -> ModelResult<Self::Output> {
                let shape = *x.shape();
                let pixels = 1 $(* shape.$rest.size())*;
                let y = self.apply(x.try_reshape_like(&(shape.0.size(), shape.1.size(), pixels))?)?;
                Ok(y.try_reshape_like(&shape)?)
            }
        }
    };
}

batch_norm_of!();
batch_norm_of!(L 2);
batch_norm_of!(H 2, W 3);
