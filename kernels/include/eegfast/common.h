// SPDX-License-Identifier: BSD-3-Clause
// What every kernel header shares. Nothing here, nor anywhere in kernels/, knows torch.
#pragma once

#include <cstdint>

namespace eegfast {

enum class DType { kFloat32, kFloat64, kFloat16, kBFloat16 };  // the last two: CUDA only

// Instruction sets that the CPU kernels are compiled for, best last.
enum class Isa { kPortable, kAvx2, kAvx512 };

// The set in use: the best that this machine runs, unless the environment variable EEGFAST_ISA
// names a lesser one or set_cpu_isa() was called with one that the machine supports.
Isa cpu_isa();
void set_cpu_isa(Isa isa);
bool cpu_supports(Isa isa);
const char* isa_name(Isa isa);

// Runs body(begin, end, context) over disjoint ranges that cover [begin, end). The caller brings
// the threads (torch's), so that there is one pool in the process.
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain,
                             void (*body)(int64_t, int64_t, void*), void* context);

// The text of a cudaError_t, which is what the launchers of CUDA kernels return.
const char* cuda_error_string(int error);

}  // namespace eegfast
