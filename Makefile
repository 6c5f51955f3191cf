# Two commands matter: `make demo` and `make test`. Both set everything up on a bare machine.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Trust what the machine trusts: many banks have certificate authorities of their own.
export UV_SYSTEM_CERTS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# Tests start hundreds of processes: what they import is compiled once, not in each of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo live test check soak bench clean

help:  ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedscore needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,experiments,live,network]'
	@touch $@

demo: $(READY)  ## Train a national scorecard across eight institutions and write a report
	$(BIN)/python -m fedscore.demo

live: $(READY)  ## Train across separate processes: a coordinator and five institutions
	$(BIN)/python -m fedscore.live

check: $(READY)  ## Format, lint, types and architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## All checks and all tests
	$(BIN)/python -m pytest -n 4 --dist worksteal

soak: $(READY)  ## Hours: plans for 20 minutes, 10,000 schedules of faults, long fuzzing
	$(BIN)/python -m tests.soak --minutes 20
	$(BIN)/python -m tests.chaos --schedules 10000
	$(BIN)/python -m tests.chaos --processes 25
	$(BIN)/python -m pytest -m soak
	FEDSCORE_FUZZ=20 $(BIN)/python -m pytest -n 2 -k fuzz tests/adversarial

bench: $(READY)  ## Make the figures of the README again
	$(BIN)/python -m experiments run comparison
	$(BIN)/python -m experiments.demo_figures
	$(BIN)/python -m experiments.documents

clean:  ## Remove everything that make made
	rm -rf $(VENV) demo-output experiments-output build dist *.egg-info
