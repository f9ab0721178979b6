// Rows one after another: the columns `start .. start + width` of y, which has `total` columns, are x.

// y's columns = x
KERNEL(join_columns, float *y, const float *x, u32 width, u32 total, u32 start, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) y[quotient(i, width) * total + start + modulo(i, width)] = x[i];
  }
}

// dx += dy's columns
KERNEL(join_columns_backward, float *dx, const float *dy, u32 width, u32 total, u32 start, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) dx[i] += dy[quotient(i, width) * total + start + modulo(i, width)];
  }
}
