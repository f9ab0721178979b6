// Arithmetic on one parameter's gradient.

// Between -limit and limit; NaN stays NaN.
KERNEL(clip_value, float *g, float limit, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) g[i] = g[i] > limit ? limit : g[i] < -limit ? -limit : g[i];
  }
}

// sums[block] = the sum of the squares of the block's values; row_sums adds those up.
KERNEL(square_sums, float *sums, const float *x, u64 per_block, u64 count) {
  SHARED float values[MAX_THREADS];
  PHASE {
    const u64 start = blockIdx.x * per_block, end = start + per_block < count ? start + per_block : count;
    float sum = 0.0f;
    for (u64 i = start + threadIdx.x; i < end; i += blockDim.x) sum += x[i] * x[i];
    values[threadIdx.x] = sum;
  }
  block_sum(values);
  PHASE {
    if (threadIdx.x == 0) sums[blockIdx.x] = values[0];
  }
}

KERNEL(scale, float *x, const float *factor, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) x[i] *= factor[0];
  }
}

KERNEL(add_weighted, float *sum, const float *x, float weight, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) sum[i] += weight * x[i];
  }
}
