// SPDX-License-Identifier: BSD-3-Clause
#include "cuda_emu.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace emu {
namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 256 * 1024;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  ucontext_t context;
  char* stack;
  State state;
  dim3 thread;
  unsigned mask;  // at a warp barrier: who must come
  const char* file;
  int line;
  alignas(8) char slot[8];
};

struct Buffer {
  size_t bytes;
  char *pages, *end_of_pages;
};

std::vector<Fiber> fibers;  // stacks are kept from launch to launch
size_t n_threads, current;
ucontext_t scheduler;
const std::function<void()>* kernel;
char* shared;
uint64_t serial;
std::mt19937_64 draw;
std::map<char*, Buffer> buffers;

size_t page_bytes() { return size_t(sysconf(_SC_PAGESIZE)); }

void run_kernel() {
  (*kernel)();
  fibers[current].state = State::kDone;
}

void start(size_t id) {
  Fiber& fiber = fibers[id];
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = &scheduler;
  makecontext(&fiber.context, run_kernel, 0);
  fiber.state = State::kReady;
  const unsigned i = unsigned(id);
  fiber.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
  poison(fiber.slot, sizeof fiber.slot);
}

void resume(size_t id) {
  current = id;
  threadIdx = fibers[id].thread;
  swapcontext(&scheduler, &fibers[id].context);
}

void wait(State state, const char* file, int line, unsigned mask) {
  Fiber& fiber = fibers[current];
  fiber.state = state;
  fiber.file = file;
  fiber.line = line;
  fiber.mask = mask;
  swapcontext(&fiber.context, &scheduler);
}

bool together(const Fiber& a, const Fiber& b) {
  return a.state == b.state && a.line == b.line && a.mask == b.mask && !std::strcmp(a.file, b.file);
}

bool release_warps() {
  bool released = false;
  for (size_t id = 0; id < n_threads; ++id) {
    if (fibers[id].state != State::kAtWarp) continue;
    const Fiber& fiber = fibers[id];
    const size_t first = id / kWarp * kWarp, end = std::min(first + kWarp, n_threads);
    const auto is_member = [&](size_t other) { return fiber.mask >> (other - first) & 1; };
    if (!is_member(id)) fail("%s:%d: a lane is not in its own mask", fiber.file, fiber.line);
    if (uint64_t(fiber.mask) >> (end - first))
      fail("%s:%d: the mask names lanes that the block does not have", fiber.file, fiber.line);
    bool complete = true;
    for (size_t other = first; other < end; ++other)
      complete = complete && (!is_member(other) || together(fibers[other], fiber));
    if (!complete) continue;
    const unsigned mask = fiber.mask;
    for (size_t other = first; other < end; ++other)
      if (mask >> (other - first) & 1) fibers[other].state = State::kReady;
    released = true;
  }
  return released;
}

[[noreturn]] void fail_divergent() {
  std::map<std::string, int> where;
  for (size_t id = 0; id < n_threads; ++id) {
    const Fiber& fiber = fibers[id];
    const char* what =
        fiber.state == State::kAtBlock ? "at the block barrier" : "at the warp barrier";
    if (fiber.state == State::kDone)
      ++where["have left the kernel"];
    else
      ++where[std::string("wait ") + what + " of " + fiber.file + ":" + std::to_string(fiber.line)];
  }
  std::string text;
  for (const auto& [place, count] : where)
    text += "\n  " + std::to_string(count) + " threads " + place;
  fail("divergent barrier in block (%u, %u, %u):%s", blockIdx.x, blockIdx.y, blockIdx.z,
       text.c_str());
}

bool release_block() {
  for (size_t id = 0; id < n_threads; ++id)
    if (fibers[id].state != State::kAtBlock || !together(fibers[id], fibers[0])) fail_divergent();
  for (size_t id = 0; id < n_threads; ++id) fibers[id].state = State::kReady;
  return true;
}

void run_block() {
  for (size_t id = 0; id < n_threads; ++id) start(id);
  std::vector<size_t> ready;
  while (true) {
    ready.clear();
    size_t done = 0;
    for (size_t id = 0; id < n_threads; ++id) {
      if (fibers[id].state == State::kReady) ready.push_back(id);
      done += fibers[id].state == State::kDone;
    }
    if (done == n_threads) return;
    std::shuffle(ready.begin(), ready.end(), draw);
    for (size_t id : ready) resume(id);
    if (ready.empty() && !release_warps()) release_block();
  }
}

void check_slack() {
  for (const auto& [data, buffer] : buffers) {
    const auto is_slack = [](char c) { return c == char(0xa5); };
    if (!std::all_of(buffer.pages, data, is_slack))
      fail("a kernel wrote before the start of a buffer of %zu bytes", buffer.bytes);
    if (!std::all_of(data + buffer.bytes, buffer.end_of_pages, is_slack))
      fail("a kernel wrote past the end of a buffer of %zu bytes", buffer.bytes);
  }
}

void on_fault(int signal, siginfo_t* info, void*) {
  char* at = static_cast<char*>(info->si_addr);
  const char* what = signal == SIGSEGV ? "access out of bounds" : "undefined behaviour";
  std::string text;
  for (const auto& [data, buffer] : buffers) {
    if (at < buffer.pages - page_bytes() || at >= buffer.end_of_pages + page_bytes()) continue;
    text = ", " + std::to_string(at - data) + " bytes from the start of a buffer of " +
           std::to_string(buffer.bytes) + " bytes";
  }
  fail("%s in thread (%u, %u, %u) of block (%u, %u, %u)%s", what, threadIdx.x, threadIdx.y,
       threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z, text.c_str());
}

// Turns faults into messages while kernels run.
class FaultHandler {
 public:
  FaultHandler() : stack_(kStackBytes) {
    stack_t stack{};
    stack.ss_sp = stack_.data();
    stack.ss_size = stack_.size();
    sigaltstack(&stack, &stack_before_);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 4; ++i) sigaction(kSignals[i], &action, &before_[i]);
  }
  ~FaultHandler() {
    for (int i = 0; i < 4; ++i) sigaction(kSignals[i], &before_[i], nullptr);
    sigaltstack(&stack_before_, nullptr);
  }

 private:
  static constexpr int kSignals[] = {SIGSEGV, SIGILL, SIGTRAP, SIGFPE};
  std::vector<char> stack_;
  stack_t stack_before_;
  struct sigaction before_[4];
};

}  // namespace

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("eegfast emulator: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputs("\n", stderr);
  va_end(arguments);
  std::fflush(stderr);
  ::signal(SIGABRT, SIG_DFL);
  std::abort();
}

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  const FaultHandler handler;
  n_threads = size_t(block.x) * block.y * block.z;
  if (n_threads == 0 || n_threads > 1024) fail("a block of %zu threads", n_threads);
  while (fibers.size() < n_threads) {
    fibers.emplace_back();
    fibers.back().stack = static_cast<char*>(guarded(kStackBytes));
  }
  kernel = &body;
  gridDim = grid;
  blockDim = block;
  shared = static_cast<char*>(guarded(shared_bytes));
  std::vector<uint64_t> blocks(uint64_t(grid.x) * grid.y * grid.z);
  if (blocks.empty()) fail("an empty grid");
  for (uint64_t b = 0; b < blocks.size(); ++b) blocks[b] = b;
  std::shuffle(blocks.begin(), blocks.end(), draw);
  for (uint64_t b : blocks) {
    ++serial;
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    poison(shared, shared_bytes);
    run_block();
  }
  release(shared);
  check_slack();
}

void set_seed(uint64_t seed) { draw.seed(seed); }
void sync_block(const char* file, int line) { wait(State::kAtBlock, file, line, 0); }
void sync_warp(const char* file, int line, unsigned mask) {
  wait(State::kAtWarp, file, line, mask);
}
void* dynamic_shared() { return shared; }
uint64_t block_serial() { return serial; }
void poison(void* data, size_t bytes) { std::memset(data, 0xff, bytes); }
unsigned lane() { return unsigned(current % kWarp); }
void* slot(unsigned lane) { return fibers[current / kWarp * kWarp + lane].slot; }

void* guarded(size_t bytes) {
  constexpr size_t alignment = 16;
  const size_t page = page_bytes(), inner = (bytes + page - 1) / page * page;
  void* all = mmap(nullptr, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) fail("no memory for %zu bytes", bytes);
  char* pages = static_cast<char*>(all) + page;
  mprotect(pages, inner, PROT_READ | PROT_WRITE);
  char* data = pages + (inner - (bytes + alignment - 1) / alignment * alignment);
  std::memset(pages, 0xa5, size_t(data - pages));
  poison(data, bytes);
  std::memset(data + bytes, 0xa5, size_t(pages + inner - data) - bytes);
  buffers[data] = {bytes, pages, pages + inner};
  return data;
}

void release(void* data) {
  check_slack();
  const auto found = buffers.find(static_cast<char*>(data));
  const Buffer buffer = found->second;
  buffers.erase(found);
  munmap(buffer.pages - page_bytes(),
         size_t(buffer.end_of_pages - buffer.pages) + 2 * page_bytes());
}

}  // namespace emu
