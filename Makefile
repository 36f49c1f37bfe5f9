# Everything a newcomer needs: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
DATA ?= digits
BIN := $(VENV)/bin
PIP_PLAIN := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PIP := $(PIP_PLAIN) -c constraints.txt
LIGHTNINGS ?= 2.2.5 2.3.3 2.4.0 2.5.6

.DEFAULT_GOAL := help
.PHONY: help demo test test-full test-lightning lint types clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## Train an update of a digits classifier three ways and show what each breaks (DATA=fashion_mnist for more)
	$(BIN)/graceful bench experiment=$(DATA)

test: $(VENV)/.dev lint types  ## Lint, types and the tests (under 12 minutes on two cores)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not gpu"

test-full: $(VENV)/.dev lint types  ## The tests with those marked slow
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not gpu"

test-lightning: $(VENV)/.dev  ## The identity matrix under each Lightning from 2.2 on (LIGHTNINGS="2.2.5 2.4.0" for some)
	for version in $(LIGHTNINGS); do \
	  $(PIP_PLAIN) --no-deps --target $(VENV)/lightning-$$version \
	    pytorch-lightning==$$version lightning==$$version "setuptools<81" || exit 1; \
	  echo "== Lightning $$version"; \
	  PYTHONPATH=$(VENV)/lightning-$$version $(BIN)/python -W ignore -m pytest -q -W ignore -m "not slow" \
	    tests/test_identity_matrix.py tests/test_trainer_seams.py || exit 1; \
	done

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
