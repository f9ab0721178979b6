//! The operations that a device brings beyond dfdx's own. Not public: it seals [`crate::Device`].

use dfdx::tensor::Cpu;
#[cfg(feature = "cuda")]
use dfdx::tensor::Cuda;

/// dfdx's device with our fused operations; the bodies given here are composed of stock operations and hold on every
/// device, so that they are the oracle of the faster ones.
pub trait Backend:
    dfdx::tensor_ops::Device<f32> + dfdx::tensor::HasErr<Err: Send + Sync + 'static> + Send + Sync + 'static
{
    /// Whether reading a value from the device costs nothing.
    const READS_ARE_FREE: bool = false;
}

impl Backend for Cpu {
    const READS_ARE_FREE: bool = true;
}

#[cfg(feature = "cuda")]
impl Backend for Cuda {}
