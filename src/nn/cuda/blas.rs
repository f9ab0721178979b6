//! Matrix products by cuBLAS, in row-major terms.

use std::sync::PoisonError;

use cudarc::cublas::{result, sys, sys::cublasOperation_t as Operation};
use dfdx::tensor::CudaError;

use super::context::Context;

/// A row-major matrix in memory, and whether its transpose is meant.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pointer: u64,
    /// The length of a row in memory.
    row: u32,
    operation: Operation,
    /// From one matrix of a batch to the next.
    step: u64,
}

impl Matrix {
    pub(super) fn new(pointer: u64, row: u32) -> Self {
        Self { pointer, row, operation: Operation::CUBLAS_OP_N, step: 0 }
    }

    pub(super) fn transposed(self) -> Self {
        Self { operation: Operation::CUBLAS_OP_T, ..self }
    }

    pub(super) fn batched(self, step: usize) -> Self {
        Self { step: step as u64, ..self }
    }
}

/// What happens to the values that are there.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Onto {
    Replace,
    Add,
}

impl Context {
    /// `c = a · b` or `c += a · b` with `a` of (m, k) and `b` of (k, n), for each matrix of a batch.
    ///
    /// # Safety
    /// The three matrices must be of these sizes after their transposition, in valid memory of this device, and `c` must
    /// not overlap the others or be borrowed. Sizes are at most `i32::MAX`, which [`size`](super::context::size) checks.
    pub(super) unsafe fn multiply(
        &self,
        (m, n, k): (u32, u32, u32),
        a: Matrix,
        b: Matrix,
        c: Matrix,
        onto: Onto,
        batch: u32,
    ) -> Result<(), CudaError> {
        if m == 0 || n == 0 || batch == 0 {
            return Ok(());
        }
        self.device.bind_to_thread()?;
        let blas = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        let (alpha, beta) = (1.0f32, if onto == Onto::Add { 1.0f32 } else { 0.0 });
        let row = |matrix: Matrix| matrix.row.max(1) as i32;
        // cuBLAS counts by columns: what is a row-major matrix here is its transpose there, so c' = b' · a' is computed.
        // SAFETY: that of this function; alpha and beta are read before the call returns.
        let done = unsafe {
            if batch == 1 {
                result::sgemm(
                    *blas.handle(),
                    b.operation,
                    a.operation,
                    n as i32,
                    m as i32,
                    k as i32,
                    &raw const alpha,
                    b.pointer as *const f32,
                    row(b),
                    a.pointer as *const f32,
                    row(a),
                    &raw const beta,
                    c.pointer as *mut f32,
                    row(c),
                )
            } else {
                result::sgemm_strided_batched(
                    *blas.handle(),
                    b.operation,
                    a.operation,
                    n as i32,
                    m as i32,
                    k as i32,
                    &raw const alpha,
                    b.pointer as *const f32,
                    row(b),
                    b.step as i64,
                    a.pointer as *const f32,
                    row(a),
                    a.step as i64,
                    &raw const beta,
                    c.pointer as *mut f32,
                    row(c),
                    c.step as i64,
                    batch as i32,
                )
            }
        };
        Ok(done?)
    }
    /// The same for matrices that lie anywhere: each [`Matrix`] points to the addresses, on the device, of as many matrices
    /// as the batch has.
    ///
    /// # Safety
    /// That of [`multiply`](Self::multiply), for all matrices of the batch, and the addresses must be valid as the matrices
    /// are.
    pub(super) unsafe fn multiply_each(
        &self,
        (m, n, k): (u32, u32, u32),
        a: Matrix,
        b: Matrix,
        c: Matrix,
        onto: Onto,
        batch: u32,
    ) -> Result<(), CudaError> {
        if m == 0 || n == 0 || batch == 0 {
            return Ok(());
        }
        self.device.bind_to_thread()?;
        let blas = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        let (alpha, beta) = (1.0f32, if onto == Onto::Add { 1.0f32 } else { 0.0 });
        let row = |matrix: Matrix| matrix.row.max(1) as i32;
        // SAFETY: that of this function; alpha and beta are read before the call returns. Counted by columns as above.
        let done = unsafe {
            sys::cublasSgemmBatched(
                *blas.handle(),
                b.operation,
                a.operation,
                n as i32,
                m as i32,
                k as i32,
                &raw const alpha,
                b.pointer as *const *const f32,
                row(b),
                a.pointer as *const *const f32,
                row(a),
                &raw const beta,
                c.pointer as *const *mut f32,
                row(c),
                batch as i32,
            )
        };
        Ok(done.result()?)
    }
}
