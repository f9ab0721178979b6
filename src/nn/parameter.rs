//! One named tensor of a network.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::{Gradients, Init, Tensor};
use crate::{Device, Error, ErrorKind, ModelError, ModelResult};

/// A tensor that a network owns: trained, saved and restored under its name. Layers hold parameters and take
/// [shaped](Self::shaped) views of them in their forward pass. It is kept flat, so that optimisers and checkpoints need
/// not know its rank.
///
/// There is no `Clone`: clones of a dfdx tensor share its identity, and gradients of the two would be added up.
#[derive(Debug)]
pub struct Parameter<D: Device> {
    /// On the host this is behind `host` after an update, and brought up to date when dfdx's own operations ask for it.
    tensor: Mutex<Tensor<(usize,), D>>,
    /// On the host, the values themselves: our kernels read and update them without the copies that dfdx's private storage costs.
    host: Option<Arc<Vec<f32>>>,
    tensor_is_stale: AtomicBool,
    /// Whether somebody may hold a clone of the tensor that `loans` does not count.
    given_away: AtomicBool,
    /// Shared with every loan that is alive.
    #[cfg(feature = "cuda")]
    loans: Arc<()>,
    dims: Vec<usize>,
    trainable: bool,
    key: u64,
    is_statistic: bool,
}

/// A parameter's tensor as our own operations keep it until their way back: counted, so that an update knows when nobody
/// shares the values and they may be written where they are. Whoever clones the tensor out of it must drop the clone first.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone)]
pub(crate) struct Loan<D: Device> {
    tensor: Tensor<(usize,), D>,
    _counted: Arc<()>,
}

#[cfg(feature = "cuda")]
impl<D: Device> std::ops::Deref for Loan<D> {
    type Target = Tensor<(usize,), D>;

    fn deref(&self) -> &Self::Target {
        &self.tensor
    }
}

/// The next parameter's key.
static KEYS: AtomicU64 = AtomicU64::new(0);

/// How many times a tensor was copied from a device to the host: asserted by tests, since each one waits for the device.
static HOST_READS: AtomicU64 = AtomicU64::new(0);

/// How many times this process copied a tensor from a device to the host through this crate. Take the difference over
/// an epoch to see that training does not wait for the device in every step.
pub fn host_reads() -> u64 {
    HOST_READS.load(Ordering::Relaxed)
}

/// Reads a tensor's values in row-major order, and counts the read.
pub(crate) fn read<S: Shape, D: Device, T>(tensor: &Tensor<S, D, T>) -> Vec<f32> {
    HOST_READS.fetch_add(1, Ordering::Relaxed);
    // dfdx's iterators panic on nothing.
    if tensor.shape().num_elements() == 0 { Vec::new() } else { tensor.as_vec() }
}

impl<D: Device> Parameter<D> {
    /// A trainable parameter of these dimensions, filled by `init` from the device's generator. `fans` are the numbers of
    /// inputs that feed one output and of outputs that one input feeds, which the Glorot and He initialisations need.
    ///
    /// # Errors
    /// When the product of the dimensions overflows, the initialisation is impossible, or the device's memory runs out.
    pub fn new(device: &D, dims: &[usize], init: &Init, fans: (usize, usize)) -> ModelResult<Self> {
        let count = element_count(dims)?;
        // Sizes are hyper-parameters: one that is mistyped is an error, where filling a vector ends the process.
        if Vec::<f32>::new().try_reserve_exact(count).is_err() {
            let message = format!("shape {dims:?}: found no memory for its {} bytes", count * size_of::<f32>());
            return Err(Error::new(ErrorKind::OutOfMemory, message).into());
        }
        let values = init.sample(count, fans.0, fans.1, device.random_u64())?;
        Self::from_vec(device, dims, values)
    }

    /// A trainable parameter with these values in row-major order.
    ///
    /// # Errors
    /// When the number of values is not the product of the dimensions.
    pub fn from_vec(device: &D, dims: &[usize], values: Vec<f32>) -> ModelResult<Self> {
        let len = element_count(dims)?;
        if values.len() != len {
            let message = format!("parameter of shape {dims:?}: found {} values, expected {len}", values.len());
            return Err(ModelError::msg(message));
        }
        let host = D::READS_ARE_FREE.then(|| Arc::new(values.clone()));
        let tensor = Mutex::new(device.try_tensor_from_vec(values, (len,))?);
        Ok(Self::of(tensor, host, dims))
    }

    /// A parameter that takes over a tensor with its identity.
    pub(crate) fn from_tensor(tensor: Tensor<(usize,), D>, dims: &[usize]) -> Self {
        let host = D::READS_ARE_FREE.then(|| {
            let mut values = vec![0.0; tensor.shape().0];
            tensor.copy_into(&mut values);
            Arc::new(values)
        });
        let tensor = Mutex::new(tensor);
        Self { given_away: AtomicBool::new(true), ..Self::of(tensor, host, dims) }
    }

    fn of(tensor: Mutex<Tensor<(usize,), D>>, host: Option<Arc<Vec<f32>>>, dims: &[usize]) -> Self {
        Self {
            tensor,
            host,
            tensor_is_stale: AtomicBool::new(false),
            given_away: AtomicBool::new(false),
            #[cfg(feature = "cuda")]
            loans: Arc::new(()),
            dims: dims.to_vec(),
            trainable: true,
            key: KEYS.fetch_add(1, Ordering::Relaxed),
            is_statistic: false,
        }
    }

    /// The same, but kept out of training until it is unfrozen: given embeddings.
    #[must_use]
    pub fn frozen(mut self) -> Self {
        self.trainable = false;
        self
    }

    /// The same, but never trained: a running statistic, which the layer itself moves. A pattern that unfreezes the layer leaves it
    /// alone; weight decay would shrink it.
    #[must_use]
    #[doc(alias("register_buffer"))]
    pub fn statistic(mut self) -> Self {
        (self.trainable, self.is_statistic) = (false, true);
        self
    }

    /// Whether optimisers update it.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Freezes it, or lets optimisers update it again, unless it is a [statistic](Self::statistic). In a model function's `train`,
    /// before the tape is begun, that is for the step itself; only of one that no step of the verb has trained yet, the gradients
    /// are there from the next step on.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.trainable = trainable && !self.is_statistic;
    }

    /// A number that no other parameter of the process has.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Its dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.lock().shape().0
    }

    /// Whether it holds no value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values as a vector that shares identity with the parameter: gradients that reach it belong to the parameter.
    pub fn flat(&self) -> Tensor<(usize,), D> {
        let mut tensor = self.lock();
        if let Some(host) = &self.host
            && self.tensor_is_stale.swap(false, Ordering::AcqRel)
        {
            tensor.copy_from(host);
        }
        self.given_away.store(true, Ordering::Release);
        tensor.clone()
    }

    /// The values in this shape, sharing identity as [`flat`](Self::flat) does: what a forward pass of dfdx operations uses. It has
    /// no tape: an operation on it alone is not recorded, and the parameter then not trained. Put the input's tape on it first, and
    /// go on with the result in front: `let (x, tape) = x.split_tape(); gate.shaped(shape)?.put_tape(tape).try_exp()?.try_mul(x)?`.
    ///
    /// # Errors
    /// When the shape has another number of elements.
    pub fn shaped<S: Shape>(&self, shape: S) -> ModelResult<Tensor<S, D>> {
        if shape.num_elements() != self.len() {
            return Err(ModelError::msg(format!(
                "parameter of shape {:?}: cannot be used as {:?}, which has another number of elements",
                self.dims,
                shape.concrete()
            )));
        }
        Ok(self.flat().try_reshape_like(&shape)?)
    }

    /// The tensor with the parameter's identity, its values possibly out of date: for the gradients of our own operations.
    pub(crate) fn identity(&self) -> Tensor<(usize,), D> {
        self.given_away.store(true, Ordering::Release);
        self.lock().clone()
    }

    /// The same without a clone.
    pub(crate) fn with_identity<R>(&self, f: impl FnOnce(&Tensor<(usize,), D>) -> R) -> R {
        f(&self.lock())
    }

    /// The flat tensor for an operation of our own on a device that is not the host.
    #[cfg(feature = "cuda")]
    pub(crate) fn lend(&self) -> Loan<D> {
        Loan { tensor: self.lock().clone(), _counted: self.loans.clone() }
    }

    /// Whether a clone of the tensor may be alive, which must not see an update.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_shared(&self) -> bool {
        self.given_away.load(Ordering::Acquire) || Arc::strong_count(&self.loans) > 1
    }

    /// To be called when dfdx has just changed the tensor in place: it gives a shared tensor storage of its own first.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_alone_again(&mut self) {
        *self.given_away.get_mut() = false;
        self.loans = Arc::new(());
    }

    /// On the host, the values, shared with the parameter until it is next updated; `None` on other devices.
    pub(crate) fn host(&self) -> Option<&Arc<Vec<f32>>> {
        self.host.as_ref()
    }

    /// On the host, the values to update in place; `None` on other devices, where [`update`](Self::update) is the way.
    pub(crate) fn host_mut(&mut self) -> Option<&mut [f32]> {
        let host = self.host.as_mut()?;
        *self.tensor_is_stale.get_mut() = true;
        Some(Arc::make_mut(host).as_mut_slice())
    }

    /// Its gradient after a backward pass, flat in row-major order: zeros where the loss did not reach it. What an optimiser of
    /// your own reads in [`ModelFn::update`](crate::ModelFn::update).
    ///
    /// # Errors
    /// When the device's memory runs out.
    pub fn gradient(&self, gradients: &mut Gradients<D>) -> ModelResult<Tensor<(usize,), D>> {
        let identity = self.identity();
        gradients.get_or_alloc_mut(&identity)?;
        Ok(gradients.get(&identity))
    }

    /// Changes the flat tensor in place, on any device: how an optimiser of your own applies dfdx's kernels.
    ///
    /// # Errors
    /// Those of `change`, and when it leaves a tensor of another size.
    pub fn update<T>(&mut self, change: impl FnOnce(&mut Tensor<(usize,), D>) -> ModelResult<T>) -> ModelResult<T> {
        drop(self.flat());
        let tensor = self.tensor.get_mut().unwrap_or_else(PoisonError::into_inner);
        let len = tensor.shape().0;
        let result = change(tensor);
        *self.given_away.get_mut() = true;
        // What was put in its place may be a view, or have another size.
        let found = tensor.shape().0;
        if found == len {
            *tensor = tensor.clone().try_contiguous()?;
        } else {
            if let Some(host) = &self.host {
                *tensor = tensor.device().try_tensor_from_vec(host.to_vec(), (len,))?;
            }
            return Err(ModelError::msg(format!(
                "parameter of shape {:?}: found {found} values after an update, expected {len}",
                self.dims
            )));
        }
        if let Some(host) = &mut self.host {
            tensor.copy_into(Arc::make_mut(host).as_mut_slice());
        }
        result
    }

    /// Copies the values to the host, in row-major order.
    pub fn values(&self) -> Vec<f32> {
        Arc::unwrap_or_clone(self.shared_values())
    }

    /// The values on the host: shared with the parameter until it is next updated where they are there already.
    pub(crate) fn shared_values(&self) -> Arc<Vec<f32>> {
        HOST_READS.fetch_add(1, Ordering::Relaxed);
        if let Some(host) = &self.host {
            return host.clone();
        }
        let tensor = self.lock();
        let mut values = vec![0.0; tensor.shape().0];
        tensor.copy_into(&mut values);
        Arc::new(values)
    }

    /// Overwrites all values, keeping the parameter's identity.
    ///
    /// # Errors
    /// When the number of values is another one.
    pub fn set_values(&mut self, values: &[f32]) -> ModelResult<()> {
        if values.len() != self.len() {
            return Err(ModelError::msg(format!(
                "parameter of shape {:?}: found {} values, expected {}",
                self.dims,
                values.len(),
                self.len()
            )));
        }
        self.tensor.get_mut().unwrap_or_else(PoisonError::into_inner).copy_from(values);
        *self.tensor_is_stale.get_mut() = false;
        if let Some(host) = &mut self.host {
            Arc::make_mut(host).copy_from_slice(values);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Tensor<(usize,), D>> {
        // A panic while the lock was held cannot leave a tensor half made.
        self.tensor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The product of dimensions, which come from hyper-parameters and files.
pub(crate) fn element_count(dims: &[usize]) -> ModelResult<usize> {
    dims.iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .filter(|&count| count <= isize::MAX as usize / size_of::<f32>())
        .ok_or_else(|| ModelError::msg(format!("shape {dims:?} has more elements than memory can hold")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Cpu, DeviceSpec};
    use dfdx::tensor::TensorFromVec;
    use dfdx::tensor::Trace;
    use dfdx::tensor_ops::{Backward, BroadcastTo, SumTo, TryMul};

    #[test]
    fn both_ways_of_updating_are_seen_by_both_ways_of_reading() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let mut parameter = Parameter::from_vec(&device, &[2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        parameter.host_mut().unwrap()[0] = 5.0;
        assert_eq!(parameter.flat().as_vec(), [5.0, 2.0, 3.0, 4.0]);
        parameter
            .update(|tensor| {
                tensor.copy_from(&[9.0, 8.0, 7.0, 6.0]);
                Ok(())
            })
            .unwrap();
        assert_eq!(parameter.values(), [9.0, 8.0, 7.0, 6.0]);
        parameter.host_mut().unwrap()[3] = 1.0;
        parameter.set_values(&[0.0; 4]).unwrap();
        assert_eq!(parameter.shaped((2, 2)).unwrap().as_vec(), [0.0; 4]);
        assert!(parameter.shaped((3,)).is_err());
    }

    #[test]
    fn an_update_may_put_a_view_in_the_place_but_no_other_size() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let mut parameter = Parameter::from_vec(&device, &[2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let one: Tensor<(), Cpu> = device.tensor_from_vec(vec![0.5], ());
        parameter
            .update(|tensor| {
                *tensor = one.clone().try_broadcast_like(&(4,))?;
                Ok(())
            })
            .unwrap();
        assert_eq!((parameter.values(), parameter.flat().as_vec()), (vec![0.5; 4], vec![0.5; 4]));
        parameter.host_mut().unwrap()[1] = 2.0;
        assert_eq!(parameter.shaped((2, 2)).unwrap().as_vec(), [0.5, 2.0, 0.5, 0.5]);
        let error = parameter
            .update(|tensor| {
                *tensor = device.tensor_from_vec(vec![0.5; 3], (3,));
                Ok(())
            })
            .unwrap_err();
        assert!(error.to_string().contains("found 3 values after an update, expected 4"), "{error:?}");
        assert_eq!((parameter.len(), parameter.flat().as_vec()), (4, vec![0.5, 2.0, 0.5, 0.5]));
    }

    #[test]
    fn more_than_memory_holds_is_an_error() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        for init in [Init::Zeros, Init::GlorotUniform, Init::Normal(0.0, 1.0)] {
            let error = Parameter::new(&device, &[1 << 46, 8], &init, (8, 8)).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory);
            assert!(error.to_string().starts_with("shape [70368744177664, 8]: found no memory"), "{error:?}");
        }
    }

    #[test]
    fn gradients_of_a_shaped_view_belong_to_the_parameter() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let parameter = Parameter::from_vec(&device, &[2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let view = parameter.shaped((2, 2)).unwrap();
        let loss = view.trace(Gradients::leaky()).try_mul(3.0).unwrap().sum::<(), _>();
        let mut gradients = loss.backward();
        assert_eq!(gradients.get(&parameter.identity()).as_vec(), [3.0; 4]);
        assert_eq!(parameter.gradient(&mut gradients).unwrap().as_vec(), [3.0; 4]);
        let beside = Parameter::from_vec(&device, &[2], vec![1.0, 2.0]).unwrap();
        assert_eq!(beside.gradient(&mut gradients).unwrap().as_vec(), [0.0; 2]);
    }
}
