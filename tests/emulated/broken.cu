// SPDX-License-Identifier: BSD-3-Clause
// Kernels with one mistake each, which the emulator must find, and correct ones beside them.
#include "portable.cuh"

namespace eegfast {
namespace {

constexpr int kThreads = 64;
constexpr unsigned kAll = 0xffffffffu;

// Reverses a block's values through shared memory.
__global__ void reverse(const float* in, float* out, bool with_barrier) {
  using Tile = float[kThreads];
  EEGFAST_SHARED(Tile, tile);
  tile[threadIdx.x] = in[threadIdx.x];
  if (with_barrier) __syncthreads();
  out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

// Adds a block's values by a tree; the first level may leave its last element unwritten.
__global__ void add_up(const float* in, float* out, int written) {
  EEGFAST_DYNAMIC_SHARED(float, sums);
  if (int(threadIdx.x) < written) sums[threadIdx.x] = in[threadIdx.x];
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = sums[0];
}

// The first `early` threads leave, or wait elsewhere.
__global__ void part(float* out, int early, bool leave) {
  const bool is_early = int(threadIdx.x) < early;
  if (is_early && leave) return;
  if (is_early)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void copy(const float* in, float* out, int first, int count) {
  if (int(threadIdx.x) < count) out[first + int(threadIdx.x)] = in[threadIdx.x];
}

__global__ void past_shared(float* out) {
  EEGFAST_DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void read_pair(const float* in, float* out) {
  const float2 pair = *reinterpret_cast<const float2*>(in + 1);
  out[threadIdx.x] = pair.x + pair.y;
}

__global__ void warp_sum(const float* in, float* out, unsigned mask) {
  float sum = in[threadIdx.x];
  for (unsigned bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(mask, sum, bits);
  out[threadIdx.x] = sum + __shfl_down_sync(kAll, 0.0f, 1) + __shfl_sync(kAll, 0.0f, 3);
}

}  // namespace
}  // namespace eegfast

using namespace eegfast;

// Runs the named kernel on in (64 floats) and returns out[0 .. 64), both in guarded memory.
extern "C" __attribute__((visibility("default"))) void eegfast_run(const char* name, uint64_t seed,
                                                                   const float* in, float* out) {
  emu::set_seed(seed);
  constexpr size_t bytes = kThreads * sizeof(float);
  float* x = static_cast<float*>(emu::guarded(bytes));
  float* y = static_cast<float*>(emu::guarded(bytes - 4));  // 63 floats
  float* z = static_cast<float*>(emu::guarded(bytes));
  std::memcpy(x, in, bytes);
  const auto is = [name](const char* other) { return !std::strcmp(name, other); };
  if (is("reverse")) launch(reverse, 1, kThreads, 0, nullptr, x, z, true);
  if (is("reverse without barrier")) launch(reverse, 1, kThreads, 0, nullptr, x, z, false);
  if (is("sum")) launch(add_up, 2, kThreads, bytes, nullptr, x, z, kThreads);
  if (is("sum of unwritten")) launch(add_up, 2, kThreads, bytes, nullptr, x, z, kThreads - 1);
  if (is("some leave")) launch(part, 1, kThreads, 0, nullptr, z, 3, true);
  if (is("some wait elsewhere")) launch(part, 1, kThreads, 0, nullptr, z, 3, false);
  if (is("copy")) launch(copy, 1, kThreads, 0, nullptr, x, y, 0, kThreads - 1);
  if (is("one element past the end")) launch(copy, 1, kThreads, 0, nullptr, x, y, 0, kThreads);
  if (is("far past the end")) launch(copy, 1, kThreads, 0, nullptr, x, y, 8, kThreads);
  if (is("before the start")) launch(copy, 1, kThreads, 0, nullptr, x, z, -1, kThreads);
  if (is("past shared memory")) launch(past_shared, 1, kThreads, bytes, nullptr, z);
  if (is("misaligned pair")) launch(read_pair, 1, kThreads, 0, nullptr, x, z);
  if (is("warp sum")) launch(warp_sum, 1, kThreads, 0, nullptr, x, z, kAll);
  if (is("shuffle without its lanes")) launch(warp_sum, 1, kThreads / 4, 0, nullptr, x, z, kAll);
  if (is("shuffle out of its mask")) launch(warp_sum, 1, kThreads, 0, nullptr, x, z, 0xfffffff0u);
  std::memcpy(out, is("copy") ? y : z, bytes - 4);
  emu::release(x);
  emu::release(y);
  emu::release(z);
}
