// Runs kernels for tests/cuda_kernels.rs, which compiles this file with address and undefined-behaviour checks. Standard
// input holds launches, numbers as u32 in the machine's byte order, bytes after their length: the name, grid x and y,
// block x, the order in which the threads run, the number of arguments, the number of buffers, the buffers, and
// for each argument a kind of one byte and: 0 a value's bytes; 1 a buffer's number; 2 (a null pointer) nothing; 3 the
// bytes of a struct with pointers, which hold the number of a buffer plus one, and their offsets as bytes. The answer is
// the bytes of all buffers.
#include "shim.h"
#include "kernels.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

static bool read_all(void *to, size_t length) { return fread(to, 1, length, stdin) == length; }

static unsigned number() {
  unsigned value;
  if (!read_all(&value, sizeof value)) exit(1);
  return value;
}

static std::string text() {
  std::string all(number(), 0);
  if (!read_all(&all[0], all.size())) exit(1);
  return all;
}

int main() {
  unsigned length;
  while (read_all(&length, sizeof length)) {
    std::string name(length, 0);
    if (!read_all(&name[0], length)) return 1;
    const unsigned grid_x = number(), grid_y = number(), block = number();
    order = number();
    const unsigned count = number();
    // Allocated one by one and exactly as long as they are, so that a step beyond is caught.
    std::vector<std::pair<char *, size_t>> buffers(number());
    for (auto &buffer : buffers) {
      const std::string data = text();
      buffer = {static_cast<char *>(malloc(data.size() + !data.size())), data.size()};
      memcpy(buffer.first, data.data(), data.size());
      races_buffer(buffer.first, buffer.second);
    }
    std::vector<void *> arguments;
    for (unsigned i = 0; i < count; ++i) {
      char kind;
      if (!read_all(&kind, 1)) return 1;
      std::string value(sizeof(void *), 0);
      if (kind == 0 || kind == 3) value = text();
      if (kind == 1) memcpy(&value[0], &buffers.at(number()).first, sizeof(void *));
      if (kind == 3) {
        const std::string offsets = text();
        for (size_t k = 0; k < offsets.size(); k += 4) {
          unsigned offset;
          memcpy(&offset, &offsets[k], sizeof offset);
          size_t buffer;
          memcpy(&buffer, &value[offset], sizeof buffer);
          char *pointer = buffer ? buffers.at(buffer - 1).first : nullptr;
          memcpy(&value[offset], &pointer, sizeof pointer);
        }
      }
      arguments.push_back(memcpy(malloc(value.size()), value.data(), value.size()));
    }
    if (!run_kernel(name.c_str(), {grid_x, grid_y, 1}, {block, 1, 1}, arguments.data())) {
      fprintf(stderr, "there is no kernel %s\n", name.c_str());
      return 1;
    }
    for (auto [data, size] : buffers) {
      fwrite(data, 1, size, stdout);
      free(data);
    }
    for (void *argument : arguments) free(argument);
    fflush(stdout);
  }
}
