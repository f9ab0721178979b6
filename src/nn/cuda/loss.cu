// Softmax cross-entropy, a block for each row: weight * sum over c of target[c] * -log_softmax(logits)[c].

// Either `dense` holds the targets, or the target of class c is
// class_weights[c] * ((1 - smoothing) * [c is the label] + smoothing / classes), where class_weights may be null.
struct Targets {
  const float *dense;
  const u32 *labels;
  const float *class_weights;
  float smoothing;
  u32 classes;
};

DEVICE float target(const Targets &t, u32 row, u32 c) {
  if (t.dense) return t.dense[(u64)row * t.classes + c];
  const float value = (t.labels[row] == c ? 1.0f - t.smoothing : 0.0f) + t.smoothing / (float)t.classes;
  return t.class_weights ? t.class_weights[c] * value : value;
}

// `saved` receives of each row the largest logit, log(sum(exp(logits - largest))), and the sum of the targets: differences
// from the largest are exact where the logits are large and the sum of the two would not be. A row whose weight is 0 may hold
// anything.
KERNEL(cross_entropy, float *loss, float *saved, const float *logits, const float *row_weights, Targets t) {
  SHARED float values[MAX_THREADS], sums[MAX_THREADS], maximum;
  const float *x = logits + (u64)blockIdx.x * t.classes;
  PHASE {
    float top = LOWEST;
    for (u32 c = threadIdx.x; c < t.classes; c += blockDim.x)
      if (x[c] > top || x[c] != x[c]) top = x[c];
    values[threadIdx.x] = top;
  }
  block_max(values);
  PHASE {
    if (threadIdx.x == 0) maximum = values[0];
  }
  PHASE {
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < t.classes; c += blockDim.x) sum += expf(x[c] - maximum);
    sums[threadIdx.x] = sum;
  }
  block_sum(sums);
  PHASE {
    if (threadIdx.x == 0) {
      saved[3 * blockIdx.x] = maximum;
      saved[3 * blockIdx.x + 1] = logf(sums[0]);
    }
  }
  PHASE {
    const float log_sum = saved[3 * blockIdx.x + 1];
    float product = 0.0f, total = 0.0f;
    for (u32 c = threadIdx.x; c < t.classes; c += blockDim.x) {
      const float share = target(t, blockIdx.x, c);
      total += share;
      // A class that nothing is expected of may have a logit of minus infinity.
      if (share != 0.0f) product += share * (log_sum + (maximum - x[c]));
    }
    values[threadIdx.x] = product;
    sums[threadIdx.x] = total;
  }
  block_sum(values);
  block_sum(sums);
  PHASE {
    if (threadIdx.x == 0) {
      const float weight = row_weights[blockIdx.x];
      loss[blockIdx.x] = weight == 0.0f ? 0.0f : weight * values[0];
      saved[3 * blockIdx.x + 2] = sums[0];
    }
  }
}

KERNEL(cross_entropy_backward, float *dlogits, const float *dloss, const float *saved, const float *logits,
       const float *row_weights, Targets t) {
  PHASE {
    const u32 row = blockIdx.x;
    const float weight = row_weights[row], factor = dloss[row] * weight;
    const float largest = saved[3 * row], log_sum = saved[3 * row + 1], total = saved[3 * row + 2];
    if (weight != 0.0f)
      for (u32 c = threadIdx.x; c < t.classes; c += blockDim.x) {
        const u64 i = (u64)row * t.classes + c;
        dlogits[i] += factor * (total * expf(logits[i] - largest - log_sum) - target(t, row, c));
      }
  }
}
