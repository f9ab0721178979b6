//! The operations on CUDA devices: kernels of our own for what would take many launches when composed of dfdx's operations,
//! and cuBLAS for matrix products. dfdx's backend keeps tensors, gradients and everything else; what is done here runs in
//! order with it, since both use the device's default stream.
#![allow(unsafe_code)] // launching kernels and calling cuBLAS is unsafe: this folder alone does it, and says why it is sound

mod ahead;
mod attention;
mod backend;
mod batch_norm;
mod blas;
mod concatenate;
mod context;
mod convolution;
mod crf;
mod ctc;
mod elementwise;
mod embedding;
mod gradient;
mod linear;
mod loss;
mod memory;
mod module;
mod normalization;
mod optimizer;
mod place;
mod pointer;
mod pool;
mod record;
mod recurrent;
mod sum;
mod update;
mod upload;

pub(crate) use ahead::upload_ahead;
pub(crate) use context::Context;
pub(crate) use memory::{bound, error, held, of_panic, trim};
pub(crate) use upload::{copy, upload};

/// dfdx's tensors of one dimension: what pointers, gradients and kernels are about.
type Flat = crate::nn::Tensor<(usize,), dfdx::tensor::Cuda>;
