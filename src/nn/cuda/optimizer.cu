// Updates of many tensors in one launch. The table of tensors is an argument by value, so that nothing is copied to the
// device for it.

#define MOST_TENSORS 48

struct Tensors {
  float *parameter[MOST_TENSORS];
  const float *gradient[MOST_TENSORS];
  float *first[MOST_TENSORS];  // velocity, or first moment
  float *second[MOST_TENSORS]; // second moment
  u64 length[MOST_TENSORS];
  u32 end[MOST_TENSORS]; // the blocks of tensor k are those before end[k] that are not of tensor k - 1
  u32 count;
};

// Which tensor and which element a thread works on; says whether there is one.
DEVICE bool own(const Tensors &t, u32 *tensor, u64 *at) {
  u32 k = 0;
  while (k < t.count && blockIdx.x >= t.end[k]) ++k;
  if (k == t.count) return false;
  *tensor = k;
  *at = (u64)(blockIdx.x - (k ? t.end[k - 1] : 0)) * blockDim.x + threadIdx.x;
  return *at < t.length[k];
}

// v = momentum * v + g, p -= rate * v; or with Nesterov's p -= rate * (g + momentum * v). `first` may be null where the
// momentum is 0. Weight decay is L2 (added to the gradient) or decoupled.
KERNEL(sgd_update, Tensors t, float rate, float momentum, u32 nesterov, float l2, float decoupled) {
  PHASE {
    u32 k;
    u64 i;
    if (own(t, &k, &i)) {
      const float p = t.parameter[k][i];
      const float g = t.gradient[k][i] + l2 * p;
      float update = g;
      if (momentum != 0.0f) {
        const float v = momentum * t.first[k][i] + g;
        t.first[k][i] = v;
        update = nesterov ? g + momentum * v : v;
      }
      t.parameter[k][i] = p - rate * (update + decoupled * p);
    }
  }
}

// Adam (Kingma and Ba 2015): the corrections are 1 - beta^step.
KERNEL(adam_update, Tensors t, float rate, float beta1, float beta2, float epsilon, float correction1, float correction2,
       float l2, float decoupled) {
  PHASE {
    u32 k;
    u64 i;
    if (own(t, &k, &i)) {
      const float p = t.parameter[k][i];
      const float g = t.gradient[k][i] + l2 * p;
      const float m = beta1 * t.first[k][i] + (1.0f - beta1) * g;
      const float v = beta2 * t.second[k][i] + (1.0f - beta2) * g * g;
      t.first[k][i] = m;
      t.second[k][i] = v;
      t.parameter[k][i] = p - rate * ((m / correction1) / (sqrtf(v / correction2) + epsilon) + decoupled * p);
    }
  }
}

// RMSprop as PyTorch computes it: square += (1 - decay) * (g^2 - square). `second` is the velocity, and may be null where the momentum is 0.
KERNEL(rmsprop_update, Tensors t, float rate, float decay, float epsilon, float momentum, float l2) {
  PHASE {
    u32 k;
    u64 i;
    if (own(t, &k, &i)) {
      const float p = t.parameter[k][i];
      const float g = t.gradient[k][i] + l2 * p;
      const float square = t.first[k][i] + (1.0f - decay) * (g * g - t.first[k][i]);
      t.first[k][i] = square;
      float update = g / (sqrtf(square) + epsilon);
      if (momentum != 0.0f) {
        update += momentum * t.second[k][i];
        t.second[k][i] = update;
      }
      t.parameter[k][i] = p - rate * update;
    }
  }
}

// Adagrad (Duchi et al. 2011): the sum of squares begins with `initial`.
KERNEL(adagrad_update, Tensors t, float rate, float initial, float epsilon, float l2) {
  PHASE {
    u32 k;
    u64 i;
    if (own(t, &k, &i)) {
      const float p = t.parameter[k][i];
      const float g = t.gradient[k][i] + l2 * p;
      const float sum = t.first[k][i] + g * g;
      t.first[k][i] = sum;
      t.parameter[k][i] = p - rate * g / (sqrtf(initial + sum) + epsilon);
    }
  }
}

// FTRL-Proximal (McMahan et al. 2013): `first` is the sum of squares, `second` the linear term.
KERNEL(ftrl_update, Tensors t, float rate, float initial, float l1, float l2) {
  PHASE {
    u32 k;
    u64 i;
    if (own(t, &k, &i)) {
      const float g = t.gradient[k][i], before = sqrtf(initial + t.first[k][i]);
      const float sum = t.first[k][i] + g * g, root = sqrtf(initial + sum);
      const float linear = t.second[k][i] + g - (root - before) / rate * t.parameter[k][i];
      t.first[k][i] = sum;
      t.second[k][i] = linear;
      const float shrunk = (linear < 0.0f ? -l1 : l1) - linear;
      t.parameter[k][i] = fabsf(linear) > l1 ? shrunk / (root / rate + 2.0f * l2) : 0.0f;
    }
  }
}

// LAMB (You et al. 2020): the moments are Adam's, the step is -rate * ratio * direction, where the ratio is that of the
// norms of the parameter and of its direction. Corrections are 1 / (1 - beta^step).
struct Lamb {
  float rate, beta1, beta2, epsilon, correction1, correction2, decay;
};

DEVICE float direction(const Lamb &l, float p, float m, float v) {
  return (m * l.correction1) / (sqrtf(v * l.correction2) + l.epsilon) + l.decay * p;
}

// Moves the moments; `partial` receives the sums of squares of each block's parameters and of their directions.
KERNEL(lamb_moments, Tensors t, Lamb l, double *partial) {
  SHARED double parameters[MAX_THREADS], directions[MAX_THREADS];
  PHASE {
    u32 k;
    u64 i;
    double square = 0.0, length = 0.0;
    if (own(t, &k, &i)) {
      const float p = t.parameter[k][i], g = t.gradient[k][i];
      const float m = l.beta1 * t.first[k][i] + (1.0f - l.beta1) * g;
      const float v = l.beta2 * t.second[k][i] + (1.0f - l.beta2) * g * g;
      t.first[k][i] = m;
      t.second[k][i] = v;
      const double u = direction(l, p, m, v);
      square = (double)p * p;
      length = u * u;
    }
    parameters[threadIdx.x] = square;
    directions[threadIdx.x] = length;
  }
  block_sum(parameters);
  block_sum(directions);
  PHASE {
    if (threadIdx.x == 0) {
      partial[2 * (u64)blockIdx.x] = parameters[0];
      partial[2 * (u64)blockIdx.x + 1] = directions[0];
    }
  }
}

// The ratio of each tensor, a block for each, from the sums of its blocks; 1 where a norm is 0.
KERNEL(lamb_ratios, Tensors t, const double *partial, float *ratios) {
  SHARED double parameters[MAX_THREADS], directions[MAX_THREADS];
  PHASE {
    double square = 0.0, length = 0.0;
    for (u64 i = (blockIdx.x ? t.end[blockIdx.x - 1] : 0) + threadIdx.x; i < t.end[blockIdx.x]; i += blockDim.x) {
      square += partial[2 * i];
      length += partial[2 * i + 1];
    }
    parameters[threadIdx.x] = square;
    directions[threadIdx.x] = length;
  }
  block_sum(parameters);
  block_sum(directions);
  PHASE {
    if (threadIdx.x == 0) {
      const bool is_known = parameters[0] > 0.0 && directions[0] > 0.0;
      ratios[blockIdx.x] = is_known ? (float)sqrt(parameters[0] / directions[0]) : 1.0f;
    }
  }
}

KERNEL(lamb_update, Tensors t, Lamb l, const float *ratios) {
  PHASE {
    u32 k;
    u64 i;
    if (own(t, &k, &i)) {
      const float p = t.parameter[k][i];
      t.parameter[k][i] = p - l.rate * ratios[k] * direction(l, p, t.first[k][i], t.second[k][i]);
    }
  }
}
