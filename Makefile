# `make demo` upscales a real photograph, `make test` passes the tests. Both set up what they need.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE_PACKAGES := adapters/node adapters/node/nestjs
NODE_STAMPS := $(NODE_PACKAGES:%=%/node_modules/.installed)

.DEFAULT_GOAL := help
.PHONY: help demo test test-long node lint format schema bench clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt hatch_build.py models/upscaled_models/esrgan/native.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## upscale a photograph, and show the lines that go in and come out
	$(BIN)/python examples/demo.py

# Hundreds of real processes, perhaps on a busy machine: what fails is tried once more, alone and in
# plain sight, and what is broken fails again.
test: $(STAMP) node lint  ## everything that must hold
	$(BIN)/python -m pytest -n 3 --dist worksteal || \
	  { [ $$? -eq 1 ] && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

test-long: $(STAMP)  ## the long forms of the chaos and memory tests
	$(BIN)/python -m pytest -m long

node: $(NODE_STAMPS)  ## what the Node packages are built with
$(NODE_STAMPS): %/node_modules/.installed: %/package.json
	@if command -v npm >/dev/null; \
	then npm --prefix $* install --no-audit --no-fund && touch $@; \
	else echo "npm is not here: $* is neither built nor tested"; fi

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

schema: $(STAMP)  ## write protocol/schema, and the adapters' types, anew from the messages
	$(BIN)/python -m upscaled_protocol.schema protocol/schema
	$(BIN)/python adapters/generate.py

bench: $(STAMP)  ## print every benchmark's ratios
	$(BIN)/upscaled bench

clean:  ## remove what the targets made
	rm -rf $(VENV) $(NODE_PACKAGES:%=%/node_modules) $(NODE_PACKAGES:%=%/dist) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output
