// A double of the CUDA driver and of cuBLAS for machines without a GPU, to be preloaded before both: device memory is host
// memory, our kernels (and those of dfdx that a training step needs) run as loops, matrix products are loops, and every
// call that matters is logged. dfdx's host code and ours run as they are, so tests can compare results with the CPU's, and
// count launches, copies and waits. What a real driver refuses or a real device does not survive ends the program: a thread
// without a context; copies and matrices beyond their memory, freed memory, memory freed twice, and writes around it; a copy
// that reads or writes memory before it may.
//
// DRIVER_BREAK_PROBE makes the kernel that the way to tensors' memory is tested with do nothing, so that the test fails.
// DRIVER_MEMORY names a file with the bytes that the device has, read at every allocation: a test may change it.
// DRIVER_POOLS is "old" for a driver that knows no bound of memory pools, and "careless" for one that does not keep it.
// DRIVER_ROUNDING, when the tests are run, has results rounded as on a device: the tests must not depend on that.
// DRIVER_BUSY makes events seem not to have happened until somebody waits for them.
// DRIVER_LOG names a file that receives a line for each launch, gemm, h2d, d2h, d2d, memset, alloc, free, keep, lock and sync; an h2d
// by another thread than the one that launches is "aside".
static void look_at_pointer(const void *, unsigned long), look_at_words(const unsigned long long *, unsigned long);
#define LOOK_AT_POINTER look_at_pointer
#define LOOK_AT_WORDS look_at_words
#include "shim.h"
#include "kernels.h"

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <mutex>
#include <unistd.h>
#include <vector>

static void note(const char *format, ...) {
  static int file = [] {
    const char *path = getenv("DRIVER_LOG");
    return path ? open(path, O_WRONLY | O_APPEND | O_CREAT, 0644) : -1;
  }();
  if (file < 0) return;
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (write(file, line, length) != length) abort();
}

// dfdx's kernel for one parameter, as its sgd.cu has it.
struct SgdConfig {
  double rate;
  int momentum_type;
  double momentum;
  int decay_type;
  double decay;
};

KERNEL(sgd_update_f32, SgdConfig s, u64 count, float *parameter, float *velocity, const float *gradient) {
  PHASE {
    for (u64 i = element(); i < count; i += blockDim.x * gridDim.x) {
      const float rate = s.rate, momentum = s.momentum, decay = s.decay, p = parameter[i];
      float g = gradient[i];
      if (s.decay_type == 1) g += decay * p;
      float v = velocity[i];
      if (s.momentum_type == 1) {
        v = g + momentum * v;
        g = v * rate;
      } else if (s.momentum_type == 2) {
        v = g + momentum * v;
        g = (g + momentum * v) * rate;
      } else {
        g *= rate;
      }
      if (s.decay_type == 2) g += decay * rate * p;
      velocity[i] = v;
      parameter[i] = p - g;
    }
  }
}

// As its axpy.cu has it: the running statistics of batch normalisation move by it.
KERNEL(axpy_f32, u64 count, float *a, float alpha, const float *b, float beta) {
  PHASE {
    for (u64 i = element(); i < count; i += blockDim.x * gridDim.x) a[i] = a[i] * alpha + b[i] * beta;
  }
}

// What is allocated, and from which pool.
struct MemoryPool {
  size_t limit, used;
};
struct MemoryBlock {
  size_t size;
  MemoryPool *pool;
};
static MemoryPool default_pool, *current_pool = &default_pool;
static auto &blocks = *new std::map<u64, MemoryBlock>; // outlives threads that still free at the end
static size_t taken;
static std::mutex memory_lock;

// As cuda.h has it.
struct PoolProperties {
  int allocation, handles, location, device;
  void *security;
  size_t limit;
  u8 reserved[56];
};

static auto &locked = *new std::map<u64, size_t>;
// What was freed last is not handed out again yet: who still uses it is found.
static auto &freed = *new std::deque<std::pair<u64, size_t>>;
static size_t freed_bytes;
// Around each block: bytes that stay as they are.
static const size_t AROUND = 256;

// Streams beside the default one: what they do waits until somebody waits for it, so that what is read too early shows.
struct Stream {
  u64 queued = 0, done = 0;
  // What the default stream had done when this one waited for it last.
  u64 seen = 0;
  std::deque<std::function<void()>> work;
  void queue(std::function<void()> item) {
    work.push_back(item);
    ++queued;
  }
  void run(u64 until) {
    for (; done < until && !work.empty(); ++done) {
      work.front()();
      work.pop_front();
    }
  }
};
// How many copies into each place are queued there, and not done.
static auto &under_way = *new std::map<u64, int>;
// The same for the places of the host that they come from.
static auto &read_later = *new std::map<u64, int>;
static void refuse(const char *why) {
  fprintf(stderr, "%s\n", why);
  abort();
}
// The thread that launches kernels; others are told from it by the address of something of theirs.
static thread_local char this_thread;
static std::atomic<char *> launcher;
struct Event {
  Stream *stream = nullptr; // null for the default one
  u64 position = 0;
  bool is_recorded = false;
};
static std::mutex stream_lock;
// Uses of memory by the default stream, which does all at once, and the last use of each place: its allocation or a copy.
static u64 default_uses;
static auto &last_use = *new std::map<u64, u64>;

// The block that holds this address, or none.
static auto block_of(u64 address) {
  auto after = blocks.upper_bound(address);
  if (after == blocks.begin()) return blocks.end();
  --after;
  return address < after->first + std::max<size_t>(1, after->second.size) ? after : blocks.end();
}

static bool is_freed(u64 address) {
  for (const auto &[start, size] : freed)
    if (address >= start && address < start + size) return true;
  return false;
}

// So many bytes from there on are memory of the device, and no copy into them is still queued.
static void need_memory(u64 start, size_t bytes, const char *what) {
  if (!bytes) return;
  const std::lock_guard<std::mutex> lock(memory_lock);
  const auto block = block_of(start);
  if (block == blocks.end() || start + bytes > block->first + block->second.size) {
    fprintf(stderr, "%s: %zu bytes at %#llx are not memory of the device%s\n", what, bytes, start,
            is_freed(start) ? ", but were" : "");
    abort();
  }
  const std::lock_guard<std::mutex> other(stream_lock);
  const auto queued = under_way.find(block->first);
  if (queued != under_way.end() && queued->second) refuse("memory is used before a copy into it");
}

static void look_at_pointer(const void *pointer, unsigned long alignment) {
  if (!pointer) return;
  if ((u64)pointer % alignment) refuse("a kernel is given a pointer that is not aligned");
  {
    // What holds nothing has a pointer too, which may be the end of what is before it.
    const std::lock_guard<std::mutex> lock(memory_lock);
    const auto before = block_of((u64)pointer - 1);
    if (before != blocks.end() && (u64)pointer == before->first + before->second.size) return;
    if (blocks.count((u64)pointer) && !blocks[(u64)pointer].size) return;
  }
  need_memory((u64)pointer, 1, "a kernel");
}

static void look_at_words(const u64 *words, unsigned long count) {
  const std::lock_guard<std::mutex> lock(memory_lock);
  for (unsigned long i = 0; i < count; ++i)
    if (is_freed(words[i])) refuse("a kernel is given memory that was freed");
}

static size_t device_bytes() {
  static const char *path = getenv("DRIVER_MEMORY");
  unsigned long long bytes = 1ull << 36;
  if (path)
    if (FILE *file = fopen(path, "r")) {
      if (fscanf(file, "%llu", &bytes) != 1) abort();
      fclose(file);
    }
  return bytes;
}

// What a real driver refuses with an error: a thread that has not been given the device's context.
static thread_local void *this_context;
static void need_context(const char *what) {
  if (this_context) return;
  fprintf(stderr, "%s by a thread without a context\n", what);
  abort();
}

extern "C" {
int cuGetErrorName(int, const char **name) { return *name = "an error of the double", 0; }
int cuGetErrorString(int, const char **text) { return *text = "an error of the double", 0; }

// device, context, streams, events
int cuInit(unsigned) { return 0; }
int cuDeviceGet(int *device, int) { return *device = 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGetAttribute(int *value, int, int) { return *value = 1, 0; }
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxGetDevice(int *device) { return *device = 0, this_context ? 0 : 201; }
int cuCtxSetCurrent(void *context) { return this_context = context, 0; }
int cuCtxGetCurrent(void **context) { return *context = this_context, 0; }

// streams and events
int cuStreamCreate(void **stream, unsigned flags) {
  need_context("cuStreamCreate");
  // One that the default stream waits for on its own would keep copies from overlapping.
  if (flags != 1) return 1;
  return *stream = new Stream, 0;
}
int cuStreamDestroy_v2(void *stream) { return need_context("cuStreamDestroy_v2"), delete (Stream *)stream, 0; }
int cuStreamSynchronize(void *stream) {
  need_context("cuStreamSynchronize");
  const std::lock_guard<std::mutex> lock(stream_lock);
  if (stream) ((Stream *)stream)->run(~0ull);
  return note("sync\n"), 0;
}
int cuEventCreate(void **event, unsigned) { return need_context("cuEventCreate"), *event = new Event, 0; }
int cuEventDestroy_v2(void *event) { return need_context("cuEventDestroy_v2"), delete (Event *)event, 0; }
int cuEventRecord(void *event, void *stream) {
  need_context("cuEventRecord");
  const std::lock_guard<std::mutex> lock(stream_lock);
  *(Event *)event = {(Stream *)stream, stream ? ((Stream *)stream)->queued : default_uses, true};
  return 0;
}
int cuStreamWaitEvent(void *stream, void *event_, unsigned) {
  need_context("cuStreamWaitEvent");
  const std::lock_guard<std::mutex> lock(stream_lock);
  const Event event = *(Event *)event_;
  if (event.stream) event.stream->run(event.position);
  else if (stream) ((Stream *)stream)->seen = std::max(((Stream *)stream)->seen, event.position);
  return 0;
}
int cuEventQuery(void *event_) {
  need_context("cuEventQuery");
  const std::lock_guard<std::mutex> lock(stream_lock);
  const Event event = *(Event *)event_;
  if (event.is_recorded && getenv("DRIVER_BUSY")) return 600;
  if (event.stream) event.stream->run(event.position);
  return 0;
}
int cuEventSynchronize(void *event_) {
  need_context("cuEventSynchronize");
  const std::lock_guard<std::mutex> lock(stream_lock);
  const Event event = *(Event *)event_;
  if (event.stream) event.stream->run(event.position);
  return note("event-wait\n"), 0;
}

// memory of the host that the device reads on its own
int cuMemHostAlloc(void **p, size_t n, unsigned) {
  need_context("cuMemHostAlloc");
  const std::lock_guard<std::mutex> lock(memory_lock);
  *p = malloc(n ? n : 1);
  memset(*p, 0xff, n);
  locked[(u64)*p] = n;
  return note("lock %zu\n", n), 0;
}
int cuMemFreeHost(void *p) {
  need_context("cuMemFreeHost");
  const std::lock_guard<std::mutex> lock(memory_lock);
  const auto found = locked.find((u64)p);
  if (found == locked.end()) refuse("what is unlocked was not locked");
  {
    const std::lock_guard<std::mutex> lock(stream_lock);
    if (read_later[(u64)p]) refuse("memory of the host is freed before it was read");
  }
  const size_t n = found->second;
  locked.erase(found);
  return free(p), note("unlock %zu\n", n), 0;
}

// memory: new memory is full of NaNs, so that what is read before it is written shows
int cuMemGetInfo_v2(size_t *free, size_t *total) {
  if (!this_context) return 201;
  const std::lock_guard<std::mutex> lock(memory_lock);
  *total = device_bytes();
  *free = *total > taken ? *total - taken : 0;
  return 0;
}
int cuDeviceTotalMem_v2(size_t *total, int) { return *total = device_bytes(), 0; }
int cuMemAllocFromPoolAsync(u64 *p, size_t n, void *pool_, void *) {
  need_context("cuMemAllocFromPoolAsync");
  MemoryPool *pool = (MemoryPool *)pool_;
  const std::lock_guard<std::mutex> lock(memory_lock);
  if (taken + n > device_bytes()) return note("refused %zu\n", n), 2;
  if (pool->limit && pool->used + n > pool->limit) return note("refused %zu\n", n), 2;
  const size_t whole = (n + 3 * AROUND - 1) / AROUND * AROUND;
  char *memory = (char *)aligned_alloc(AROUND, whole);
  memset(memory, 0xff, whole);
  *p = (u64)memory + AROUND;
  taken += n;
  pool->used += n;
  blocks[*p] = {n, pool};
  {
    const std::lock_guard<std::mutex> lock(stream_lock);
    last_use[*p] = ++default_uses;
  }
  return note("alloc %zu\n", n), 0;
}
int cuMemAllocAsync(u64 *p, size_t n, void *stream) { return cuMemAllocFromPoolAsync(p, n, current_pool, stream); }
int cuMemAlloc_v2(u64 *p, size_t n) { return cuMemAllocAsync(p, n, 0); }
int cuMemFreeAsync(u64 p, void *) {
  need_context("cuMemFreeAsync");
  const std::lock_guard<std::mutex> lock(memory_lock);
  const auto found = blocks.find(p);
  if (found == blocks.end()) refuse(is_freed(p) ? "memory is freed twice" : "what is freed is not memory of the device");
  const size_t n = found->second.size;
  const size_t end = (n + AROUND - 1) / AROUND * AROUND + AROUND;
  for (u64 i = p - AROUND; i < p + end; ++i) {
    if (i == p) i += n;
    if (*(u8 *)i != 0xff) refuse("something was written before or behind a block of memory");
  }
  {
    const std::lock_guard<std::mutex> lock(stream_lock);
    if (under_way[p]) refuse("memory is freed before a copy into it");
  }
  taken -= n;
  found->second.pool->used -= n;
  blocks.erase(found);
  memset((void *)p, 0xff, n);
  freed.push_back({p, n});
  for (freed_bytes += n; freed.size() > 256 || freed_bytes > 1 << 26; freed.pop_front()) {
    free((void *)(freed.front().first - AROUND));
    freed_bytes -= freed.front().second;
  }
  return note("free %zu\n", n), 0;
}
int cuMemFree_v2(u64 p) { return cuMemFreeAsync(p, 0); }

// memory pools: each holds what is in use and nothing more
int cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = &default_pool, 0; }
int cuDeviceGetMemPool(void **pool, int) { return *pool = current_pool, 0; }
int cuDeviceSetMemPool(int, void *pool) {
  const std::lock_guard<std::mutex> lock(memory_lock);
  return current_pool = (MemoryPool *)pool, note("pool\n"), 0;
}
int cuMemPoolCreate(void **pool, const PoolProperties *properties) {
  if (properties->allocation != 1 || properties->handles != 0 || properties->location != 1) return 1;
  for (const u8 byte : properties->reserved)
    if (byte) return 1;
  const char *driver = getenv("DRIVER_POOLS");
  if (driver && !strcmp(driver, "old") && properties->limit) return 1;
  return *pool = new MemoryPool{driver && !strcmp(driver, "careless") ? 0 : properties->limit, 0}, 0;
}
int cuMemPoolDestroy(void *pool) {
  if (pool == current_pool) abort();
  return delete (MemoryPool *)pool, 0;
}
int cuMemPoolGetAttribute(void *pool, int attribute, void *value) {
  if (attribute < 5 || attribute > 8) return 1;
  const std::lock_guard<std::mutex> lock(memory_lock);
  return *(u64 *)value = ((MemoryPool *)pool)->used, 0;
}
int cuMemPoolSetAttribute(void *, int attribute, void *value) {
  // What is freed is kept up to so many bytes when somebody waits for the device.
  if (attribute != 4) return 1;
  return note("keep %llu\n", *(u64 *)value), 0;
}
int cuMemPoolTrimTo(void *, size_t) { return note("trim\n"), 0; }
int cuMemsetD8Async(u64 p, u8 value, size_t n, void *) {
  need_context("cuMemsetD8Async");
  need_memory(p, n, "cuMemsetD8Async");
  return memset((void *)p, value, n), note("memset %zu\n", n), 0;
}
int cuMemsetD8_v2(u64 p, u8 value, size_t n) { return cuMemsetD8Async(p, value, n, 0); }
int cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t n, void *stream_) {
  need_context("cuMemcpyHtoDAsync_v2");
  const bool is_locked = [&] {
    const std::lock_guard<std::mutex> lock(memory_lock);
    auto after = locked.upper_bound((u64)from);
    if (after == locked.begin()) return false;
    --after;
    return (u64)from + n <= after->first + after->second;
  }();
  if (!from && n) return 1;
  if (stream_) {
    const std::lock_guard<std::mutex> lock(memory_lock);
    const auto block = block_of(to);
    if (block == blocks.end() || to + n > block->first + block->second.size) refuse("a copy goes beyond its memory");
  } else {
    need_memory(to, n, "cuMemcpyHtoDAsync_v2");
  }
  const bool is_aside = launcher && launcher != &this_thread;
  note("h2d %zu %s%s%s\n", n, is_locked ? "locked" : "pageable", stream_ ? " beside" : "", is_aside ? " aside" : "");
  if (Stream *stream = (Stream *)stream_) {
    const std::lock_guard<std::mutex> lock(stream_lock);
    // What the default stream may still do with this memory must be known to be done.
    if (last_use[to] > stream->seen) refuse("a copy does not wait for its memory");
    const std::vector<char> queued((const char *)from, (const char *)from + n);
    ++under_way[to];
    ++read_later[(u64)from];
    stream->queue([=] {
      if (memcmp(queued.data(), from, n)) refuse("a place of the host is written before it was read");
      memcpy((void *)to, from, n);
      --under_way[to];
      --read_later[(u64)from];
    });
    return 0;
  }
  return memcpy((void *)to, from, n), 0;
}
int cuMemcpyHtoD_v2(u64 to, const void *from, size_t n) { return cuMemcpyHtoDAsync_v2(to, from, n, 0); }
int cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t n, void *) {
  need_context("cuMemcpyDtoHAsync_v2");
  need_memory(from, n, "cuMemcpyDtoHAsync_v2");
  if (!to && n) return 1;
  return memcpy(to, (void *)from, n), note("d2h %zu\n", n), 0;
}
int cuMemcpyDtoH_v2(void *to, u64 from, size_t n) { return cuMemcpyDtoHAsync_v2(to, from, n, 0); }
int cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t n, void *) {
  need_context("cuMemcpyDtoDAsync_v2");
  {
    const std::lock_guard<std::mutex> lock(stream_lock);
    if (under_way[from]) refuse("a place of the device is read before it was written");
    last_use[from] = ++default_uses;
  }
  need_memory(from, n, "cuMemcpyDtoDAsync_v2, from");
  need_memory(to, n, "cuMemcpyDtoDAsync_v2, to");
  return memcpy((void *)to, (void *)from, n), note("d2d %zu\n", n), 0;
}
int cuMemcpyDtoD_v2(u64 to, u64 from, size_t n) { return cuMemcpyDtoDAsync_v2(to, from, n, 0); }

// modules and launches
// A module is its program, in which a function has to be.
int cuModuleLoadData(void **module, const void *image) {
  need_context("cuModuleLoadData");
  if (strncmp((const char *)image, "//", 2) && !strstr((const char *)image, ".version")) return 200;
  return *module = new std::string((const char *)image), 0;
}
int cuModuleLoad(void **, const char *) { return 301; }
int cuModuleUnload(void *module) { return delete (std::string *)module, 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
  if (((std::string *)module)->find(std::string(".entry ") + name + "(") == std::string::npos) return 500;
  return *function = strdup(name), 0;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *, void **arguments, void **) {
  need_context("cuLaunchKernel");
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  launcher = &this_thread;
  const char *name = (const char *)function;
  // What a real device refuses.
  if (gx == 0 || gx > 0x7fffffff || gy == 0 || gy > 65535 || bx == 0 || bx > 1024) return 1;
  if (!function || gz != 1 || by != 1 || bz != 1 || shared > 48 << 10) return 1;
  // What none notices: our kernels' shared arrays hold so many threads, and dfdx's are named by their type.
  if (bx > MAX_THREADS && !strstr(name, "_f32")) refuse("a block has more threads than shared arrays hold");
  if (!strcmp(name, "probe") && getenv("DRIVER_BREAK_PROBE")) return 0;
  const bool known = run_kernel(name, {gx, gy, 1}, {bx, 1, 1}, arguments);
  note("launch %s%s\n", name, known ? "" : " (not run)");
  return 0;
}

// cuBLAS, column-major
int cublasCreate_v2(void **handle) { return need_context("cublasCreate_v2"), *handle = (void *)5, 0; }
int cublasDestroy_v2(void *) { return 0; }
int cublasSetStream_v2(void *, void *) { return 0; }
// The lengths of columns in memory that cuBLAS takes.
static bool are_sizes(int ta, int tb, int m, int n, int k, int lda, int ldb, int ldc) {
  return m >= 0 && n >= 0 && k >= 0 && lda >= std::max(1, ta ? k : m) && ldb >= std::max(1, tb ? n : k) &&
         ldc >= std::max(1, m);
}
// A matrix of so many rows and columns as it lies in memory.
static void need_matrix(const void *start, bool is_transposed, int rows, int columns, int length, const char *what) {
  if (is_transposed) std::swap(rows, columns);
  if (rows && columns) need_memory((u64)start, ((size_t)length * (columns - 1) + rows) * sizeof(float), what);
}
static void multiply(int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                     float beta, float *c, int ldc) {
  need_context("cuBLAS");
  need_matrix(a, ta, m, k, lda, "the first matrix of a product");
  need_matrix(b, tb, k, n, ldb, "the second matrix of a product");
  need_matrix(c, false, m, n, ldc, "the result of a product");
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < m; ++i) {
#ifdef ROUNDING
      // Parts of what is summed, from the last one on.
      float sum = 0;
      for (int end = k; end > 0; end -= 16) {
        float part = 0;
        for (int l = std::max(0, end - 16); l < end; ++l)
          part += a[ta ? l + (size_t)i * lda : i + (size_t)l * lda] * b[tb ? j + (size_t)l * ldb : l + (size_t)j * ldb];
        sum += part;
      }
#else
      double sum = 0;
      for (int l = 0; l < k; ++l)
        sum += (double)a[ta ? l + (size_t)i * lda : i + (size_t)l * lda] * b[tb ? j + (size_t)l * ldb : l + (size_t)j * ldb];
#endif
      float &to = c[i + (size_t)j * ldc];
      to = alpha * (float)sum + (beta == 0.0f ? 0.0f : beta * to);
    }
}
int cublasSgemm_v2(void *, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, int lda, const float *b,
                   int ldb, const float *beta, float *c, int ldc) {
  if (!are_sizes(ta, tb, m, n, k, lda, ldb, ldc)) return 7;
  multiply(ta, tb, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
  return note("gemm %d %d %d\n", m, n, k), 0;
}
int cublasSgemmStridedBatched(void *, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, int lda,
                              long long step_a, const float *b, int ldb, long long step_b, const float *beta, float *c,
                              int ldc, long long step_c, int batch) {
  if (!are_sizes(ta, tb, m, n, k, lda, ldb, ldc)) return 7;
  for (int i = 0; i < batch; ++i)
    multiply(ta, tb, m, n, k, *alpha, a + i * step_a, lda, b + i * step_b, ldb, *beta, c + i * step_c, ldc);
  return note("gemm %d %d %d batch %d\n", m, n, k, batch), 0;
}
int cublasSgemmBatched(void *, int ta, int tb, int m, int n, int k, const float *alpha, const float *const *a, int lda,
                       const float *const *b, int ldb, const float *beta, float *const *c, int ldc, int batch) {
  if (!are_sizes(ta, tb, m, n, k, lda, ldb, ldc)) return 7;
  for (const void *addresses : {(const void *)a, (const void *)b, (const void *)c})
    need_memory((u64)addresses, batch * sizeof(void *), "addresses of matrices");
  for (int i = 0; i < batch; ++i) multiply(ta, tb, m, n, k, *alpha, a[i], lda, b[i], ldb, *beta, c[i], ldc);
  return note("gemm %d %d %d batch %d\n", m, n, k, batch), 0;
}
}
