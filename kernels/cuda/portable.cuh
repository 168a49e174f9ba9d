// SPDX-License-Identifier: BSD-3-Clause
// What a kernel source includes: CUDA under nvcc, the host emulator (kernels/emu) elsewhere. It
// launches with launch() instead of <<<>>>, and declares shared memory with the two macros.
#pragma once

#include "eegfast/common.h"

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

// T& name, one object per block, uninitialised.
#define EEGFAST_SHARED(T, name) __shared__ T name
// T* name, as many bytes as launch() was given.
#define EEGFAST_DYNAMIC_SHARED(T, name)                         \
  extern __shared__ __align__(16) unsigned char shared_bytes[]; \
  T* name = reinterpret_cast<T*>(shared_bytes)

namespace eegfast {

// Returns the launch's cudaError_t.
template <class... Params, class... Args>
int launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
           const Args&... args) {
  if (shared_bytes > 48 * 1024) {
    const int error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           int(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  return cudaGetLastError();
}

}  // namespace eegfast

#else

#include "cuda_emu.h"
#include "half_emu.h"

#define EEGFAST_SHARED(T, name)         \
  static emu::Shared<T> name##_storage; \
  T& name = name##_storage.of_this_block()
#define EEGFAST_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(emu::dynamic_shared())

namespace eegfast {

template <class... Params, class... Args>
int launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void*,
           const Args&... args) {
  emu::run(grid, block, shared_bytes, [&] { kernel(args...); });
  return 0;
}

}  // namespace eegfast

#endif

namespace eegfast {

// Elements of 16 bits are computed on in float.
template <class IO>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class IO>
using Accumulator = typename AccumulatorOf<IO>::type;

__device__ inline float load(const float* from) { return *from; }
__device__ inline double load(const double* from) { return *from; }
__device__ inline float load(const __half* from) { return __half2float(*from); }
__device__ inline float load(const __nv_bfloat16* from) { return __bfloat162float(*from); }
__device__ inline void store(float* to, float value) { *to = value; }
__device__ inline void store(double* to, double value) { *to = value; }
__device__ inline void store(__half* to, float value) { *to = __float2half_rn(value); }
__device__ inline void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

// Copies an element to shared memory without waiting for it. What was copied before the last
// `Later` calls of close_copies() has arrived, for this thread, after wait_for_copies<Later>().
template <class T>
__device__ void copy_to_shared(T* to, const T* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  __pipeline_memcpy_async(to, from, sizeof(T));
#else
  *to = *from;
#endif
}
__device__ inline void close_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  __pipeline_commit();
#endif
}
template <int Later>
__device__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  __pipeline_wait_prior(Later);
#endif
}

// Loads and stores by a type known at run time.
template <class T>
__device__ T load_as(DType dtype, const void* from, int64_t i) {
  switch (dtype) {
    case DType::kFloat64:
      return T(static_cast<const double*>(from)[i]);
    case DType::kFloat16:
      return T(load(static_cast<const __half*>(from) + i));
    case DType::kBFloat16:
      return T(load(static_cast<const __nv_bfloat16*>(from) + i));
    default:
      return T(static_cast<const float*>(from)[i]);
  }
}

template <class T>
__device__ void store_as(DType dtype, void* to, int64_t i, T value) {
  switch (dtype) {
    case DType::kFloat64:
      return store(static_cast<double*>(to) + i, double(value));
    case DType::kFloat16:
      return store(static_cast<__half*>(to) + i, float(value));
    case DType::kBFloat16:
      return store(static_cast<__nv_bfloat16*>(to) + i, float(value));
    default:
      return store(static_cast<float*>(to) + i, float(value));
  }
}

// Calls run with a value of the element type.
template <class Run>
auto with_dtype(DType dtype, const Run& run) -> decltype(run(float())) {
  switch (dtype) {
    case DType::kFloat64:
      return run(double());
    case DType::kFloat16:
      return run(__half());
    case DType::kBFloat16:
      return run(__nv_bfloat16());
    default:
      return run(float());
  }
}

}  // namespace eegfast
