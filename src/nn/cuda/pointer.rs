//! The way from dfdx's tensors to their memory. dfdx 0.13 keeps a tensor's storage private, but prints the device pointer
//! when a tensor is formatted for debugging: that is read here, which costs no launch and no copy. Since dfdx and cudarc are
//! pinned to exact versions the text cannot change unnoticed; all the same the way is tested on every device before it is
//! used, and where it fails, values are copied by dfdx's own public operations instead.

use std::fmt::{self, Write};

use cudarc::driver::{DevicePtr, sys::CUdevice};
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, CudaError, Storage, TensorFromVec, ZerosTensor};
use dfdx::tensor_ops::{Momentum, SgdConfig, WeightDecay};

use super::Flat;
use super::context::Context;
use super::memory::asking;
use crate::ModelResult;
use crate::nn::Gradients;

/// How tensors' memory is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// By the pointer that debugging prints.
    Pointer,
    /// By copies into and out of storages of our own.
    Copy,
}

/// What a tensor prints about its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) pointer: u64,
    pub(super) len: usize,
    pub(super) device: CUdevice,
}

/// Reads where a tensor's storage is; `None` if it does not print what is expected.
pub(super) fn parse(tensor: &Flat) -> Option<Parsed> {
    let mut text = Prefix(String::with_capacity(256));
    // Stops with an error as soon as the number of the device is there: the rest is long.
    let _ = write!(text, "{tensor:?}");
    parse_text(&text.0)
}

/// Collects text until it has seen what follows `cu_device: `.
struct Prefix(String);

impl Write for Prefix {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0.push_str(piece);
        let complete = self.0.find(DEVICE).is_some_and(|at| self.0[at + DEVICE.len()..].contains(','));
        if complete || self.0.len() > 4096 { Err(fmt::Error) } else { Ok(()) }
    }
}

const POINTER: &str = "CudaSlice { cu_device_ptr: ";
const LEN: &str = ", len: ";
const DEVICE: &str = ", device: CudaDevice { cu_device: ";

fn parse_text(text: &str) -> Option<Parsed> {
    let (pointer, rest) = text.split_once(POINTER)?.1.split_once(LEN)?;
    let (len, rest) = rest.split_once(DEVICE)?;
    let device = rest.split_once(',')?.0;
    Some(Parsed { pointer: pointer.parse().ok()?, len: len.parse().ok()?, device: device.parse().ok()? })
}

/// Whether the pointer that a tensor prints is where its values are: a kernel changes them there, and dfdx must see it.
pub(super) fn works(context: &Context, device: &Cuda) -> ModelResult<bool> {
    let before = vec![1.0, -2.5, 1024.0, 0.125];
    let tensor = device.try_tensor_from_vec(before.clone(), (before.len(),))?;
    let Some(parsed) = parse(&tensor) else { return Ok(false) };
    if parsed.pointer == 0 || parsed.len != before.len() || parsed.device != *context.device.cu_device() {
        return Ok(false);
    }
    // SAFETY: the tensor is alive and shared with nobody. Should the number be no pointer to its four values, the kernel
    // fails or writes 16 bytes elsewhere on the device: all that this library uses is not made yet, and the answer is no.
    unsafe { context.launch("probe", (1, 1), 32, (parsed.pointer, before.len() as u64)) }?;
    let mut after = vec![0.0; before.len()];
    tensor.copy_into(&mut after);
    Ok(after.iter().zip(&before).all(|(after, before)| *after == 2.0 * before + 1.0))
}

/// The values of a contiguous tensor for a kernel to read. The memory lives, unchanged, as long as this does: dfdx copies
/// a tensor that is shared before it changes it.
pub(super) struct Values {
    pointer: u64,
    _tensor: Flat,
    _copy: Option<<Cuda as Storage<f32>>::Vec>,
}

impl Values {
    // A method, not a field: a closure that used the field alone would capture the number and let the memory go.
    pub(super) fn pointer(&self) -> u64 {
        self.pointer
    }

    pub(super) fn of(context: &Context, tensor: &Flat) -> Result<Self, CudaError> {
        if context.route == Route::Pointer
            && let Some(parsed) = parse(tensor)
            && parsed.len >= tensor.shape().0
        {
            return Ok(Self { pointer: parsed.pointer, _tensor: tensor.clone(), _copy: None });
        }
        // An update with rate 0 and weight decay 1 leaves the values in the velocity: v = 0 * v + (0 + 1 * x).
        let copying =
            SgdConfig { lr: 0.0, momentum: Some(Momentum::Classic(0.0)), weight_decay: Some(WeightDecay::L2(1.0)) };
        let device = tensor.device();
        let mut copy: <Cuda as Storage<f32>>::Vec = device.try_alloc_len(tensor.shape().0)?;
        let zeros: <Cuda as Storage<f32>>::Vec = device.try_alloc_len(tensor.shape().0)?;
        // The clone is what is updated: dfdx gives it storage of its own first.
        copying.try_update(&mut tensor.clone(), &mut copy, &zeros)?;
        Ok(Self { pointer: *copy.device_ptr(), _tensor: tensor.clone(), _copy: Some(copy) })
    }
}

/// A new tensor for kernels to write.
pub(super) struct Output {
    pointer: u64,
    tensor: Flat,
    staged: Option<<Cuda as Storage<f32>>::Vec>,
}

impl Output {
    pub(super) fn pointer(&self) -> u64 {
        self.pointer
    }

    pub(super) fn new(context: &Context, device: &Cuda, len: usize) -> Result<Self, CudaError> {
        Self::around(context, asking(len.saturating_mul(4), || device.try_zeros_like(&(len,)))?)
    }

    /// The same around a tensor that is new, and shared with nobody.
    pub(super) fn around(context: &Context, tensor: Flat) -> Result<Self, CudaError> {
        let len = tensor.shape().0;
        if context.route == Route::Pointer
            && let Some(parsed) = parse(&tensor)
            && parsed.len >= len
        {
            return Ok(Self { pointer: parsed.pointer, tensor, staged: None });
        }
        let staged: <Cuda as Storage<f32>>::Vec = tensor.device().try_alloc_len(len)?;
        Ok(Self { pointer: *staged.device_ptr(), tensor, staged: Some(staged) })
    }

    /// The tensor, once all kernels that write it have been launched.
    pub(super) fn finish(self) -> Result<Flat, CudaError> {
        let Self { mut tensor, staged, .. } = self;
        if let Some(staged) = staged {
            // 0 - (-1 * x)
            let copying = SgdConfig { lr: -1.0, momentum: None, weight_decay: None };
            let mut unused: <Cuda as Storage<f32>>::Vec = tensor.device().try_alloc_len(tensor.shape().0)?;
            copying.try_update(&mut tensor, &mut unused, &staged)?;
        }
        Ok(tensor)
    }
}

/// A way to a tensor's gradient that does not keep the tensor's values: it gives the pointer, valid as long as the
/// gradients are, and the gradient is zero when it is first asked for.
pub(super) fn gradient_of(tensor: &Flat) -> impl Fn(&mut Gradients<Cuda>) -> Result<u64, CudaError> + 'static {
    let (ghost, bytes) = (tensor.ghost(), tensor.shape().0.saturating_mul(4));
    move |gradients| Ok(*asking(bytes, || gradients.get_or_alloc_mut(&ghost))?.device_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_read_exactly() {
        let text = "Tensor { id: UniqueId(3), data: CachableCudaSlice { data: CudaSlice { cu_device_ptr: 140245, len: 12, \
                    device: CudaDevice { cu_device: 1, cu_primary_ctx: 0x1";
        assert_eq!(parse_text(text), Some(Parsed { pointer: 140_245, len: 12, device: 1 }));
        for text in [
            "",
            "CudaSlice { cu_device_ptr: 1, len: 2",
            "CudaSlice { cu_device_ptr: x, len: 2, device: CudaDevice { cu_device: 0, ",
            "CudaSlice { cu_device_ptr: 1, len: 2, device: CudaDevice { cu_device: 0",
        ] {
            assert_eq!(parse_text(text), None, "{text}");
        }
    }
}
