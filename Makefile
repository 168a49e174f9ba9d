# SPDX-License-Identifier: BSD-3-Clause
# `make demo` and `make test` need Python >= 3.10, a C++17 compiler and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
# A CPU build of torch is enough; where pip would fetch CUDA packages, give its index: TORCH="torch --index-url URL".
TORCH ?= torch==2.13.0

.PHONY: demo test bench gpu lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/eegfast demo -o demo

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto

bench: $(VENV)/installed
	$(BIN)/python -m pytest --benchmark

# On a machine with a GPU, by the python3 that holds torch. PROFILE=1 adds ncu, DRY_RUN=1 needs no GPU.
gpu:
	$(PYTHON) .ci/gpu.py $(if $(DRY_RUN),--dry-run) $(if $(PROFILE),--profile)

lint: $(VENV)/installed
	$(BIN)/python -m pip install -q --group dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files '*.cpp' '*.cu' '*.cuh' '*.h')
	$(BIN)/lint-imports

# Kernels are rebuilt when a source of theirs changed.
KERNEL_SOURCES = setup.py pyproject.toml CMakeLists.txt $(shell find csrc kernels -type f)

$(VENV)/installed: $(KERNEL_SOURCES) | $(VENV)/environment
	$(BIN)/python -m pip install -e ".[test]" --no-build-isolation
	touch $@

$(VENV)/environment:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip "setuptools>=77.0.3,<82" wheel
	$(BIN)/python -m pip install $(TORCH)
	command -v cmake >/dev/null || $(BIN)/python -m pip install cmake
	touch $@

clean:
	rm -rf build dist *.egg-info $(VENV) demo
	find eegfast -name '*.so' -delete
