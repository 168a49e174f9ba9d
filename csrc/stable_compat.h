// SPDX-License-Identifier: BSD-3-Clause
// The few words between torch's stable ABI and the kernels: types, checks, threads, streams.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "eegfast/common.h"

#if defined(EEGFAST_EMULATED)
#include "cuda_emu.h"
#endif

namespace eegfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType kernel_dtype(const char* op, const Tensor& x) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "eegfast.ops.", op,
                  ": this device's kernel takes float32 or float64, got another dtype");
  return type == ScalarType::Float ? DType::kFloat32 : DType::kFloat64;
}

// CUDA kernels take the half types too.
inline DType cuda_kernel_dtype(const char* op, const Tensor& x) {
  const ScalarType type = x.scalar_type();
  if (type == ScalarType::Half) return DType::kFloat16;
  if (type == ScalarType::BFloat16) return DType::kBFloat16;
  return kernel_dtype(op, x);
}

inline void torch_threads(int64_t begin, int64_t end, int64_t grain,
                          void (*body)(int64_t, int64_t, void*), void* context) {
  STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(begin, end, grain, body, context));
}

// torch's own contiguous() is a trip through the dispatcher even where there is nothing to do.
inline Tensor as_contiguous(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

// A signal (..., n_chans, n_times) seen as (batch, n_chans, n_times) with contiguous time.
struct Signal {
  Tensor tensor;
  int64_t batch, n_chans, n_times, stride_batch, stride_chan;
};

inline Signal as_signal(Tensor x) {
  const auto view = [&x]() -> Signal {
    const int64_t dims = x.dim();
    Signal s{x, 1, x.size(dims - 2), x.size(dims - 1), 0, x.stride(dims - 2)};
    for (int64_t d = dims - 3; d >= 0; --d) {
      if (x.size(d) == 1) continue;
      if (s.batch == 1) s.stride_batch = x.stride(d);
      if (x.stride(d) != s.stride_batch * s.batch) return {x, -1, 0, 0, 0, 0};
      s.batch *= x.size(d);
    }
    if (s.n_times > 1 && x.stride(dims - 1) != 1) s.batch = -1;
    return s;
  };
  if (x.numel() == 0) {  // contiguous whatever its strides
    int64_t batch = 1;
    for (int64_t d = 0; d + 2 < x.dim(); ++d) batch *= x.size(d);
    return {x, batch, x.size(x.dim() - 2), x.size(x.dim() - 1), 0, 0};
  }
  Signal s = view();
  if (s.batch >= 0) return s;
  x = as_contiguous(x);
  return view();
}

// The shape of features for a signal's leading dimensions: (..., windows, n_chans, bands).
inline std::vector<int64_t> feature_shape(const Tensor& x, int64_t windows, int64_t bands) {
  std::vector<int64_t> shape;
  for (int64_t d = 0; d + 2 < x.dim(); ++d) shape.push_back(x.size(d));
  shape.insert(shape.end(), {windows, x.size(x.dim() - 2), bands});
  return shape;
}

inline int64_t count_windows(int64_t n_times, int64_t window, int64_t step) {
  return n_times < window ? 0 : (n_times - window) / step + 1;
}

#if !defined(EEGFAST_EMULATED)
inline Tensor empty_like_shape(const Tensor& like, const std::vector<int64_t>& shape,
                               ScalarType type) {
  return torch::stable::new_empty(
      like, torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()), type);
}
#else
// For the host emulator: poisoned, and no access beyond it goes unseen.
inline Tensor empty_like_shape(const Tensor& like, const std::vector<int64_t>& shape,
                               ScalarType type) {
  std::vector<int64_t> strides(shape.size());
  int64_t count = type == ScalarType::Byte     ? 1
                  : type == ScalarType::Double ? 8
                  : type == ScalarType::Float  ? 4
                                               : 2;
  const int64_t element = count;
  for (size_t d = shape.size(); d-- > 0; count *= shape[d]) strides[d] = count / element;
  return torch::stable::from_blob(emu::guarded(size_t(count)), {shape.data(), shape.size()},
                                  {strides.data(), strides.size()}, like.device(), type,
                                  emu::release);
}
#endif

// Uninitialised, contiguous, on the device of `like` and of its type.
inline Tensor empty_like_shape(const Tensor& like, const std::vector<int64_t>& shape) {
  return empty_like_shape(like, shape, like.scalar_type());
}

// Uninitialised memory for a kernel's own use, on the device of `like`.
inline Tensor workspace_like(const Tensor& like, int64_t bytes) {
  const int64_t element = int64_t(like.element_size());
  return empty_like_shape(like, {(bytes + element - 1) / element});
}

#if defined(EEGFAST_WITH_CUDA)
// Makes a tensor's device the current one, and knows torch's current stream there. The stream is
// found in the libtorch_cuda that is already loaded: linking against it would keep the extension
// from importing under a CPU build of torch.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& x) : guard_(x.get_device_index()) {
    using StreamFn = AOTITorchError (*)(int32_t, void**);
    static const StreamFn stream_fn = [] {
      void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
      void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
      return reinterpret_cast<StreamFn>(symbol);
    }();
    STD_TORCH_CHECK(stream_fn, "eegfast: this torch build has no CUDA");
    STABLE_TORCH_ERROR_CODE_CHECK(stream_fn(x.get_device_index(), &stream_));
  }
  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};
#elif defined(EEGFAST_EMULATED)
struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  void* stream() const { return nullptr; }
};
#endif

inline void check_launch(const char* op, int error) {
  STD_TORCH_CHECK(error == 0, "eegfast.ops.", op, ": CUDA error: ", cuda_error_string(error));
}

}  // namespace eegfast

// Opens the block that registers an op's kernels for CUDA tensors. Under the host emulator they
// serve CPU tensors, in a library of their own.
#if defined(EEGFAST_EMULATED)
#define EEGFAST_CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(eegfast_emulated, CPU, m)
#else
#define EEGFAST_CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(eegfast, CUDA, m)
#endif
#if defined(EEGFAST_WITH_CUDA) || defined(EEGFAST_EMULATED)
#define EEGFAST_HAS_CUDA_KERNELS
#endif
