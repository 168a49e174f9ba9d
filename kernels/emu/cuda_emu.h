// SPDX-License-Identifier: BSD-3-Clause
// The part of CUDA that kernels/cuda uses, on the host, so that a test can run a kernel without a
// GPU. For tests only: nothing here is fast, and nothing here ships.
//
// A block's threads are fibers on one host thread; blocks follow each other. A fiber runs until it
// meets a barrier or a shuffle, and the order of fibers is drawn anew each time, that of blocks at
// each launch. So these mistakes are seen:
//   - a missing barrier: some thread reads what another has not yet written
//   - shared memory read before it was written: it starts as NaN
//   - a barrier or shuffle that not all of its threads reach, or that they reach at different
//     places: abort, saying who waits where. (A thread that left the kernel counts as missing.)
//   - an access outside a guarded buffer or past the end of shared memory: abort, with the thread
//   - undefined arithmetic and misaligned vectors, where the compiler traps them (UBSan)
// Not seen: races between blocks, memory order, bank conflicts, anything about speed.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the fiber that runs

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
template <class T>
T __ldg(const T* from) {
  return *from;
}

inline double cospi(double x) { return cos(3.14159265358979323846 * x); }
inline double sinpi(double x) { return sin(3.14159265358979323846 * x); }

namespace emu {

// Runs body once per thread of the grid.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);
void set_seed(uint64_t seed);

void sync_block(const char* file, int line);
void sync_warp(const char* file, int line, unsigned mask = 0xffffffffu);
[[noreturn]] void fail(const char* format, ...);

void* dynamic_shared();
uint64_t block_serial();                // differs from block to block
void poison(void* data, size_t bytes);  // NaN in every floating-point type

unsigned lane();
void* slot(unsigned lane);  // 8 bytes of a lane of this warp

template <class T>
T shuffle(const char* file, int line, unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  std::memcpy(slot(lane()), &value, sizeof value);
  sync_warp(file, line, mask);
  if (!(mask >> source & 1))
    fail("%s:%d: shuffle reads lane %u, not in its mask", file, line, source);
  std::memcpy(&value, slot(source), sizeof value);
  sync_warp(file, line, mask);
  return value;
}

template <class T>
struct Shared {
  T& of_this_block() {
    if (serial != block_serial()) poison(&value, sizeof value);
    serial = block_serial();
    return value;
  }
  T value;
  uint64_t serial = 0;
};

// Memory between two pages that nobody may touch, poisoned. An overrun shorter than the alignment
// is found after the launch, any other at once.
void* guarded(size_t bytes);
void release(void* data);

}  // namespace emu

#define __syncthreads() emu::sync_block(__FILE__, __LINE__)
#define __syncwarp(...) emu::sync_warp(__FILE__, __LINE__, ##__VA_ARGS__)
#define __shfl_sync(mask, value, lane) emu::shuffle(__FILE__, __LINE__, mask, value, (lane) & 31u)
#define __shfl_xor_sync(mask, value, bits) \
  emu::shuffle(__FILE__, __LINE__, mask, value, emu::lane() ^ (bits))
// Lanes without a source keep their own value.
#define __shfl_up_sync(mask, value, delta)      \
  emu::shuffle(__FILE__, __LINE__, mask, value, \
               emu::lane() >= (delta) ? emu::lane() - (delta) : emu::lane())
#define __shfl_down_sync(mask, value, delta)    \
  emu::shuffle(__FILE__, __LINE__, mask, value, \
               emu::lane() + (delta) < 32 ? emu::lane() + (delta) : emu::lane())

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;
inline const char* cudaGetErrorString(cudaError_t) { return "an error of the emulator"; }
