# Every target sets up what it needs: a .venv in the checkout, with the package and its tools.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: search test check bench format
search: .venv/installed
	$(BIN)/nasframe search

test: .venv/installed
	$(BIN)/pytest -n auto

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py -k imports

bench: .venv/installed
	$(BIN)/python docs/measurements/bench.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
