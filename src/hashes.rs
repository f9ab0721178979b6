//! A run's state as two numbers, to compare runs bit by bit.

use crate::nn::variables::{self, Shared};
use crate::{Device, Elistimator, ModelError, ModelFn, Result};

/// Hashes of the exact bits of a run's state: equal for two runs whose weights and whose optimisers are bit-identical.
/// Printed, they are a line that `diff` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashes {
    /// Of names, shapes and values of all parameters, and of the counts of the random streams.
    pub weights: u64,
    /// Of names, shapes and values of the optimiser's state.
    pub optimizer: u64,
}

impl std::fmt::Display for Hashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "weights={:016x} optimizer={:016x}", self.weights, self.optimizer)
    }
}

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// Hashes the state: the way to see that a resumed run is the run that was not broken.
    ///
    /// # Errors
    /// Those of the device.
    pub fn hashes(&self) -> Result<Hashes> {
        let (tensors, counters) = variables::read(&self.net).map_err(ModelError::into_error)?;
        let moments = self.optimizer.shared_tensors(&self.net).map_err(ModelError::into_error)?;
        let mut weights = Fnv::new();
        weights.tensors(&tensors);
        for (name, calls) in &counters {
            weights.bytes(name.as_bytes());
            weights.bytes(&calls.to_le_bytes());
        }
        let mut optimizer = Fnv::new();
        optimizer.tensors(&moments);
        Ok(Hashes { weights: weights.0, optimizer: optimizer.0 })
    }
}

/// FNV-1a with 64 bits: the same on every machine and in every version.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn tensors(&mut self, tensors: &[Shared]) {
        for (name, dims, values) in tensors {
            self.bytes(name.as_bytes());
            dims.iter().for_each(|&dim| self.bytes(&(dim as u64).to_le_bytes()));
            values.iter().for_each(|value| self.bytes(&value.to_bits().to_le_bytes()));
        }
    }
}
