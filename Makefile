# Everything runs in .venv, which the first command makes and fills.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DOCS_INSTALLED := .venv/installed-docs
BUILD_INPUTS := setup.py pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc -type f)
CXX_SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
# Builds the C++ tests in the folder $(1) with the CMake option $(2), and runs them.
run_native_tests = $(BIN)/cmake -S . -B build/native/$(1) -G Ninja -DPROXYLESS_TESTS=ON $(2) \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_MAKE_PROGRAM="$$PWD/$(BIN)/ninja" && \
  $(BIN)/cmake --build build/native/$(1) && \
  $(BIN)/ctest --test-dir build/native/$(1) --output-on-failure
# Those that lean on dependencies other than torch.
MINIMUM_TESTS := $(foreach name,config cli_errors cli spaces runs_* report_* data_* export \
    latency_table,$(wildcard python_tests/test_$(name).py))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install cuda search test test-slow test-emulator test-minimum test-native test-gpu \
  bench bench-gpu docs lint format clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

install: $(INSTALLED)  ## Make .venv and build the package in it

cuda: $(INSTALLED)  ## Build the operators for GPUs, for which no GPU is needed, and load them
	CMAKE_ARGS="$$CMAKE_ARGS -DPROXYLESS_CUDA=ON" \
	  $(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	$(BIN)/python -c 'from proxyless_ext import ops, _library; assert _library.cuda_ops_loaded()'
	$(BIN)/python -m benchmarks.cuda_machine_code build/cuda_machine_code.md

search: $(INSTALLED)  ## Search an architecture for small digits, from nothing to a report
	$(BIN)/proxyless search --config configs/digits.yaml

test: $(INSTALLED)  ## Run the tests, as many at a time as there are cores
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

test-slow: $(INSTALLED)  ## Run the tests that take long
	$(BIN)/python -m pytest -m "slow and not gpu"

test-emulator: $(INSTALLED)  ## Run the kernels for GPUs on a CPU, and find the bugs seeded in them
	$(BIN)/python -m pytest -m emulator python_tests/test_cuda_emulator.py

test-minimum: $(INSTALLED)  ## Run tests with the oldest dependencies, which it downloads
	$(PYTHON) -m venv --clear .venv-minimum
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir .venv-minimum/wheel .
	.venv-minimum/bin/python -m pip install --constraint constraints-minimum.txt \
	  .venv-minimum/wheel/*.whl pytest hypothesis
	.venv-minimum/bin/pytest $(MINIMUM_TESTS)

test-native: $(INSTALLED)  ## Run the C++ tests under sanitizers, and under valgrind if it is there
	$(call run_native_tests,sanitizers,-DPROXYLESS_SANITIZERS=ON)
	@command -v valgrind >/dev/null || echo 'There is no valgrind here: its run is left out.'
	! command -v valgrind || \
	  { $(call run_native_tests,valgrind,-DCMAKE_TEST_LAUNCHER='valgrind;-q;--error-exitcode=1'); }

test-gpu: $(INSTALLED)  ## Run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu

bench: $(INSTALLED)  ## Measure speed and memory, into build/bench
	$(BIN)/python -m benchmarks.mbconv
	$(BIN)/python -m benchmarks.supernet_step

bench-gpu: $(INSTALLED)  ## Measure speed and memory on a GPU, into build/bench-gpu
	$(BIN)/python -m benchmarks.gpu --out build/bench-gpu
	$(BIN)/python -m benchmarks.cuda_kernels --out build/bench-gpu

docs: $(DOCS_INSTALLED)  ## Build the site of guides and reference, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: $(INSTALLED)  ## Check format, style and types
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)  ## Format all sources
	$(BIN)/clang-format -i $(CXX_SOURCES)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove .venv and everything that was built
	rm -rf .venv .venv-minimum build dist *.egg-info proxyless_ext/*.so

# The install is editable: a change in Python needs no other one.
$(INSTALLED): $(BUILD_INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'This needs Python 3.10 or newer: run make PYTHON=/path/to/python3.' >&2; exit 1; }
	@for compiler in $${CXX:-c++ g++ clang++}; do command -v $$compiler >/dev/null && exit 0; done; \
	  echo 'This needs a C++ compiler: install g++ or clang++, or name one with CXX=.' >&2; exit 1
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt cmake ninja pybind11 setuptools torch
	$(BIN)/python -m pip install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

# The package is there, so that this adds what its extra names.
$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --constraint constraints.txt 'proxyless_ext[docs]'
	touch $@
