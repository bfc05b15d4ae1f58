# Every target builds .venv first when it is missing; nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `mlflow run --env-manager local` starts the `python` that it finds on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db
export MLFLOW_DISABLE_TELEMETRY ?= true
export NO_MKDOCS_2_WARNING ?= 1
PORT ?= 5000

.PHONY: setup demo test test-gpu test-browser torture check format ui tables docs dist clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/mlflow run . -e main --env-manager local --experiment-name selftrain

test: setup
	$(BIN)/pytest

test-gpu: setup
	$(BIN)/pytest tests/gpu

test-browser: setup
	$(BIN)/pytest -m browser

torture: setup
	$(BIN)/pytest -m torture

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ui: setup
	$(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT)

tables: setup
	$(BIN)/python -m analysis.splice README.md docs/performance.md docs/cuda.md

docs: setup
	$(BIN)/mkdocs build --strict

dist: setup
	$(BIN)/uv build --quiet --clear

clean:
	rm -rf outputs mlruns mlartifacts mlflow.db site .pytest_cache .mypy_cache .ruff_cache .hypothesis
