// Pools over every channel; windows may overlap and reach into the padding, which is never the largest and never counted.

#define NOWHERE 0xffffffffu

// `at` receives the pixel of the plane that was the largest, the first of equal ones.
KERNEL(max_pool, float *y, u32 *at, const float *x, Window w) {
  PHASE {
    const u32 pixels = w.out_height * w.out_width, pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel < pixels)
      for (u32 plane = blockIdx.y; plane < w.batch * w.channels; plane += gridDim.y) {
        const float *image = x + (u64)plane * w.height * w.width;
        const u32 top = pixel / w.out_width * w.stride_height, left = pixel % w.out_width * w.stride_width;
        float best = -3.40282347e38f;
        u32 where = NOWHERE;
        for (u32 i = 0; i < w.kernel_height; ++i)
          for (u32 j = 0; j < w.kernel_width; ++j) {
            const u32 row = top + i * w.dilation_height - w.pad_height, column = left + j * w.dilation_width - w.pad_width;
            if (row >= w.height || column >= w.width) continue;
            const float value = image[row * w.width + column];
            if (where == NOWHERE || value > best || value != value) {
              best = value;
              where = row * w.width + column;
            }
          }
        y[(u64)plane * pixels + pixel] = best;
        at[(u64)plane * pixels + pixel] = where;
      }
  }
}

// dx += dy of the windows whose largest value each pixel was.
KERNEL(max_pool_backward, float *dx, const float *dy, const u32 *at, Window w) {
  PHASE {
    const u32 pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel < w.height * w.width)
      for (u32 plane = blockIdx.y; plane < w.batch * w.channels; plane += gridDim.y) {
        float sum = 0.0f;
        for (u32 i = 0; i < w.kernel_height; ++i)
          for (u32 j = 0; j < w.kernel_width; ++j) {
            u32 y, x;
            if (!covering(pixel / w.width, i, w.pad_height, w.dilation_height, w.stride_height, w.out_height, &y)) continue;
            if (!covering(pixel % w.width, j, w.pad_width, w.dilation_width, w.stride_width, w.out_width, &x)) continue;
            const u64 window = ((u64)plane * w.out_height + y) * w.out_width + x;
            if (at[window] == pixel) sum += dy[window];
          }
        dx[(u64)plane * w.height * w.width + pixel] += sum;
      }
  }
}

// How many cells of the window at `out` lie within `size`.
DEVICE u32 cells_inside(u32 out, u32 kernel, u32 stride, u32 dilation, u32 pad, u32 size) {
  u32 inside = 0;
  for (u32 cell = 0; cell < kernel; ++cell) inside += out * stride + cell * dilation - pad < size;
  return inside;
}

DEVICE float share(u32 y, u32 x, const Window &w) {
  const u32 rows = cells_inside(y, w.kernel_height, w.stride_height, w.dilation_height, w.pad_height, w.height);
  const u32 columns = cells_inside(x, w.kernel_width, w.stride_width, w.dilation_width, w.pad_width, w.width);
  return rows > 0 && columns > 0 ? 1.0f / (float)(rows * columns) : 0.0f;
}

KERNEL(average_pool, float *y, const float *x, Window w) {
  PHASE {
    const u32 pixels = w.out_height * w.out_width, pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel < pixels)
      for (u32 plane = blockIdx.y; plane < w.batch * w.channels; plane += gridDim.y) {
        const float *image = x + (u64)plane * w.height * w.width;
        const u32 out_y = pixel / w.out_width, out_x = pixel % w.out_width;
        float sum = 0.0f;
        for (u32 i = 0; i < w.kernel_height; ++i)
          for (u32 j = 0; j < w.kernel_width; ++j) {
            const u32 row = out_y * w.stride_height + i * w.dilation_height - w.pad_height;
            const u32 column = out_x * w.stride_width + j * w.dilation_width - w.pad_width;
            if (row < w.height && column < w.width) sum += image[row * w.width + column];
          }
        y[(u64)plane * pixels + pixel] = sum * share(out_y, out_x, w);
      }
  }
}

KERNEL(average_pool_backward, float *dx, const float *dy, Window w) {
  PHASE {
    const u32 pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel < w.height * w.width)
      for (u32 plane = blockIdx.y; plane < w.batch * w.channels; plane += gridDim.y) {
        float sum = 0.0f;
        for (u32 i = 0; i < w.kernel_height; ++i)
          for (u32 j = 0; j < w.kernel_width; ++j) {
            u32 y, x;
            if (!covering(pixel / w.width, i, w.pad_height, w.dilation_height, w.stride_height, w.out_height, &y)) continue;
            if (!covering(pixel % w.width, j, w.pad_width, w.dilation_width, w.stride_width, w.out_width, &x)) continue;
            sum += dy[((u64)plane * w.out_height + y) * w.out_width + x] * share(y, x, w);
          }
        dx[(u64)plane * w.height * w.width + pixel] += sum;
      }
  }
}
