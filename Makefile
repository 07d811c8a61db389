# What people run; .ci/run runs the same targets on a clean checkout.
BIN := .venv/bin

.PHONY: check format-check lint types imports test faults

check: format-check lint types imports test

.venv: pyproject.toml
	python3 -m venv .venv && $(BIN)/pip install -q -e '.[dev]' && touch .venv

format-check: .venv
	$(BIN)/ruff format --check .

lint: .venv
	$(BIN)/ruff check .

types: .venv
	$(BIN)/mypy

imports: .venv
	$(BIN)/lint-imports

test: .venv
	$(BIN)/pytest

# FAULTS_SCALE makes the runs shorter or longer.
faults: .venv
	$(BIN)/pytest -m faults
