// Finds races between the threads of a kernel that runs on the host, whatever the order they run in. The kernels are
// compiled with -fsanitize=thread, which calls a function at every access to memory; here are these functions, in place of
// the sanitizer's own. Two threads of a block race where one writes what the other reads or writes in the same phase, two
// blocks where they do so in the same launch. Shared memory that a block reads must have been written by that block.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>
#include <unistd.h>
#include <vector>

extern "C" char __start_shared_memory[], __stop_shared_memory[];

namespace {
constexpr int ALL = -1, NONE = -2;

// Four bytes of memory; or one, of arrays of bytes. Numbers of phases and blocks are never used again, and begin with 1.
struct Cell {
  uint64_t write_phase = 0, read_phase = 0;
  int writer = NONE, reader = NONE;
  uint64_t write_launch = 0, read_launch = 0, write_block = 0, read_block = 0;
  bool read_by_blocks = false;
};
struct Buffer {
  uintptr_t start, end;
};

std::unordered_map<uintptr_t, Cell> cells;
std::vector<Buffer> buffers;
uint64_t launch = 1, block = 1, phase = 1;
// Between phases all threads run.
int thread = ALL;
bool runs;

void race(const char *what, uintptr_t address) {
  fprintf(stderr, "%s: thread %d, in phase %llu of the block's, at %#lx\n", what, thread, (unsigned long long)phase,
          (unsigned long)address);
  _exit(1);
}

void access(uintptr_t address, bool writes) {
  const bool is_shared = address >= (uintptr_t)__start_shared_memory && address < (uintptr_t)__stop_shared_memory;
  bool is_known = is_shared;
  for (const Buffer &buffer : buffers) is_known |= address >= buffer.start && address < buffer.end;
  if (!runs || !is_known) return;
  Cell &cell = cells[address];
  if (writes && thread == ALL) race("memory is written between phases", address);
  if (cell.write_phase == phase && cell.writer != thread)
    race(writes ? "two threads write to the same place in one phase" : "a thread reads what another writes in that phase",
         address);
  if (writes && cell.read_phase == phase && cell.reader != thread)
    race("a thread writes what another reads in that phase", address);
  if (is_shared) {
    if (!writes && cell.write_block != block) race("shared memory is read that the block has not written", address);
  } else {
    if (cell.write_launch == launch && cell.write_block != block) race("what another block writes is used", address);
    if (writes && cell.read_launch == launch && (cell.read_by_blocks || cell.read_block != block))
      race("what another block reads is written", address);
  }
  if (writes) {
    cell.write_phase = phase, cell.writer = thread;
    cell.write_launch = launch, cell.write_block = block;
    return;
  }
  cell.reader = cell.read_phase == phase && cell.reader != thread ? ALL : thread;
  cell.read_phase = phase;
  cell.read_by_blocks = cell.read_launch == launch && (cell.read_by_blocks || cell.read_block != block);
  cell.read_launch = launch, cell.read_block = block;
}

void range(void *start, unsigned long size, bool writes) {
  const uintptr_t address = (uintptr_t)start;
  if (size < 4) {
    for (unsigned long i = 0; i < size; ++i) access(address + i, writes);
    return;
  }
  for (unsigned long i = 0; i < size; i += 4) access(address + i, writes);
}
} // namespace

extern "C" {
void races_buffer(void *start, unsigned long size) { buffers.push_back({(uintptr_t)start, (uintptr_t)start + size}); }
void races_launch() { ++launch, ++block, ++phase, thread = ALL, runs = true; }
void races_block() { ++block, ++phase, thread = ALL; }
void races_thread(unsigned number) { thread = (int)number; }
void races_phase_end() { thread = ALL, ++phase; }
// All blocks have run: what the host does is no race, and the buffers go.
void races_done() { runs = false, cells.clear(), buffers.clear(); }

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
#define ACCESSES(size)                                                                                                 \
  void __tsan_read##size(void *p) { range(p, size, false); }                                                           \
  void __tsan_write##size(void *p) { range(p, size, true); }                                                           \
  void __tsan_unaligned_read##size(void *p) { range(p, size, false); }                                                 \
  void __tsan_unaligned_write##size(void *p) { range(p, size, true); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void *p, unsigned long size) { range(p, size, false); }
void __tsan_write_range(void *p, unsigned long size) { range(p, size, true); }
}
