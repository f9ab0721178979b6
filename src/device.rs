//! The device bound of all user code, and how a device is chosen.

use std::{fmt, str::FromStr};

use dfdx::shapes::Shape;
use serde::{Deserialize, Serialize};

use crate::data::{Dataset, Record};
use crate::nn::Tensor;
use crate::nn::backend::Backend;
use crate::optim::update::Update;
use crate::{Error, ErrorKind, ModelResult, Result};

pub use dfdx::tensor::Cpu;
#[cfg(feature = "cuda")]
pub use dfdx::tensor::Cuda;

/// The one bound that model functions and networks carry: `impl<D: Device> ModelFn<D> for ...`. It is dfdx's
/// `Device<f32>` together with the fused operations of [`crate::nn`], and is implemented by [`Cpu`] and, with the
/// feature `cuda`, by dfdx's `Cuda`. It is sealed: new devices come with new versions of this crate.
pub trait Device: Backend + Update {
    /// Opens the device that `spec` names and seeds its generator, as the estimator's builder does.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when there is no such device, or `spec` names one of another type.
    fn open(spec: DeviceSpec, seed: u64) -> Result<Self>;

    /// `"cpu"` or `"cuda:0"`: the name under which a checkpoint remembers where it was trained.
    fn name(&self) -> String;

    /// An array of a batch as a tensor of this shape, which holds as many values.
    #[doc(hidden)]
    fn tensor_of<S: Shape>(&self, batch: &Record, name: &str, shape: S) -> ModelResult<Tensor<S, Self>> {
        Ok(self.try_tensor_from_vec(batch.get(name)?.to_f32()?, shape)?)
    }

    /// The same batches, with the arrays that [`tensor_of`](Self::tensor_of) will be asked for on their way to the device
    /// before they are handed out, where that spares time.
    #[doc(hidden)]
    fn upload_ahead(&self, batches: Dataset) -> Dataset {
        batches
    }

    /// Bounds what this process takes of the device's memory; see [`Builder::memory_fraction`](crate::Builder).
    #[doc(hidden)]
    fn bound_memory(_spec: DeviceSpec, _fraction: f64) -> Result<()> {
        Ok(())
    }

    /// Gives memory that is no longer in use back, after something failed for want of it.
    #[doc(hidden)]
    fn trim_memory(&self) {}

    /// Bytes of the device's own memory that this process holds for tensors; `None` where that is the host's.
    #[doc(hidden)]
    fn memory_held(&self) -> Option<u64> {
        None
    }
}

/// Which device to open: `"cpu"`, `"cuda"`, `"cuda:1"` or `"auto"` (a GPU if there is one, else the CPU). Parse it from
/// a command line and give it to [`with_device!`](crate::with_device).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum DeviceSpec {
    /// The CPU.
    #[default]
    Cpu,
    /// The CUDA device of this ordinal, counted from 0.
    Cuda(usize),
    /// CUDA device 0 if this build and this machine have one, else the CPU.
    Auto,
}

impl DeviceSpec {
    /// Turns `Auto` into what it means on this machine: never fails, never panics.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if cuda_is_available() => Self::Cuda(0),
            Self::Auto => Self::Cpu,
            chosen => chosen,
        }
    }

    /// The error of a build without the feature `cuda` that is asked for a GPU.
    #[doc(hidden)]
    pub fn without_cuda(self) -> Error {
        Error::new(
            ErrorKind::Device,
            format!(
                "device {self} was asked for, but this program was built without the feature `cuda`; use cpu or auto"
            ),
        )
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("device {text:?}: expected \"cpu\", \"cuda\", \"cuda:N\" or \"auto\""),
            )
        };
        match text {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                text.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()).map(Self::Cuda).ok_or_else(unknown)
            }
        }
    }
}

impl Device for Cpu {
    fn open(spec: DeviceSpec, seed: u64) -> Result<Self> {
        match spec.resolve() {
            DeviceSpec::Cpu => Ok(Self::seed_from_u64(seed)),
            other => Err(Error::new(
                ErrorKind::Device,
                format!("an estimator on the CPU was asked to open {other}; choose the device with `with_device!`"),
            )),
        }
    }

    fn name(&self) -> String {
        "cpu".into()
    }
}

#[cfg(feature = "cuda")]
impl Device for Cuda {
    fn open(spec: DeviceSpec, seed: u64) -> Result<Self> {
        let ordinal = match spec.resolve() {
            DeviceSpec::Cuda(ordinal) => ordinal,
            other => {
                let message =
                    format!("an estimator on a GPU was asked to open {other}; choose the device with `with_device!`");
                return Err(Error::new(ErrorKind::Device, message));
            }
        };
        // dfdx panics when the driver's library or the device is missing, so it is asked for under a guard.
        let opened = crate::unwind::catch(|| Self::try_build(ordinal, seed));
        match opened {
            Ok(Ok(device)) => {
                let made = crate::unwind::catch(|| crate::nn::cuda::Context::open(&device));
                let made = made.unwrap_or_else(|message| Err(crate::ModelError::msg(message)));
                made.map_err(|error| error.into_error().at(format!("cannot open cuda:{ordinal}")))?;
                Ok(device)
            }
            Ok(Err(error)) => Err(Error::new(ErrorKind::Device, format!("cannot open cuda:{ordinal}: {error:?}"))),
            Err(message) => Err(Error::new(ErrorKind::Device, format!("cannot open cuda:{ordinal}: {message}"))),
        }
    }

    fn name(&self) -> String {
        match crate::nn::cuda::Context::open(self) {
            Ok(context) => format!("cuda:{}", context.ordinal()),
            Err(_) => "cuda".into(),
        }
    }

    fn tensor_of<S: Shape>(&self, batch: &Record, name: &str, shape: S) -> ModelResult<Tensor<S, Self>> {
        match crate::nn::cuda::upload(self, batch, name, shape)? {
            Some(tensor) => Ok(tensor),
            None => crate::nn::cuda::copy(self, batch.get(name)?, shape),
        }
    }

    fn upload_ahead(&self, batches: Dataset) -> Dataset {
        match crate::nn::cuda::Context::open(self) {
            Ok(context) => crate::nn::cuda::upload_ahead(context, batches),
            // What is wrong with the device shows in the first step.
            Err(_) => batches,
        }
    }

    fn bound_memory(spec: DeviceSpec, fraction: f64) -> Result<()> {
        let DeviceSpec::Cuda(ordinal) = spec.resolve() else { return Ok(()) };
        let bounded = crate::unwind::catch(|| crate::nn::cuda::bound(ordinal, fraction));
        bounded.unwrap_or_else(|message| {
            Err(Error::new(ErrorKind::Device, format!("memory_fraction: cuda:{ordinal}: {message}")))
        })
    }

    fn trim_memory(&self) {
        // dfdx unwraps what a device that has failed says.
        let _ = crate::unwind::catch(|| crate::nn::cuda::trim(self));
    }

    fn memory_held(&self) -> Option<u64> {
        crate::nn::cuda::held()
    }
}

/// Whether this build and this machine have a CUDA device.
pub fn cuda_is_available() -> bool {
    #[cfg(feature = "cuda")]
    {
        matches!(crate::unwind::catch(cudarc::driver::CudaDevice::count), Ok(Ok(count)) if count > 0)
    }
    #[cfg(not(feature = "cuda"))]
    {
        false
    }
}

/// Chooses the device's type at run time: `with_device!(spec, |D| run::<D>(&args))` compiles `run` for every device of
/// this build and calls the one that `spec` names. The block must be of type `elistimator::Result<_>`.
#[macro_export]
macro_rules! with_device {
    ($spec:expr, |$D:ident| $body:expr) => {
        match $crate::device::DeviceSpec::resolve($spec) {
            $crate::device::DeviceSpec::Cpu | $crate::device::DeviceSpec::Auto => {
                type $D = $crate::device::Cpu;
                $body
            }
            chosen => $crate::with_cuda_device!(chosen, |$D| $body),
        }
    };
}

#[cfg(feature = "cuda")]
#[doc(hidden)]
#[macro_export]
macro_rules! with_cuda_device {
    ($chosen:expr, |$D:ident| $body:expr) => {{
        let _ = $chosen;
        type $D = $crate::device::Cuda;
        $body
    }};
}

#[cfg(not(feature = "cuda"))]
#[doc(hidden)]
#[macro_export]
macro_rules! with_cuda_device {
    ($chosen:expr, |$D:ident| $body:expr) => {
        ::std::result::Result::Err($chosen.without_cuda())
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_parse_and_print_the_same_words() {
        for text in ["cpu", "cuda:0", "cuda:3", "auto"] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
        for text in ["gpu", "cuda:", "cuda:-1", "", "cuda:1x"] {
            let error = text.parse::<DeviceSpec>().unwrap_err();
            assert!(error.to_string().contains("expected \"cpu\""), "{error}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn asking_for_a_gpu_without_one_is_an_error() {
        fn run<D: Device>() -> Result<String> {
            Ok(D::open(DeviceSpec::Auto, 0)?.name())
        }
        assert_eq!(with_device!(DeviceSpec::Auto, |D| run::<D>()).unwrap(), "cpu");
        let error = with_device!(DeviceSpec::Cuda(0), |D| run::<D>()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
    }
}
