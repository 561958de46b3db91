# Everything runs in .venv, which the first command makes and fills.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
BUILD_INPUTS := setup.py pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc -type f)
CXX_SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install search test test-slow lint format clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(INSTALLED)  ## Make .venv and build the package in it

search: $(INSTALLED)  ## Search an architecture for small digits, from nothing to a report
	$(BIN)/proxyless search --config configs/digits.yaml

test: $(INSTALLED)  ## Run the tests
	$(BIN)/python -m pytest

test-slow: $(INSTALLED)  ## Run the tests that take long
	$(BIN)/python -m pytest -m slow

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
	rm -rf .venv build dist *.egg-info proxyless_ext/*.so

# The install is editable: a change in Python needs no other one.
$(INSTALLED): $(BUILD_INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'This needs Python 3.10 or newer: run make PYTHON=/path/to/python3.' >&2; exit 1; }
	@for compiler in $${CXX:-c++ g++ clang++}; do command -v $$compiler >/dev/null && exit 0; done; \
	  echo 'This needs a C++ compiler: install g++ or clang++, or name one with CXX=.' >&2; exit 1
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt cmake ninja pybind11 setuptools
	$(BIN)/python -m pip install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@
