// Convolutions as matrix products: `columns` is a matrix of (channels * kernel height * kernel width) rows and
// (batch * output pixels) columns, and the convolution before its bias one of (out channels) rows and as many columns.

struct Window {
  u32 batch, channels, height, width;
  u32 kernel_height, kernel_width, stride_height, stride_width, dilation_height, dilation_width;
  u32 pad_height, pad_width, out_height, out_width;
};

// Where output coordinate `out` of a window sees input coordinate `in` through kernel cell `cell`: sets `out` and says
// whether there is such a one.
DEVICE bool covering(u32 in, u32 cell, u32 pad, u32 dilation, u32 stride, u32 outs, u32 *out) {
  const u32 reach = cell * dilation;
  if (in + pad < reach) return false;
  const u32 at = in + pad - reach;
  *out = at / stride;
  return at % stride == 0 && *out < outs;
}

KERNEL(im2col, float *columns, const float *images, Window w) {
  PHASE {
    const u32 pixels = w.out_height * w.out_width, count = w.batch * pixels;
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column < count) {
      const u32 image = column / pixels, pixel = column % pixels;
      const u32 top = pixel / w.out_width * w.stride_height, left = pixel % w.out_width * w.stride_width;
      const u32 cells = w.kernel_height * w.kernel_width, depth = w.channels * cells;
      for (u32 row = blockIdx.y; row < depth; row += gridDim.y) {
        const u32 channel = row / cells, cell = row % cells;
        // Above and to the left of the image these wrap around to numbers beyond its size.
        const u32 y = top + cell / w.kernel_width * w.dilation_height - w.pad_height;
        const u32 x = left + cell % w.kernel_width * w.dilation_width - w.pad_width;
        const u64 plane = (u64)image * w.channels + channel;
        columns[(u64)row * count + column] =
            y < w.height && x < w.width ? images[(plane * w.height + y) * w.width + x] : 0.0f;
      }
    }
  }
}

// images += the sum of the columns' values that im2col took from each pixel.
KERNEL(col2im, float *images, const float *columns, Window w) {
  PHASE {
    const u32 pixels = w.out_height * w.out_width, count = w.batch * pixels;
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < w.height * w.width) {
      const u32 y = at / w.width, x = at % w.width;
      for (u32 plane = blockIdx.y; plane < w.batch * w.channels; plane += gridDim.y) {
        const u32 image = plane / w.channels, channel = plane % w.channels;
        float sum = 0.0f;
        for (u32 i = 0; i < w.kernel_height; ++i) {
          u32 out_y;
          if (!covering(y, i, w.pad_height, w.dilation_height, w.stride_height, w.out_height, &out_y)) continue;
          for (u32 j = 0; j < w.kernel_width; ++j) {
            u32 out_x;
            if (!covering(x, j, w.pad_width, w.dilation_width, w.stride_width, w.out_width, &out_x)) continue;
            const u64 row = ((u64)channel * w.kernel_height + i) * w.kernel_width + j;
            sum += columns[row * count + image * pixels + out_y * w.out_width + out_x];
          }
        }
        images[(u64)plane * w.height * w.width + at] += sum;
      }
    }
  }
}

// From z of (channels, batch * pixels) to y of (batch, channels, pixels) with bias and activation. `bias` and `before`,
// which receives y before the activation, may be null.
KERNEL(convolution_output, float *y, const float *z, const float *bias, float *before, u32 kind, float slope, u32 batch,
       u32 channels, u32 pixels) {
  PHASE {
    const u32 count = batch * pixels, column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column < count)
      for (u32 channel = blockIdx.y; channel < channels; channel += gridDim.y) {
        const float x = z[(u64)channel * count + column] + (bias ? bias[channel] : 0.0f);
        const u64 to = ((u64)(column / pixels) * channels + channel) * pixels + column % pixels;
        if (before) before[to] = x;
        y[to] = activate(kind, slope, x);
      }
  }
}

// The way back: dz of (channels, batch * pixels), and in `sums` of (channels, gridDim.x) the sums of each block's
// columns_per_block columns; `sums` may be null.
KERNEL(convolution_output_backward, float *dz, float *sums, const float *dy, const float *known, u32 kind, float slope,
       u32 batch, u32 channels, u32 pixels, u32 columns_per_block) {
  SHARED float values[MAX_THREADS];
  for (u32 channel = blockIdx.y; channel < channels; channel += gridDim.y) {
    PHASE {
      const u32 count = batch * pixels, start = blockIdx.x * columns_per_block;
      const u32 end = start + smaller(count - start, columns_per_block);
      float sum = 0.0f;
      for (u32 column = start + threadIdx.x; column < end; column += blockDim.x) {
        const u64 from = ((u64)(column / pixels) * channels + channel) * pixels + column % pixels;
        const float gradient = dy[from] * derivative(kind, slope, known[from]);
        dz[(u64)channel * count + column] = gradient;
        sum += gradient;
      }
      values[threadIdx.x] = sum;
    }
    if (sums) {
      block_sum(values);
      PHASE {
        if (threadIdx.x == 0) sums[(u64)channel * gridDim.x + blockIdx.x] = values[0];
      }
    }
  }
}

// The sizes of a convolution's output and of the pool that follows.
struct Pool {
  u32 batch, channels, height, width;
  u32 pool_height, pool_width, out_height, out_width;
};

// relu(max(z) + bias), which is max(relu(z + bias)), over windows that do not overlap; `cells` receives which cell of its
// window was the largest, the first of equal ones.
KERNEL(pool_output, float *y, u8 *cells, const float *z, const float *bias, Pool p) {
  PHASE {
    const u32 pixels = p.out_height * p.out_width, at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < p.batch * pixels) {
      const u32 image = at / pixels, pixel = at % pixels;
      const u32 top = pixel / p.out_width * p.pool_height, left = pixel % p.out_width * p.pool_width;
      for (u32 channel = blockIdx.y; channel < p.channels; channel += gridDim.y) {
        const float *window = z + ((u64)channel * p.batch + image) * p.height * p.width + (u64)top * p.width + left;
        float best = window[0];
        u32 cell = 0;
        for (u32 i = 0; i < p.pool_height; ++i)
          for (u32 j = 0; j < p.pool_width; ++j) {
            const float x = window[(u64)i * p.width + j];
            if (x > best || x != x) {
              best = x;
              cell = i * p.pool_width + j;
            }
          }
        const u64 to = ((u64)image * p.channels + channel) * pixels + pixel;
        y[to] = relu(best + (bias ? bias[channel] : 0.0f));
        cells[to] = (u8)cell;
      }
    }
  }
}

// The way back, as convolution_output_backward: every element of dz is written.
KERNEL(pool_output_backward, float *dz, float *sums, const float *dy, const float *y, const u8 *cells, Pool p,
       u32 columns_per_block) {
  SHARED float values[MAX_THREADS];
  for (u32 channel = blockIdx.y; channel < p.channels; channel += gridDim.y) {
    PHASE {
      const u32 plane = p.height * p.width, count = p.batch * plane, start = blockIdx.x * columns_per_block;
      const u32 end = start + smaller(count - start, columns_per_block);
      float sum = 0.0f;
      for (u32 column = start + threadIdx.x; column < end; column += blockDim.x) {
        const u32 image = column / plane, row = column % plane / p.width, x = column % plane % p.width;
        const u32 out_y = row / p.pool_height, out_x = x / p.pool_width;
        float gradient = 0.0f;
        if (out_y < p.out_height && out_x < p.out_width) {
          const u64 from = (((u64)image * p.channels + channel) * p.out_height + out_y) * p.out_width + out_x;
          const u32 cell = row % p.pool_height * p.pool_width + x % p.pool_width;
          if (cells[from] == cell && y[from] > 0.0f) gradient = dy[from];
        }
        dz[(u64)channel * count + column] = gradient;
        sum += gradient;
      }
      values[threadIdx.x] = sum;
    }
    if (sums) {
      block_sum(values);
      PHASE {
        if (threadIdx.x == 0) sums[(u64)channel * gridDim.x + blockIdx.x] = values[0];
      }
    }
  }
}
