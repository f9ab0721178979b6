// What all kernels share. They are written in phases, so that the same text also compiles as host C++ for tests
// (tests/cuda_host/shim.h): within a PHASE the threads of a block run independently of each other, between two phases
// they wait for each other. What lives longer than a phase is SHARED, or the same for all threads of the block. There are
// no atomics: every sum has a fixed order, so results are the same bits in every run.
//
// All tensors are contiguous and row-major; images are (batch, channels, height, width).
#ifdef __CUDACC__
#define KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__
#define PHASE for (int phase_ = 0; phase_ < 1; ++phase_, __syncthreads())
#endif

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// The most threads that a block of a kernel with SHARED arrays may have; it must be a power of two.
#define MAX_THREADS 256

// Where the search for a maximum begins.
#define LOWEST -3.40282347e38f

DEVICE u64 element() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// index % n and index / n, avoiding the slow 64-bit division where 32 bits do.
DEVICE u32 modulo(u64 index, u32 n) { return index >> 32 ? (u32)(index % n) : (u32)index % n; }

DEVICE u64 quotient(u64 index, u32 n) { return index >> 32 ? index / n : (u32)index / n; }

DEVICE u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

// Sums values[0 .. blockDim.x] into values[0].
template <class Number> DEVICE void block_sum(Number *values) {
  for (u32 width = blockDim.x / 2; width > 0; width /= 2) PHASE {
      if (threadIdx.x < width) values[threadIdx.x] += values[threadIdx.x + width];
    }
}

// The largest of values[0 .. blockDim.x] into values[0]; NaN if there is one.
DEVICE void block_max(float *values) {
  for (u32 width = blockDim.x / 2; width > 0; width /= 2) PHASE {
      if (threadIdx.x < width) {
        const float other = values[threadIdx.x + width];
        if (other > values[threadIdx.x] || other != other) values[threadIdx.x] = other;
      }
    }
}

// Doubles and adds one: what a device is tested with when it is opened.
KERNEL(probe, float *x, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) x[i] = 2.0f * x[i] + 1.0f;
  }
}
