// Rows of a table by number.

// y[row] = table[ids[row]]; the ids have been checked.
KERNEL(embedding, float *y, const float *table, const u32 *ids, u32 rows, u32 width) {
  PHASE {
    const u64 i = element();
    if (i < (u64)rows * width) y[i] = table[(u64)ids[i / width] * width + i % width];
  }
}

// dtable[ids[k]] += the sum of dy's rows places[starts[k] .. starts[k + 1]], in this order. The ids are distinct, so that
// no two blocks write to the same row: the host has sorted them.
KERNEL(embedding_backward, float *dtable, const float *dy, const u32 *ids, const u32 *starts, const u32 *places,
       u32 count, u32 width) {
  PHASE {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column < width)
      for (u32 k = blockIdx.y; k < count; k += gridDim.y) {
        float sum = 0.0f;
        for (u32 i = starts[k]; i < starts[k + 1]; ++i) sum += dy[(u64)places[i] * width + column];
        dtable[(u64)ids[k] * width + column] += sum;
      }
  }
}

// y[bag] = the sum of factors[i] * x[i] for i in starts[bag] .. starts[bag + 1].
KERNEL(bag_sums, float *y, const float *x, const u32 *starts, const float *factors, u32 bags, u32 width) {
  PHASE {
    const u64 i = element();
    if (i < (u64)bags * width) {
      const u32 bag = (u32)(i / width), column = (u32)(i % width);
      float sum = 0.0f;
      for (u32 k = starts[bag]; k < starts[bag + 1]; ++k) sum += factors[k] * x[(u64)k * width + column];
      y[i] = sum;
    }
  }
}

// dx[i] += factors[i] * dy[bags[i]]
KERNEL(bag_sums_backward, float *dx, const float *dy, const u32 *bags, const float *factors, u32 rows, u32 width) {
  PHASE {
    const u64 i = element();
    if (i < (u64)rows * width) {
      const u32 row = (u32)(i / width);
      dx[i] += factors[row] * dy[(u64)bags[row] * width + i % width];
    }
  }
}
