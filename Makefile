# Everything a person types: `make demo`, `make test`. Both install what they need into .venv, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint types check docs clean help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[all,dev]"
	touch $@

demo: .venv/.stamp  ## train, measure and show a small model in about five minutes
	$(BIN)/chiasm demo --resume

lint: .venv/.stamp  ## format, style and import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: .venv/.stamp  ## static types
	$(BIN)/mypy

check: lint types

test: .venv/.stamp check  ## everything that must pass before a commit
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: test  ## the gate, the parity tests that need further packages, and the planted bugs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[parity]"
	$(BIN)/python -m pytest -n 2 --dist worksteal -rs tests/evaluate tests/models tests/objectives
	$(BIN)/python benchmarks/mutants.py

docs: .venv/.stamp  ## write docs/help.md from the command line itself
	$(BIN)/python docs/make_help.py

clean:  ## remove what was built
	rm -rf .venv build src/*.egg-info
