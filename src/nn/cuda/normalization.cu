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

// Batch normalisation (Ioffe and Szegedy 2015) of the channels of (batch, channels, pixels). Blocks (x, y) of the kernels
// that sum over a channel take channel x and the values from y * per_block on, counted over all its planes.

struct Planes {
  u32 batch, channels, pixels;
};

// Where value i of a channel is.
DEVICE u64 of_channel(const Planes &p, u32 channel, u64 i) {
  return (quotient(i, p.pixels) * p.channels + channel) * p.pixels + modulo(i, p.pixels);
}

// The mean and the sum of squared deviations of each part of a channel: partial is (channels, parts, 2).
KERNEL(channel_moments, float *partial, const float *x, Planes p, u64 per_block) {
  SHARED float values[MAX_THREADS], mean;
  const u64 count = (u64)p.batch * p.pixels, start = blockIdx.y * per_block;
  const u64 end = start + per_block < count ? start + per_block : count;
  float *to = partial + 2 * ((u64)blockIdx.x * gridDim.y + blockIdx.y);
  PHASE {
    float sum = 0.0f;
    for (u64 i = start + threadIdx.x; i < end; i += blockDim.x) sum += x[of_channel(p, blockIdx.x, i)];
    values[threadIdx.x] = sum;
  }
  block_sum(values);
  PHASE {
    if (threadIdx.x == 0) to[0] = mean = values[0] / (float)(end - start);
  }
  PHASE {
    float sum = 0.0f;
    for (u64 i = start + threadIdx.x; i < end; i += blockDim.x) {
      const float deviation = x[of_channel(p, blockIdx.x, i)] - mean;
      sum += deviation * deviation;
    }
    values[threadIdx.x] = sum;
  }
  block_sum(values);
  PHASE {
    if (threadIdx.x == 0) to[1] = values[0];
  }
}

// The mean and the (biased) variance of each channel from those of its parts (Chan, Golub, LeVeque 1979).
KERNEL(channel_statistics, float *mean, float *variance, const float *partial, Planes p, u64 per_block, u32 parts) {
  PHASE {
    const u64 channel = element(), count = (u64)p.batch * p.pixels;
    if (channel < p.channels) {
      double middle = 0.0, squares = 0.0;
      for (u32 part = 0; part < parts; ++part) {
        const u64 before = part * per_block, own = before + per_block < count ? per_block : count - before;
        const float *from = partial + 2 * (channel * parts + part);
        const double distance = from[0] - middle, share = (double)own / (double)(before + own);
        middle += distance * share;
        squares += from[1] + distance * distance * share * (double)before;
      }
      mean[channel] = (float)middle;
      variance[channel] = (float)(squares / (double)count);
    }
  }
}

KERNEL(batch_norm, float *y, const float *x, const float *mean, const float *variance, const float *gamma,
       const float *beta, float epsilon, Planes p, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) {
      const u32 channel = modulo(quotient(i, p.pixels), p.channels);
      const float normal = (x[i] - mean[channel]) * (1.0f / sqrtf(variance[channel] + epsilon));
      y[i] = normal * gamma[channel] + beta[channel];
    }
  }
}

// The sums of dy * normal and of dy over each part of a channel: partial is (channels, parts, 2).
KERNEL(batch_norm_sums, float *partial, const float *dy, const float *x, const float *mean, const float *variance,
       float epsilon, Planes p, u64 per_block) {
  SHARED float products[MAX_THREADS], sums[MAX_THREADS];
  const u64 count = (u64)p.batch * p.pixels, start = blockIdx.y * per_block;
  const u64 end = start + per_block < count ? start + per_block : count;
  PHASE {
    const float middle = mean[blockIdx.x], scale = 1.0f / sqrtf(variance[blockIdx.x] + epsilon);
    float product = 0.0f, sum = 0.0f;
    for (u64 i = start + threadIdx.x; i < end; i += blockDim.x) {
      const u64 at = of_channel(p, blockIdx.x, i);
      product += dy[at] * (x[at] - middle) * scale;
      sum += dy[at];
    }
    products[threadIdx.x] = product;
    sums[threadIdx.x] = sum;
  }
  block_sum(products);
  block_sum(sums);
  PHASE {
    if (threadIdx.x == 0) {
      float *to = partial + 2 * ((u64)blockIdx.x * gridDim.y + blockIdx.y);
      to[0] = products[0];
      to[1] = sums[0];
    }
  }
}

// Adds the sums to the parameters' gradients; `totals` receives them for each channel.
KERNEL(batch_norm_parameters, float *dgamma, float *dbeta, float *totals, const float *partial, u32 channels, u32 parts) {
  PHASE {
    const u64 channel = element();
    if (channel < channels) {
      float product = 0.0f, sum = 0.0f;
      for (u32 part = 0; part < parts; ++part) {
        product += partial[2 * (channel * parts + part)];
        sum += partial[2 * (channel * parts + part) + 1];
      }
      totals[2 * channel] = product;
      totals[2 * channel + 1] = sum;
      dgamma[channel] += product;
      dbeta[channel] += sum;
    }
  }
}

// dx += gamma * scale * (dy - mean(dy) - normal * mean(dy * normal)); without the means, so that `share` is 0 and not
// 1 / (batch * pixels), where the statistics were given.
KERNEL(batch_norm_backward, float *dx, const float *dy, const float *x, const float *mean, const float *variance,
       const float *gamma, const float *totals, float epsilon, float share, Planes p, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) {
      const u32 channel = modulo(quotient(i, p.pixels), p.channels);
      const float scale = 1.0f / sqrtf(variance[channel] + epsilon), normal = (x[i] - mean[channel]) * scale;
      const float from_means = share ? share * (totals[2 * channel + 1] + normal * totals[2 * channel]) : 0.0f;
      dx[i] += gamma[channel] * scale * (dy[i] - from_means);
    }
  }
}
