# The front door. Every target sets up what it needs; `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
ARGS ?=

.PHONY: help setup up test check fmt lint types gen lock bench faults clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## venv, locked dependencies, dashboard
	@sh scripts/setup.sh

up: setup ## start everything, push to a sample repository, print the dashboard URL (ARGS="--agents 2")
	@$(BIN)/kici up $(ARGS)

test: ## all tests, a process a core (ARGS="-k name")
	@sh scripts/setup.sh tests
	@$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup lint types ## what CI checks before it tests
	@$(BIN)/python scripts/gen_openapi.py --check
	@$(BIN)/python scripts/gen_ws_types.py --check
	@$(BIN)/python scripts/gen_reference.py --check
	@$(BIN)/python scripts/gen_lock_schema.py --check
	@$(BIN)/python scripts/gen_docs.py --check
	@sh scripts/build_dashboard.sh check

fmt: setup ## format
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix --quiet

lint: setup ## format and lint, without changing anything
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/lint-imports

types: setup ## the type gate
	@$(BIN)/basedpyright

gen: setup ## regenerate what is generated and committed
	@$(BIN)/python scripts/gen_openapi.py
	@$(BIN)/python scripts/gen_ws_types.py
	@sh scripts/build_dashboard.sh gen
	@$(BIN)/python scripts/gen_reference.py
	@$(BIN)/python scripts/gen_lock_schema.py
	@$(BIN)/python scripts/gen_schema.py
	@$(BIN)/python scripts/gen_sync_context.py
	@$(BIN)/python scripts/gen_docs.py

lock: setup ## resolve the dependencies of pyproject.toml again
	@sh scripts/lock.sh

bench: setup ## measure every path of the budget table (ARGS="--quick")
	@$(BIN)/python -m benchmarks $(ARGS)

faults: setup ## kill, pause and cut real processes (ARGS="--kills 300 --seed 1")
	@$(BIN)/python -m tests.faults $(ARGS)

clean: ## remove everything that was set up here
	@rm -rf .venv .make dashboard/node_modules src/kici/platform/static .pytest_cache .ruff_cache
