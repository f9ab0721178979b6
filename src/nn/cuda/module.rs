//! The kernels: compiled when a device is first used, for its architecture.

use std::collections::BTreeMap;
use std::sync::Arc;

use cudarc::driver::{CudaDevice, CudaFunction, sys::CUdevice_attribute_enum as Attribute};
use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};

use crate::{ModelError, ModelResult};

/// All kernels as one program, the parts that others use first.
const SOURCE: &str = concat!(
    include_str!("common.cuh"),
    include_str!("activation.cu"),
    include_str!("sum.cu"),
    include_str!("dropout.cu"),
    include_str!("convolution.cu"),
    include_str!("pool.cu"),
    include_str!("loss.cu"),
    include_str!("recurrent.cu"),
    include_str!("normalization.cu"),
    include_str!("embedding.cu"),
    include_str!("attention.cu"),
    include_str!("crf.cu"),
    include_str!("ctc.cu"),
    include_str!("concatenate.cu"),
    include_str!("optimizer.cu"),
    include_str!("gradient.cu"),
);

/// The kernels that are launched from Rust.
const KERNELS: [&str; 62] = [
    "probe",
    "activation",
    "activation_backward",
    "bias_activation",
    "bias_activation_backward",
    "column_sums",
    "row_sums",
    "row_sums_backward",
    "middle_sums",
    "middle_sums_backward",
    "dropout",
    "im2col",
    "col2im",
    "convolution_output",
    "convolution_output_backward",
    "pool_output",
    "pool_output_backward",
    "max_pool",
    "max_pool_backward",
    "average_pool",
    "average_pool_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_parameters",
    "embedding",
    "embedding_backward",
    "bag_sums",
    "bag_sums_backward",
    "channel_moments",
    "channel_statistics",
    "batch_norm",
    "batch_norm_sums",
    "batch_norm_parameters",
    "batch_norm_backward",
    "matrices",
    "attention_weights",
    "attention_weights_backward",
    "crf",
    "crf_backward",
    "crf_transitions",
    "crf_parameters",
    "ctc_backward",
    "join_columns",
    "join_columns_backward",
    "lstm_step",
    "lstm_step_backward",
    "gru_step",
    "gru_step_backward",
    "sgd_update",
    "adam_update",
    "rmsprop_update",
    "adagrad_update",
    "ftrl_update",
    "lamb_moments",
    "lamb_ratios",
    "lamb_update",
    "clip_value",
    "square_sums",
    "scale",
    "add_weighted",
];

/// Compiles and loads the kernels.
pub(super) fn load(device: &Arc<CudaDevice>) -> ModelResult<BTreeMap<&'static str, CudaFunction>> {
    let ptx = compile(architecture(device))?;
    let names = KERNELS;
    device.load_ptx(ptx, "elistimator", &names).map_err(|error| {
        ModelError::msg(format!(
            "the CUDA driver does not load this library's kernels ({error:?}): it must be as new as the CUDA toolkit that \
             the program was built with"
        ))
    })?;
    names
        .into_iter()
        .map(|name| {
            let function = device.get_func("elistimator", name);
            let function = function.ok_or_else(|| ModelError::msg(format!("the CUDA kernel {name} was not loaded")))?;
            Ok((name, function))
        })
        .collect()
}

/// The compiler's name for the device, among those that all toolkits of today know; others run what is compiled for the
/// nearest older one.
fn architecture(device: &CudaDevice) -> &'static str {
    let major = device.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).unwrap_or(0);
    let minor = device.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR).unwrap_or(0);
    match (major, minor) {
        (9.., _) => "compute_90",
        (8, 9..) => "compute_89",
        (8, 6..) => "compute_86",
        (8, _) => "compute_80",
        _ => "compute_75",
    }
}

fn compile(architecture: &'static str) -> ModelResult<cudarc::nvrtc::Ptx> {
    let options = CompileOptions { arch: Some(architecture), ..CompileOptions::default() };
    compile_ptx_with_opts(SOURCE, options).map_err(|error| {
        let reason = match &error {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            other => format!("{other:?}"),
        };
        ModelError::msg(format!("this library's CUDA kernels do not compile for {architecture}: {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_compile_without_a_gpu() {
        for architecture in ["compute_75", "compute_80", "compute_86", "compute_89", "compute_90"] {
            let ptx = compile(architecture).unwrap().to_src();
            for name in KERNELS {
                assert!(ptx.contains(&format!(".entry {name}(")), "{name} for {architecture}");
            }
        }
    }
}
