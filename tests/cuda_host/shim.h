// Lets the CUDA kernels of src/nn/cuda compile as host C++: grids and blocks become loops. A kernel is called once for
// each block, and a PHASE runs the block's threads one after another: in ascending order, or in descending order, which
// must make no difference unless threads race for the same value.
#pragma once
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>

struct Dim3 {
  unsigned x, y, z;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;
static bool descending;

static bool next_thread(unsigned &count) {
  if (count == blockDim.x) return false;
  threadIdx.x = descending ? blockDim.x - 1 - count : count;
  ++count;
  return true;
}

#define DEVICE static inline
#define SHARED
#define PHASE for (unsigned count_ = 0; next_thread(count_);)

// Kernels by name, each with a caller that takes its arguments as the driver does: a pointer to each.
static std::map<std::string, std::function<void(void **)>> &kernels() {
  static std::map<std::string, std::function<void(void **)>> all;
  return all;
}

template <class... Arguments, size_t... Indices>
static void call(void (*kernel)(Arguments...), void **arguments, std::index_sequence<Indices...>) {
  kernel(*static_cast<std::remove_cv_t<Arguments> *>(arguments[Indices])...);
}

struct Register {
  template <class... Arguments> Register(const char *name, void (*kernel)(Arguments...)) {
    kernels()[name] = [kernel](void **arguments) {
      call(kernel, arguments, std::index_sequence_for<Arguments...>());
    };
  }
};

#define KERNEL(name, ...)                                                                                              \
  static void name(__VA_ARGS__);                                                                                       \
  static Register register_##name(#name, name);                                                                        \
  static void name(__VA_ARGS__)

// Runs a kernel over its grid; false if there is no such kernel.
static bool run_kernel(const char *name, Dim3 grid, Dim3 block, void **arguments) {
  auto found = kernels().find(name);
  if (found == kernels().end()) return false;
  gridDim = grid;
  blockDim = block;
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = {x, y, 0};
      found->second(arguments);
    }
  return true;
}

