# Everything a newcomer needs: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
DATA ?= digits
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint types clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## Train an update of a digits classifier three ways and show what each breaks (DATA=fashion_mnist for more)
	$(BIN)/graceful bench experiment=$(DATA)

test: $(VENV)/.dev lint types  ## Lint, types and the tests (under 12 minutes on two cores)
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-full: $(VENV)/.dev lint types  ## The tests with those marked slow
	$(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/.dev  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy --strict on the package
	$(BIN)/mypy

clean:  ## Remove the environment and what runs left here
	rm -rf $(VENV) build runs .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# torch first and alone: with it in place nothing that follows picks another build of it.
	$(PIP) torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch setup.py
	$(PIP) -e '.[report]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch setup.py
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.demo
