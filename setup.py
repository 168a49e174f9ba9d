# SPDX-License-Identifier: BSD-3-Clause
"""Builds _C: kernels/ by CMake into a static library, csrc/ around it on torch's stable ABI.

Environment
-----------
EEGFAST_BUILD=0        pure-Python install; the operators run on their PyTorch reference
EEGFAST_CUDA=auto|1|0  CUDA kernels if nvcc is found, always (no nvcc is an error), never
EEGFAST_CUDA_ARCHS     e.g. "80;90+PTX" (default; TORCH_CUDA_ARCH_LIST is read too)
CUDACXX, CUDA_HOME     where nvcc is, if not on PATH
MAX_JOBS               compilers at a time (default: all cores)

Only torch's headers and libtorch_cpu are needed, never `import torch`, so an isolated build uses
the torch of the environment it installs into. If there is none, it is a build requirement.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
TORCH_TARGET = "0x020b000000000000"  # 2.11: the oldest torch whose stable ABI has all we use
HELP = (
    "Building eegfast's kernels needs a C++17 compiler (g++ >= 9 or clang >= 12).\n"
    "To install without them, on the slower PyTorch reference: EEGFAST_BUILD=0 pip install ."
)


def jobs() -> int:
    return int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)


def find_torch() -> Path | None:
    """Return torch's folder, from this interpreter or the environment behind build isolation."""
    places = [None, [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]]
    for place in places:
        spec = PathFinder.find_spec("torch", place)
        if spec and spec.origin and (Path(spec.origin).parent / "include").is_dir():
            return Path(spec.origin).parent
    return None


def torch_version(torch: Path) -> str:
    match = re.search(r"__version__ *(?::.*)?= *'([^']+)'", (torch / "version.py").read_text())
    return match.group(1) if match else "0"


def find_nvcc() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [os.environ.get("CUDACXX"), "nvcc"]
    candidates += [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    return next((found for c in candidates if c and (found := shutil.which(c))), None)


def cuda_choice() -> tuple[str | None, str]:
    """Return nvcc, or None, and the reason. What GPU the builder has plays no part."""
    wish = os.environ.get("EEGFAST_CUDA", "auto").lower()
    if wish not in ("auto", "1", "0"):
        raise SystemExit(f"EEGFAST_CUDA must be auto, 1 or 0, got {wish!r}")
    if wish == "0":
        return None, "EEGFAST_CUDA=0 at build time"
    nvcc = find_nvcc()
    if nvcc:
        return nvcc, f"nvcc found at build time (EEGFAST_CUDA={wish})"
    if wish == "1":
        raise SystemExit("EEGFAST_CUDA=1, but no nvcc: put it on PATH, or set CUDACXX or CUDA_HOME")
    return None, "no nvcc at build time (EEGFAST_CUDA=auto)"


def cuda_archs() -> list[str]:
    text = os.environ.get("EEGFAST_CUDA_ARCHS") or os.environ.get("TORCH_CUDA_ARCH_LIST")
    archs = [a.replace(".", "") for a in re.split(r"[;, ]+", text or "80;90+PTX") if a]
    for arch in archs:
        if not re.fullmatch(r"\d+[af]?(\+PTX)?", arch):
            raise SystemExit(f'EEGFAST_CUDA_ARCHS must look like "80;90+PTX", got {text!r}')
    return archs


def cuda_library_dir(nvcc: str) -> str:
    """Ask nvcc itself: the one on PATH may be a wrapper far from its toolkit."""
    dry = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    top = re.search(r"TOP=(\S+)", dry)
    if not top:
        raise SystemExit(f"{nvcc} --dryrun does not tell where its toolkit is")
    return next(
        str(path)
        for path in (Path(top.group(1)) / "lib64", Path(top.group(1)) / "lib")
        if path.is_dir()
    )


class BuildKernels(build_ext):
    def build_extension(self, ext: Extension) -> None:
        try:
            self.build_with_torch(ext)
        except SystemExit:
            raise
        except Exception as error:
            raise SystemExit(f"\neegfast: the build failed: {error}\n{HELP}\n") from error

    def build_with_torch(self, ext: Extension) -> None:
        torch = find_torch()
        if torch is None:
            raise SystemExit(
                "eegfast: torch's headers were not found. Install torch >= 2.11 first and build "
                "with `pip install . --no-build-isolation`, or plain `pip install .` to fetch one."
            )
        version = torch_version(torch)
        if tuple(map(int, version.split("+")[0].split(".")[:2])) < (2, 11):
            raise SystemExit(f"eegfast: torch >= 2.11 is needed, {torch} holds {version}")
        nvcc, reason = cuda_choice()
        archs = cuda_archs() if nvcc else []
        print(f"eegfast: torch {version}; CUDA {'yes' if nvcc else 'no'}: {reason} {archs or ''}")

        library = self.build_kernels(nvcc, archs)
        compiler = subprocess.run(
            [*self.compiler.compiler_cxx, "--version"], capture_output=True, text=True
        ).stdout.splitlines()
        facts = {
            "EEGFAST_COMPILER": compiler[0] if compiler else "unknown",
            "EEGFAST_TORCH_VERSION": version,
            "EEGFAST_CUDA_REASON": reason,
            "EEGFAST_CUDA_ARCHS": ";".join(archs),
        }
        macros = [(name, '"' + value.replace('"', "'") + '"') for name, value in facts.items()]
        macros += [("TORCH_TARGET_VERSION", TORCH_TARGET)]
        macros += [("EEGFAST_WITH_CUDA", None)] if nvcc else []
        flags = ["-std=c++17", "-O2", "-g0", "-fvisibility=hidden", f"-ffile-prefix-map={ROOT}=."]
        include = [str(torch / "include"), str(ROOT / "kernels/include"), *self.include_dirs]

        def compile_one(source: str) -> list[str]:
            return self.compiler.compile(
                [source], self.build_temp, macros, include, extra_postargs=flags
            )

        with ThreadPoolExecutor(jobs()) as pool:
            objects = sum(pool.map(compile_one, ext.sources), [])
        link = ["-ltorch_cpu", f"-L{torch / 'lib'}"]
        if nvcc:
            link += [f"-L{cuda_library_dir(nvcc)}", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
        if sys.platform == "darwin":
            link += ["-Wl,-rpath,@loader_path/../torch/lib"]
        else:
            link += ["-Wl,--exclude-libs,ALL"]
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            [*objects, str(library)], target, extra_postargs=link, target_lang="c++"
        )

    def build_kernels(self, nvcc: str | None, archs: list[str]) -> Path:
        # pip gives an editable install a temporary folder, where nothing would be found again.
        folder = ROOT / "build" if self.editable_mode else Path(self.build_temp).resolve()
        build = folder / ("kernels-cuda" if nvcc else "kernels-cpu")
        configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"]
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        if nvcc:
            # CMake's "90" is machine code and PTX, "90-real" machine code alone.
            cmake_archs = [a.removesuffix("+PTX") if "+" in a else f"{a}-real" for a in archs]
            configure += ["-DEEGFAST_WITH_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
            configure += [f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(cmake_archs)}"]
        try:
            subprocess.run(configure, check=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(build, ignore_errors=True)  # CMake would remember the wrong compiler
            raise
        subprocess.run(["cmake", "--build", str(build), "--parallel", str(jobs())], check=True)
        return build / "libeegfast_kernels.a"


def build_requirements() -> list[str]:
    """What pip must bring into an isolated build, beyond what the machine has."""
    needed = [] if find_torch() else ["torch>=2.11"]
    needed += [] if shutil.which("cmake") else ["cmake>=3.18"]
    return needed


# kernels/triton is one of eegfast's packages. kernels/ itself is none, so that `import kernels`
# finds other people's package of that name from here, too.
PACKAGES = dict(
    packages=[*find_namespace_packages(include=["eegfast", "eegfast.*"]), "eegfast._triton"],
    package_dir={"eegfast._triton": "kernels/triton"},
)

if os.environ.get("EEGFAST_BUILD", "1") == "0":
    setup(**PACKAGES)
else:
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.cpp"))
    setup(
        **PACKAGES,
        ext_modules=[Extension("eegfast._C", sources, language="c++")],
        cmdclass={"build_ext": BuildKernels},
        # pip asks for these through setuptools' egg_info; `python setup.py` is to fetch nothing.
        setup_requires=build_requirements() if "egg_info" in sys.argv else [],
    )
