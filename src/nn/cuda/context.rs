//! What is kept for each CUDA device: its kernels, a cuBLAS handle, and the way to tensors' memory that works on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas::CudaBlas;
use cudarc::driver::sys::{CUdevice, CUresult};
use cudarc::driver::{CudaDevice, CudaFunction, CudaSlice, DeviceRepr, DriverError, LaunchAsync, LaunchConfig};
use dfdx::tensor::{Cuda, CudaError, Storage, TensorFromVec};

use super::pointer::{self, Route};
use super::upload::Uploads;
use super::{Flat, memory, module};
use crate::{ModelError, ModelResult};

/// One device. dfdx's handles of the same device, however many, share its memory and its default stream, which is the one
/// that everything here uses.
pub(crate) struct Context {
    pub(super) device: Arc<CudaDevice>,
    pub(super) blas: Mutex<CudaBlas>,
    pub(super) route: Route,
    pub(super) uploads: Mutex<Uploads>,
    functions: BTreeMap<&'static str, CudaFunction>,
}

static CONTEXTS: Mutex<BTreeMap<CUdevice, Arc<Context>>> = Mutex::new(BTreeMap::new());

impl Context {
    /// The context of the device that holds `tensor`; made, and tested, when it is first asked for.
    pub(crate) fn of(tensor: &Flat) -> ModelResult<Arc<Self>> {
        let found = match pointer::parse(tensor) {
            Some(parsed) => Self::get(parsed.device, tensor.device(), || Self::device_of(tensor))?,
            None => {
                let device = Self::device_of(tensor)?;
                Self::get(*device.cu_device(), tensor.device(), || Ok(device))?
            }
        };
        Ok(found)
    }

    /// Compiles the kernels and tests the way to tensors' memory: call it when a device is opened, so that what is wrong
    /// with it shows then.
    pub(crate) fn open(device: &Cuda) -> ModelResult<Arc<Self>> {
        Self::of(&device.try_tensor_from_vec(vec![0.0; 1], (1,))?)
    }

    /// The device's number.
    pub(crate) fn ordinal(&self) -> usize {
        self.device.ordinal()
    }

    /// That of the device of this number, if it was made.
    pub(super) fn known(number: CUdevice) -> Option<Arc<Self>> {
        CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    fn device_of(tensor: &Flat) -> ModelResult<Arc<CudaDevice>> {
        let storage: <Cuda as Storage<f32>>::Vec = tensor.device().try_alloc_len(1)?;
        Ok(storage.device())
    }

    fn get(
        number: CUdevice,
        dfdx: &Cuda,
        device: impl FnOnce() -> ModelResult<Arc<CudaDevice>>,
    ) -> ModelResult<Arc<Self>> {
        // A panic while the lock was held leaves the map whole.
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&number) {
            return Ok(context.clone());
        }
        let device = device()?;
        memory::keep(&device);
        let functions = module::load(&device)?;
        let blas = CudaBlas::new(device.clone()).map_err(CudaError::from)?;
        let mut context =
            Self { device, blas: Mutex::new(blas), route: Route::Pointer, uploads: Mutex::default(), functions };
        if !pointer::works(&context, dfdx)? {
            log::warn!(
                "tensors' memory on {number} is not where it was expected: every operation copies, and is slower"
            );
            context.route = Route::Copy;
        }
        let context = Arc::new(context);
        contexts.insert(number, context.clone());
        Ok(context)
    }

    /// Memory for values that a kernel is about to write.
    pub(super) fn uninitialized<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>, CudaError> {
        // SAFETY: the memory holds any bits until it is written; T is a number, for which all bits are valid, and the
        // callers hand it to a kernel or a product that writes all of it before anything reads it.
        memory::asking(len.saturating_mul(size_of::<T>()), || Ok(unsafe { self.device.alloc::<T>(len.max(1)) }?))
    }

    /// Numbers of the host as memory of the device. There is always one, so that there is memory to point to.
    pub(super) fn uploaded(&self, mut numbers: Vec<u32>) -> Result<CudaSlice<u32>, CudaError> {
        if numbers.is_empty() {
            numbers.push(0);
        }
        memory::asking(size_of_val(numbers.as_slice()), || Ok(self.device.htod_copy(numbers)?))
    }

    /// Launches a kernel on the default stream; a grid without blocks is no launch.
    ///
    /// # Safety
    /// `arguments` must be those of the kernel, in number, type and order; the pointers among them must be of this device,
    /// valid until the launch is queued (freeing is queued behind it), and as long as the kernel, with this grid, reads or
    /// writes; what it writes must not be borrowed.
    pub(super) unsafe fn launch<A>(
        &self,
        kernel: &'static str,
        grid: (u32, u32),
        block: u32,
        arguments: A,
    ) -> Result<(), CudaError>
    where
        CudaFunction: LaunchAsync<A>,
    {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        // All kernels of the list were loaded, or there would be no context; a name beside the list is found by the tests.
        let Some(function) = self.functions.get(kernel) else {
            return Err(CudaError::Driver(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)));
        };
        let shape = LaunchConfig { grid_dim: (grid.0, grid.1, 1), block_dim: (block, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: that of this function.
        Ok(unsafe { function.clone().launch(shape, arguments) }?)
    }
}

/// How many blocks of `block` threads cover `count` elements.
pub(super) fn blocks(count: usize, block: u32) -> u32 {
    // More than 2^32 blocks are more elements than the memory of any device holds.
    u32::try_from(count.div_ceil(block as usize)).unwrap_or(u32::MAX)
}

/// A size as the kernels take it.
pub(super) fn size(n: usize) -> ModelResult<u32> {
    i32::try_from(n).map(|n| n as u32).map_err(|_| {
        ModelError::msg(format!("found a dimension of {n}, expected at most {} on a CUDA device", i32::MAX))
    })
}
