//! Buffers that are used over and over: a fresh large vector costs more in page faults than in arithmetic.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use dfdx::shapes::Shape;
use dfdx::tensor::Cpu;

use crate::nn::Tensor;

static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Values in the buffers kept for later, at most.
const KEPT: usize = 1 << 26;

/// A buffer from the pool, which goes back to it.
#[derive(Debug)]
pub(super) struct Scratch {
    values: Vec<f32>,
    len: usize,
}

impl Scratch {
    /// A buffer of `len` values that were left there by someone else.
    pub(super) fn dirty(len: usize) -> Self {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, unless most of it would lie idle.
        let fits = |v: &Vec<f32>| v.len() >= len && v.len() / 2 <= len + 1024;
        let chosen = pool.iter().enumerate().filter(|(_, v)| fits(v)).min_by_key(|(_, v)| v.len()).map(|(at, _)| at);
        let mut values = chosen.map(|at| pool.remove(at)).unwrap_or_default();
        drop(pool);
        if values.len() < len {
            values = vec![0.0; len];
        }
        Self { values, len }
    }

    /// A buffer of zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let mut scratch = Self::dirty(len);
        scratch.fill(0.0);
        scratch
    }

    /// A copy of a contiguous tensor's values.
    pub(super) fn copy_of<S: Shape>(tensor: &Tensor<S, Cpu>) -> Self {
        let mut scratch = Self::dirty(tensor_len(tensor));
        tensor.copy_into(&mut scratch);
        scratch
    }
}

fn tensor_len<S: Shape>(tensor: &Tensor<S, Cpu>) -> usize {
    dfdx::shapes::HasShape::shape(tensor).num_elements()
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        if values.is_empty() {
            return;
        }
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.push(values);
        // Those that were not wanted for longest go first.
        let mut kept: usize = pool.iter().map(Vec::len).sum();
        while kept > KEPT {
            kept -= pool.remove(0).len();
        }
    }
}
