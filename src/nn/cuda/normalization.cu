// Layer normalisation (Ba, Kiros, Hinton 2016) of rows, a block for each.

// `saved` receives the mean and 1 / sqrt(variance + epsilon) of each row. gamma and beta may be null.
KERNEL(layer_norm, float *y, float *saved, const float *x, const float *gamma, const float *beta, float epsilon,
       u32 columns) {
  SHARED float values[MAX_THREADS];
  const u64 start = (u64)blockIdx.x * columns;
  PHASE {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) sum += x[start + i];
    values[threadIdx.x] = sum;
  }
  block_sum(values);
  PHASE {
    if (threadIdx.x == 0) saved[2 * blockIdx.x] = values[0] / (float)columns;
  }
  PHASE {
    const float mean = saved[2 * blockIdx.x];
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) sum += (x[start + i] - mean) * (x[start + i] - mean);
    values[threadIdx.x] = sum;
  }
  block_sum(values);
  PHASE {
    if (threadIdx.x == 0) saved[2 * blockIdx.x + 1] = 1.0f / sqrtf(values[0] / (float)columns + epsilon);
  }
  PHASE {
    const float mean = saved[2 * blockIdx.x], scale = saved[2 * blockIdx.x + 1];
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) {
      const float normal = (x[start + i] - mean) * scale;
      y[start + i] = (gamma ? gamma[i] * normal : normal) + (beta ? beta[i] : 0.0f);
    }
  }
}

// dx += scale * (g - mean(g) - normal * mean(g * normal)) with g = gamma * dy
KERNEL(layer_norm_backward, float *dx, const float *dy, const float *x, const float *saved, const float *gamma,
       u32 columns) {
  SHARED float sums[MAX_THREADS], products[MAX_THREADS];
  const u64 start = (u64)blockIdx.x * columns;
  PHASE {
    const float mean = saved[2 * blockIdx.x], scale = saved[2 * blockIdx.x + 1];
    float sum = 0.0f, product = 0.0f;
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) {
      const float g = gamma ? gamma[i] * dy[start + i] : dy[start + i];
      sum += g;
      product += g * (x[start + i] - mean) * scale;
    }
    sums[threadIdx.x] = sum;
    products[threadIdx.x] = product;
  }
  block_sum(sums);
  block_sum(products);
  PHASE {
    const float mean = saved[2 * blockIdx.x], scale = saved[2 * blockIdx.x + 1], share = 1.0f / (float)columns;
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) {
      const float g = gamma ? gamma[i] * dy[start + i] : dy[start + i];
      const float normal = (x[start + i] - mean) * scale;
      dx[start + i] += scale * (g - share * sums[0] - normal * share * products[0]);
    }
  }
}

// The sums of dy * normal and of dy down each column, in blocks as those of column_sums.
KERNEL(layer_norm_parameters, float *dgamma, float *dbeta, const float *dy, const float *x, const float *saved, u32 rows,
       u32 columns, u32 rows_per_block, u32 accumulate) {
  SHARED float products[MAX_THREADS], sums[MAX_THREADS];
  PHASE {
    const u32 column = blockIdx.x * COLUMNS_OF_A_BLOCK + threadIdx.x % COLUMNS_OF_A_BLOCK;
    const u32 end = smaller(rows, (blockIdx.y + 1) * rows_per_block);
    float product = 0.0f, sum = 0.0f;
    if (column < columns)
      for (u32 row = blockIdx.y * rows_per_block + threadIdx.x / COLUMNS_OF_A_BLOCK; row < end;
           row += blockDim.x / COLUMNS_OF_A_BLOCK) {
        const u64 i = (u64)row * columns + column;
        product += dy[i] * (x[i] - saved[2 * row]) * saved[2 * row + 1];
        sum += dy[i];
      }
    products[threadIdx.x] = product;
    sums[threadIdx.x] = sum;
  }
  if (dgamma) write_column_sums(dgamma, products, columns, accumulate);
  if (dbeta) write_column_sums(dbeta, sums, columns, accumulate);
}
