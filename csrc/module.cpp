// SPDX-License-Identifier: BSD-3-Clause
// The module eegfast._C. Importing it loads the library whose static initialisers register the
// torch operators (library.cpp and the files beside it); its functions tell how it was built and
// what it runs on. No tensor passes through here, and this file includes nothing of torch but the
// pybind11 that torch ships.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "eegfast/common.h"

namespace py = pybind11;

constexpr eegfast::Isa kIsas[] = {eegfast::Isa::kPortable, eegfast::Isa::kAvx2,
                                  eegfast::Isa::kAvx512};

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of eegfast: importing this module registers torch.ops.eegfast.*";
  m.def("build_info", [] {
    py::dict info;
    info["compiler"] = EEGFAST_COMPILER;
    info["torch_target"] = "2.11";
    info["torch_built_with"] = EEGFAST_TORCH_VERSION;
#if defined(EEGFAST_WITH_CUDA)
    info["cuda"] = true;
#else
    info["cuda"] = false;
#endif
    info["cuda_reason"] = EEGFAST_CUDA_REASON;
    info["cuda_archs"] = EEGFAST_CUDA_ARCHS;
    return info;
  });
  m.def("isa", [] { return std::string(eegfast::isa_name(eegfast::cpu_isa())); });
  m.def("isa_available", [] {
    std::vector<std::string> names;
    for (auto isa : kIsas)
      if (eegfast::cpu_supports(isa)) names.push_back(eegfast::isa_name(isa));
    return names;
  });
  m.def("set_isa", [](const std::string& name) {
    for (auto isa : kIsas)
      if (name == eegfast::isa_name(isa) && eegfast::cpu_supports(isa))
        return eegfast::set_cpu_isa(isa);
    throw py::value_error("eegfast._C.set_isa: this machine has no instruction set '" + name + "'");
  });
}
