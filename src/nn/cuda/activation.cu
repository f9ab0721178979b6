// Activations, alone and together with a bias.

// The numbers of the activations, as Rust passes them.
#define IDENTITY 0
#define RELU 1
#define LEAKY_RELU 2
#define SIGMOID 3
#define TANH 4
#define GELU 5
#define SILU 6

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// A NaN stays a NaN.
DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }

DEVICE float activate(u32 kind, float slope, float x) {
  switch (kind) {
  case RELU: return relu(x);
  case LEAKY_RELU: return x > 0.0f ? x : slope * x;
  case SIGMOID: return sigmoid(x);
  case TANH: return tanhf(x);
  case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
  case SILU: return x * sigmoid(x);
  default: return x;
  }
}

// The derivative, from the output of the activations up to TANH, and from the input of the others. (The leaky ReLU's is
// the same from either where its slope is positive, and is handed the input elsewhere.)
DEVICE float derivative(u32 kind, float slope, float known) {
  switch (kind) {
  case RELU: return known > 0.0f ? 1.0f : 0.0f;
  case LEAKY_RELU: return known > 0.0f ? 1.0f : slope;
  case SIGMOID: return known * (1.0f - known);
  case TANH: return 1.0f - known * known;
  case GELU: {
    const float density = 0.39894228f * expf(-0.5f * known * known);
    return 0.5f * (1.0f + erff(known * 0.70710678f)) + known * density;
  }
  case SILU: {
    const float s = sigmoid(known);
    return s * (1.0f + known * (1.0f - s));
  }
  default: return 1.0f;
  }
}

KERNEL(activation, float *y, const float *x, u32 kind, float slope, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) y[i] = activate(kind, slope, x[i]);
  }
}

// dx += dy * derivative
KERNEL(activation_backward, float *dx, const float *dy, const float *known, u32 kind, float slope, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) dx[i] += dy[i] * derivative(kind, slope, known[i]);
  }
}

// y = activate(z + bias) for z of (count / columns, columns); z may be y. `bias` and `before`, which receives z + bias,
// may be null.
KERNEL(bias_activation, float *y, const float *z, const float *bias, float *before, u32 kind, float slope, u64 count,
       u32 columns) {
  PHASE {
    const u64 i = element();
    if (i < count) {
      const float x = bias ? z[i] + bias[modulo(i, columns)] : z[i];
      if (before) before[i] = x;
      y[i] = activate(kind, slope, x);
    }
  }
}

// The blocks of the two kernels below are 32 columns by blockDim.x / 32 rows, and go down rows_per_block rows: block
// (x, y) writes the sums of its columns to row y of `sums`, or adds them to it.
#define COLUMNS_OF_A_BLOCK 32

DEVICE void write_column_sums(float *sums, const float *values, u32 columns, u32 accumulate) {
  PHASE {
    const u32 column = blockIdx.x * COLUMNS_OF_A_BLOCK + threadIdx.x;
    if (threadIdx.x < COLUMNS_OF_A_BLOCK && column < columns) {
      float sum = 0.0f;
      for (u32 i = threadIdx.x; i < blockDim.x; i += COLUMNS_OF_A_BLOCK) sum += values[i];
      float *to = sums + (u64)blockIdx.y * columns + column;
      *to = accumulate ? *to + sum : sum;
    }
  }
}

// dz = dy * derivative, and the sums of its columns: the gradient of the bias. `sums` may be null.
KERNEL(bias_activation_backward, float *dz, float *sums, const float *dy, const float *known, u32 kind, float slope,
       u32 rows, u32 columns, u32 rows_per_block, u32 accumulate) {
  SHARED float values[MAX_THREADS];
  PHASE {
    const u32 column = blockIdx.x * COLUMNS_OF_A_BLOCK + threadIdx.x % COLUMNS_OF_A_BLOCK;
    const u32 end = smaller(rows, (blockIdx.y + 1) * rows_per_block);
    float sum = 0.0f;
    if (column < columns)
      for (u32 row = blockIdx.y * rows_per_block + threadIdx.x / COLUMNS_OF_A_BLOCK; row < end;
           row += blockDim.x / COLUMNS_OF_A_BLOCK) {
        const u64 i = (u64)row * columns + column;
        const float gradient = dy[i] * derivative(kind, slope, known[i]);
        dz[i] = gradient;
        sum += gradient;
      }
    values[threadIdx.x] = sum;
  }
  if (sums) write_column_sums(sums, values, columns, accumulate);
}

KERNEL(column_sums, float *sums, const float *x, u32 rows, u32 columns, u32 rows_per_block, u32 accumulate) {
  SHARED float values[MAX_THREADS];
  PHASE {
    const u32 column = blockIdx.x * COLUMNS_OF_A_BLOCK + threadIdx.x % COLUMNS_OF_A_BLOCK;
    const u32 end = smaller(rows, (blockIdx.y + 1) * rows_per_block);
    float sum = 0.0f;
    if (column < columns)
      for (u32 row = blockIdx.y * rows_per_block + threadIdx.x / COLUMNS_OF_A_BLOCK; row < end;
           row += blockDim.x / COLUMNS_OF_A_BLOCK)
        sum += x[(u64)row * columns + column];
    values[threadIdx.x] = sum;
  }
  write_column_sums(sums, values, columns, accumulate);
}
