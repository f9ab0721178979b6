//! Pools over windows that may overlap.

use cudarc::driver::DevicePtr;
use dfdx::shapes::HasShape;
use dfdx::tensor::{Cuda, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use super::context::{Context, blocks};
use super::convolution::{Images, Window, planes};
use super::elementwise::THREADS;
use super::pointer::{Output, Values};
use super::record::{flat, record};
use crate::nn::backend::Pooling;
use crate::nn::window::WindowOver;
use crate::{ModelError, ModelResult};

/// See [`Backend::pool2d`](crate::nn::backend::Backend::pool2d).
pub(super) fn pool2d<T: Tape<f32, Cuda>>(
    x: Images<T>,
    window: &WindowOver,
    pooling: Pooling,
) -> ModelResult<Images<T>> {
    let (batch, channels) = (window.batch, window.channels);
    // The kernels read as far as the window says: this is what makes that sound.
    if *x.shape() != (batch, channels, window.height, window.width) {
        return Err(ModelError::msg(format!("pool: found images of {:?}, which do not fit {window:?}", x.shape())));
    }
    let geometry = Window::new(window, batch)?;
    let count = batch * channels * window.out.0 * window.out.1;
    let (x, tape) = x.try_contiguous()?.split_tape();
    let x = flat(&x)?;
    let context = Context::of(&x)?;
    let values = Values::of(&context, &x)?;
    let y = Output::new(&context, x.device(), count)?;
    let rows = planes(batch * channels);
    let forward = (blocks(window.out.0 * window.out.1, THREADS), rows);
    let backward = (blocks(window.height * window.width, THREADS), rows);
    let shape = (batch, channels, window.out.0, window.out.1);
    match pooling {
        Pooling::Max => {
            let at = context.uninitialized::<u32>(count)?;
            let arguments = (y.pointer(), *at.device_ptr(), values.pointer(), geometry);
            // SAFETY: x is of the window's input, y and `at` of its output; y and `at` are new.
            unsafe { context.launch("max_pool", forward, THREADS, arguments) }?;
            record(tape, &[&x], y.finish()?, shape, move |inputs, dy| {
                let arguments = (inputs[0], dy, *at.device_ptr(), geometry);
                // SAFETY: the gradients of x and y, two tensors, and what max_pool has written.
                unsafe { context.launch("max_pool_backward", backward, THREADS, arguments) }
            })
        }
        Pooling::Average => {
            // SAFETY: x is of the window's input, y of its output, and new.
            unsafe { context.launch("average_pool", forward, THREADS, (y.pointer(), values.pointer(), geometry)) }?;
            record(tape, &[&x], y.finish()?, shape, move |inputs, dy| {
                // SAFETY: the gradients of x and y, two tensors.
                unsafe { context.launch("average_pool_backward", backward, THREADS, (inputs[0], dy, geometry)) }
            })
        }
    }
}
