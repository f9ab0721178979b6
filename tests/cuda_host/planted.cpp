// Kernels with defects that a device may show at times, or never: the tests must find them. Most give the same results in
// whatever order their threads run.
#include "shim.h"
#include "kernels.h"

// No defect.
KERNEL(sound, float *x) {
  SHARED float values[MAX_THREADS];
  PHASE { values[threadIdx.x] = x[element()]; }
  block_sum(values);
  PHASE { x[element()] = values[0]; }
}

// The first thread may begin the next block_sum's array before the last has read it.
KERNEL(no_border, float *x) {
  SHARED float values[MAX_THREADS];
  PHASE { values[threadIdx.x] = 1.0f; }
  PHASE {
    x[element()] = values[0];
    if (threadIdx.x == 0) values[0] = 1.0f;
  }
}

KERNEL(same_place, float *x) {
  PHASE { x[blockIdx.x * blockDim.x] = 1.0f; }
}

KERNEL(read_by_all, float *x) {
  PHASE {
    if (threadIdx.x == 1) x[0] = x[0];
    const float first = x[0];
    if (threadIdx.x > 1) x[threadIdx.x] = first;
  }
}

KERNEL(other_block, float *x) {
  PHASE {
    const u64 i = element();
    x[i] = x[0] == 0.0f ? 1.0f : 2.0f;
  }
}

KERNEL(same_row, float *x) {
  PHASE { x[threadIdx.x] = 1.0f; }
}

KERNEL(unwritten, float *x) {
  SHARED float values[MAX_THREADS];
  PHASE {
    if (x[element()] > 2.0f) values[threadIdx.x] = 1.0f;
  }
  PHASE { x[element()] = values[threadIdx.x] > 0.0f ? 1.0f : 0.0f; }
}

KERNEL(between, float *x) {
  PHASE { x[element()] += 1.0f; }
  x[0] = 1.0f;
}

KERNEL(read_between, float *x) {
  const float first = x[blockIdx.x * blockDim.x];
  PHASE { x[element()] = first; }
}

KERNEL(divergent, float *x) {
  for (u32 i = 0; i < threadIdx.x; ++i) PHASE { x[element()] += 1.0f; }
}

KERNEL(nested, float *x) {
  PHASE {
    if (threadIdx.x < 2) PHASE { x[element()] += 1.0f; }
  }
}

KERNEL(left, float *x) {
  PHASE {
    if (threadIdx.x == 2) break;
    x[element()] += 1.0f;
  }
}

#include "runner.cpp"
