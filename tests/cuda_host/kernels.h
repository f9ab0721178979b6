#pragma once
// All kernels, in the order in which src/nn/cuda/module.rs joins them.
#include "../../src/nn/cuda/common.cuh"

#include "../../src/nn/cuda/activation.cu"
#include "../../src/nn/cuda/sum.cu"
#include "../../src/nn/cuda/dropout.cu"
#include "../../src/nn/cuda/convolution.cu"
#include "../../src/nn/cuda/pool.cu"
#include "../../src/nn/cuda/loss.cu"
#include "../../src/nn/cuda/recurrent.cu"
#include "../../src/nn/cuda/normalization.cu"
#include "../../src/nn/cuda/embedding.cu"
#include "../../src/nn/cuda/attention.cu"
#include "../../src/nn/cuda/crf.cu"
#include "../../src/nn/cuda/ctc.cu"
#include "../../src/nn/cuda/concatenate.cu"
#include "../../src/nn/cuda/optimizer.cu"
#include "../../src/nn/cuda/gradient.cu"
