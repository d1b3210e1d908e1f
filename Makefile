# Development in a virtual environment. `make help` lists the targets.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SANITIZED := build/sanitized
TYPED := build/typed
SECONDS ?= 3600
SEED ?= $$(date +%s)

.PHONY: help install test build debug sanitize lint bench wheels soak clean

help:
	@echo "install   create $(VENV), build and install dllama there"
	@echo "test      run the tests"
	@echo "build     build the kernels in place, for an editable install"
	@echo "debug     build the kernels in place, with bounds checks"
	@echo "sanitize  run the tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "lint      check style and types"
	@echo "bench     time the kernels"
	@echo "wheels    build and check wheels for x86-64 and aarch64 (PYTHON: for which Python)"
	@echo "soak      try bad input and faults for SECONDS=$(SECONDS) (KINDS: which)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

install: $(BIN)/python
	$(BIN)/pip install ".[test,dev]"

test:
	$(BIN)/pytest -n auto

build: $(BIN)/python
	$(BIN)/pip install --quiet "cython>=3.1" "numpy>=2" "setuptools>=77.0.3"
	$(BIN)/python setup.py build_ext --inplace

debug: $(BIN)/python
	DLLAMA_DEBUG=1 $(MAKE) build

# Python is not built with the sanitizers, so their runtime must be loaded first. Leaks do not count,
# since Python has some by design. The process that renders templates has little memory, and may run out of it.
sanitize:
	$(PYTHON) -m venv $(SANITIZED)
	DLLAMA_SANITIZE=address,undefined $(SANITIZED)/bin/pip install --quiet ".[test]"
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=64 LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" \
		$(SANITIZED)/bin/pytest -q -p no:cacheprovider -m "not slow" tests/dllama

# mypy reads the package as it is installed, with the folders that lie beside dllama/ in it.
lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPED) && mkdir -p $(TYPED)
	cp -r dllama $(TYPED) && cp -r converter transports $(TYPED)/dllama
	cd $(TYPED) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache

bench:
	$(BIN)/python benchmarks/kernels.py

wheels:
	PYTHON=$(PYTHON) .ci/wheels

soak:
	$(BIN)/python tests/hostile/soak.py --seconds $(SECONDS) --seed $(SEED) $(KINDS)

clean:
	rm -rf build dist *.egg-info
