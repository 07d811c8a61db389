# What people run before a commit. .ci/run runs the same targets on a clean checkout.
# `make test PYTHON=python3.13 VENV=.venv-3.13` tests with another Python.
PYTHON ?= python3
VENV ?= .venv

.PHONY: check static test faults pins

check: static test

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

static: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: $(VENV)/installed
	$(VENV)/bin/pytest

# Long runs in which processes, databases, disks and clocks fail. FAULTS_SCALE=0.3 makes them shorter.
faults: $(VENV)/installed
	$(VENV)/bin/pytest -m faults

# Writes requirements.txt anew: PINS=--upgrade for the newest versions, PINS='--upgrade-package flask' for one.
# The oldest Python makes it (PYTHON), since it needs the most packages.
pins: $(VENV)/installed
	$(VENV)/bin/pip install --quiet pip-tools
	$(VENV)/bin/pip-compile --quiet --generate-hashes --strip-extras --no-header --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host $(PINS) --output-file requirements.txt pyproject.toml
