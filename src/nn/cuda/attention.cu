// Scaled dot-product attention (Vaswani et al. 2017): what lies between the matrix products, for scores of (batch, heads,
// queries, keys), a block for each row of keys.

#define MOST_ARRAYS 6

// Batches of matrices: the heads of an example are `inner` values apart, examples `outer`.
struct Batches {
  u64 base[MOST_ARRAYS], outer[MOST_ARRAYS], inner[MOST_ARRAYS];
  u32 arrays, heads, count;
};

// The address of each matrix, array by array: what cuBLAS takes.
KERNEL(matrices, u64 *pointers, Batches b) {
  PHASE {
    const u64 i = element();
    if (i < (u64)b.arrays * b.count) {
      const u32 array = (u32)quotient(i, b.count), matrix = modulo(i, b.count);
      const u64 offset = b.outer[array] * (matrix / b.heads) + b.inner[array] * (matrix % b.heads);
      pointers[i] = b.base[array] + offset * sizeof(float);
    }
  }
}

// Which keys a query sees, and which weights fall: those whose bits are below the threshold, others are times `factor`.
struct Seen {
  const u32 *lengths; // of the keys of each example; may be null
  u64 dropout_key;
  u32 heads, queries, keys, causal, threshold;
  float factor;
};

// How many keys the query of this block sees.
DEVICE u32 seen_keys(const Seen &s) {
  const u32 row = blockIdx.x, example = row / s.queries / s.heads;
  const u32 end = s.lengths ? s.lengths[example] : s.keys;
  return s.causal ? smaller(end, row % s.queries + 1) : end;
}

DEVICE float kept(const Seen &s, u32 key) {
  return random_bits(s.dropout_key, (u64)blockIdx.x * s.keys + key) < s.threshold ? 0.0f : s.factor;
}

// Scores become weights: the softmax of the row's seen keys, and 0 for the others. `dropped` receives what is left of the
// weights after the dropout; null without one.
KERNEL(attention_weights, float *scores, float *dropped, float scale, Seen s) {
  SHARED float values[MAX_THREADS], sums[MAX_THREADS];
  const u64 start = (u64)blockIdx.x * s.keys;
  const u32 end = seen_keys(s);
  PHASE {
    float top = LOWEST;
    for (u32 i = threadIdx.x; i < end; i += blockDim.x) {
      const float x = scale * scores[start + i];
      if (x > top || x != x) top = x;
    }
    values[threadIdx.x] = top;
  }
  block_max(values);
  PHASE {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < end; i += blockDim.x) {
      const float x = expf(scale * scores[start + i] - values[0]);
      scores[start + i] = x;
      sum += x;
    }
    sums[threadIdx.x] = sum;
  }
  block_sum(sums);
  PHASE {
    const float share = 1.0f / sums[0];
    for (u32 i = threadIdx.x; i < s.keys; i += blockDim.x) {
      const float weight = i < end ? scores[start + i] * share : 0.0f;
      scores[start + i] = weight;
      if (dropped) dropped[start + i] = weight * kept(s, i);
    }
  }
}

// Gradients of what the values were weighted by become those of the products: scale * w * (d - sum of d * w), where d is
// the gradient through the dropout. `dropped` as above, made once more.
KERNEL(attention_weights_backward, float *gradients, float *dropped, const float *weights, float scale, Seen s) {
  SHARED float values[MAX_THREADS];
  const u64 start = (u64)blockIdx.x * s.keys;
  PHASE {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < s.keys; i += blockDim.x) {
      const float weight = weights[start + i];
      if (dropped) {
        const float factor = kept(s, i);
        dropped[start + i] = weight * factor;
        gradients[start + i] *= factor;
      }
      sum += gradients[start + i] * weight;
    }
    values[threadIdx.x] = sum;
  }
  block_sum(values);
  PHASE {
    for (u32 i = threadIdx.x; i < s.keys; i += blockDim.x)
      gradients[start + i] = scale * weights[start + i] * (gradients[start + i] - values[0]);
  }
}
