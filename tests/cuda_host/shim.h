// Lets the CUDA kernels of src/nn/cuda compile as host C++: grids and blocks become loops. A kernel is called once for
// each block, and a PHASE runs the block's threads one after another: in ascending order, in descending order, or in one
// that a seed shuffles, which must make no difference unless threads race for the same value. Compiled with RACES, every
// access is handed to races.cpp, which finds races that make no difference here.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

typedef unsigned long long u64_word;

// Compiled with ROUNDING, results are rounded as on a device, where products and sums are contracted (by the compiler's
// option) and functions are some units in the last place off: for tests whose results must not depend on that.
#ifdef ROUNDING
static inline float some_off(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  const int ulps = (int)(bits * 2654435761u >> 30) - 1; // -1 to 2
  return std::isfinite(x) && x != 0.0f ? x * (1.0f + ulps * 1.1920929e-7f) : x;
}
#define expf(x) some_off((expf)(x))
#define logf(x) some_off((logf)(x))
#define tanhf(x) some_off((tanhf)(x))
#define erff(x) some_off((erff)(x))
#endif

#ifdef RACES
extern "C" void races_buffer(void *, unsigned long), races_launch(), races_block(), races_thread(unsigned),
    races_phase_end(), races_done();
#define SHARED static __attribute__((section("shared_memory")))
#else
static inline void races_buffer(void *, unsigned long) {}
static inline void races_launch() {}
static inline void races_block() {}
static inline void races_thread(unsigned) {}
static inline void races_phase_end() {}
static inline void races_done() {}
#define SHARED
#endif

static bool in_phase;
static void misused(const char *why) {
  fprintf(stderr, "%s\n", why);
  abort();
}

// A thread's number is asked for within phases only: what depends on it between them, such as whether there is one more,
// would have some threads wait for others that never come.
struct Lane {
  unsigned number;
  operator unsigned() const {
    if (!in_phase) misused("a thread's number is asked for between two phases");
    return number;
  }
};
struct Dim3 {
  unsigned x, y, z;
};
static struct {
  Lane x;
} threadIdx;
static Dim3 blockIdx, blockDim, gridDim;

// The order in which threads and blocks run; numbers beyond these shuffle them.
enum { ASCENDING, DESCENDING };
static unsigned order;

// Which of `count` is at each place.
static void shuffle(std::vector<unsigned> &all, unsigned count, unsigned &random) {
  all.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    random = random * 1664525u + 1013904223u;
    const unsigned other = (random >> 8) % (i + 1);
    all[i] = all[other];
    all[other] = i;
  }
}

static bool next_thread(unsigned &count) {
  static std::vector<unsigned> shuffled;
  static unsigned random;
  if (count == 0) {
    if (in_phase) misused("a phase begins within another");
    if (order > DESCENDING) shuffle(shuffled, blockDim.x, random += order);
  }
  in_phase = count < blockDim.x;
  if (!in_phase) return races_phase_end(), false;
  threadIdx.x.number = order == ASCENDING ? count : order == DESCENDING ? blockDim.x - 1 - count : shuffled[count];
  ++count;
  return races_thread(threadIdx.x.number), true;
}

#define DEVICE static inline
#define PHASE for (unsigned count_ = 0; next_thread(count_);)

// Kernels by name, each with a caller that takes its arguments as the driver does: a pointer to each.
static std::map<std::string, std::function<void(void **)>> &kernels() {
  static std::map<std::string, std::function<void(void **)>> all;
  return all;
}

// What looks at the arguments of a launch: pointers, and everything else as words.
#ifndef LOOK_AT_POINTER
#define LOOK_AT_POINTER(pointer, alignment) (void)pointer
#define LOOK_AT_WORDS(words, count) (void)words
#endif
template <class Any> static void look_at(Any *pointer) { LOOK_AT_POINTER(pointer, alignof(Any)); }
template <class Any> static void look_at(const Any &value) {
  u64_word words[sizeof value / sizeof(u64_word) + 1];
  memcpy(words, &value, sizeof value / sizeof(u64_word) * sizeof(u64_word));
  LOOK_AT_WORDS(words, sizeof value / sizeof(u64_word));
}

template <class... Arguments, size_t... Indices>
static void call(void (*kernel)(Arguments...), void **arguments, std::index_sequence<Indices...>) {
  (look_at(*static_cast<std::remove_cv_t<Arguments> *>(arguments[Indices])), ...);
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
  races_launch();
  const unsigned count = grid.x * grid.y;
  static std::vector<unsigned> shuffled;
  unsigned random = order;
  if (order > DESCENDING) shuffle(shuffled, count, random);
  for (unsigned i = 0; i < count; ++i) {
    const unsigned at = order == ASCENDING ? i : order == DESCENDING ? count - 1 - i : shuffled[i];
    blockIdx = {at % grid.x, at / grid.x, 0};
    races_block();
    found->second(arguments);
    if (in_phase) misused("a phase was left before all threads had run");
  }
  races_done();
  return true;
}
