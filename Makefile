# What a newcomer types. Everything that is needed is installed into .venv from requirements.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lab-test lint types bench lock env clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      the main job, end to end, on the images under examples/"
	@echo "make test      every test that needs no Go"
	@echo "make lab-test  the tests against real services, built with Go (minutes, once)"
	@echo "make lint      ruff;  make types: mypy --strict"
	@echo "make bench     ratios beside its peers; BENCH=\"scale --full\": one section (docs/benchmark.md)"
	@echo "make env       .env with the secrets of docker-compose.yaml"
	@echo "make lock      requirements.txt anew from pyproject.toml (needs uv)"

$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python -m examples.demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not lab"

lab-test: $(INSTALLED)
	$(BIN)/python -m tests.lab tools
	LONGSEAL_LAB=required $(BIN)/python -m pytest -m lab

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m tests.lab tools
	$(BIN)/python -m tests.bench $(BENCH)

lock:
	uv pip compile pyproject.toml --extra airflow --extra dev --universal --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--output-file requirements.txt

env:
	$(PYTHON) deploy/make_env.py

clean:
	rm -rf $(VENV) var build
