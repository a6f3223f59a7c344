# What each target does: make help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

$(VENV)/.run: setup.cfg pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the gateway into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "installing what the tests and checks need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@# FastChat's templates are the oracle of the prompt tests; its dependencies are not needed for them.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps fschat==0.2.36
	@touch $@

.PHONY: run
run: $(VENV)/.run ## Start the gateway in front of a demonstration fleet, and say what to try
	@$(BIN)/dbgpt-gateway serve --demo

.PHONY: test
test: $(VENV)/.test ## Run all tests that need no other program
	@$(BIN)/python -m pytest -n 3 --dist loadfile
	@$(BIN)/dbgpt-gateway test rules

.PHONY: interop
interop: $(VENV)/.test ## Run the tests on the real FastChat and the real DB-GPT (builds their environments first)
	@$(BIN)/python -m tests.interop.environments
	@$(BIN)/python -m pytest tests/interop

.PHONY: docs
docs: $(VENV)/.run ## Write reference pages, schemas and the digest of the tested rules anew, after a change of what they are of
	@$(BIN)/python -m proxy.tools.reference docs/reference
	@$(BIN)/dbgpt-gateway schema --write rules/schemas
	@$(BIN)/python -m proxy.tools.tested

.PHONY: lint
lint: $(VENV)/.test ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: bench
bench: $(VENV)/.test ## Measure the gateway beside nginx, a plain relay and the peers that were built (20 minutes)
	@$(BIN)/python -m benchmarks.run

.PHONY: bench-quick
bench-quick: $(VENV)/.test ## A short look at the same: everything once, with small loads
	@$(BIN)/python -m benchmarks.run --quick

.PHONY: bench-peers
bench-peers: $(VENV)/.test ## Build the environments of FastChat's OpenAI server and LiteLLM's proxy for make bench
	@$(BIN)/python -m benchmarks.peers

.PHONY: bench-micro
bench-micro: $(VENV)/.test ## Nanoseconds of the parts of the hot path
	@$(BIN)/python -m benchmarks.micro

.PHONY: simulate
simulate: $(VENV)/.test ## Compare the ways to choose a worker: a simulation of 60 workers (a minute)
	@$(BIN)/python -m benchmarks.simulation

.PHONY: chaos
chaos: $(VENV)/.test ## Kill, stall and break the workers of a demonstration fleet under load (two minutes)
	@$(BIN)/python -m benchmarks.chaos

.PHONY: clean
clean: ## Remove the environment and everything that was made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help
help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
