# `make quickstart` and `make test` need nothing but Python 3.10 or newer: each sets up a virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.rtd-plugin
TEST_INSTALLED := $(VENV)/.rtd-plugin-test

.PHONY: quickstart test versions

quickstart: $(INSTALLED)
	$(BIN)/rtd-plugin train --adapter lincir

test: $(TEST_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# The oldest and the newest supported versions, where their Pythons are installed.
versions: $(TEST_INSTALLED)
	$(BIN)/python tests/versions.py

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[train]'
	touch $@

$(TEST_INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@ $(INSTALLED)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
