# Every target sets up what it needs: a .venv in the checkout, with the package and its tools.
PYTHON ?= python3
BIN := .venv/bin
# the processes of the tests share what one of them has compiled
unexport PYTHONDONTWRITEBYTECODE

.PHONY: search test test-full check bench docs format
search: .venv/installed
	$(BIN)/nasframe search

test: .venv/installed
	$(BIN)/pytest -n logical --dist worksteal --nasframe nasframe

test-full: .venv/installed
	$(BIN)/pytest -n logical --dist worksteal --hypothesis-profile full --nasframe nasframe --nasframe-full

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy docs/measurements docs/generate.py
	$(BIN)/pytest -q tests/test_layers.py -k imports

bench: .venv/installed
	$(BIN)/python docs/measurements/bench.py --threads 1
	$(BIN)/python docs/measurements/bench.py --threads 2
	$(BIN)/python docs/measurements/splitting.py

docs: .venv/installed
	$(BIN)/python docs/generate.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
