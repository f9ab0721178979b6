// Sums in a fixed order.

// sums[row] += the sum of x's row of `columns` values, a block for each; the last row ends with the `count` values of x.
KERNEL(row_sums, float *sums, const float *x, u32 columns, u64 count) {
  SHARED float values[MAX_THREADS];
  PHASE {
    const u64 begin = (u64)blockIdx.x * columns;
    const u32 end = count - begin < columns ? (u32)(count - begin) : columns;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < end; i += blockDim.x) sum += x[begin + i];
    values[threadIdx.x] = sum;
  }
  block_sum(values);
  PHASE {
    if (threadIdx.x == 0) sums[blockIdx.x] += values[0];
  }
}

// dx += dy, one value for each row of `columns`.
KERNEL(row_sums_backward, float *dx, const float *dy, u32 columns, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) dx[i] += dy[quotient(i, columns)];
  }
}

// y = the sums of x of (count / inner, length, inner) over its middle axis.
KERNEL(middle_sums, float *y, const float *x, u32 length, u32 inner, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) {
      const float *from = x + quotient(i, inner) * length * inner + modulo(i, inner);
      float sum = 0.0f;
      for (u32 k = 0; k < length; ++k) sum += from[(u64)k * inner];
      y[i] = sum;
    }
  }
}

// dx += dy, one value for all along the middle axis; dx has `count` values.
KERNEL(middle_sums_backward, float *dx, const float *dy, u32 length, u32 inner, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) dx[i] += dy[quotient(quotient(i, inner), length) * inner + modulo(i, inner)];
  }
}
