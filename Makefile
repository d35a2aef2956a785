# Every target sets up what it needs in .venv: a machine with Python >= 3.11, make and git is enough.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help demo ui test test-slow bench bench-large lint format lock clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# As `. .venv/bin/activate` would set it: dg starts programs of its own.
ACTIVATED := VIRTUAL_ENV="$$PWD/$(VENV)" PATH="$$PWD/$(BIN):$$PATH"
UV := $(BIN)/python -m uv
# Where Python is told to write no bytecode, each worker, and each program that a test starts, would compile all anew.
COMPILED := PYTHONDONTWRITEBYTECODE=
# Where the home folder lies: inbox, ledger, reports, Dagster's own storage.
BATCH_PIPELINE_HOME ?= .home
PORT ?= 3000

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## a sample cohort all the way: plan, approval, dispatch, receipts, fallbacks, reports
	@$(BIN)/batch-pipeline --home "$(BATCH_PIPELINE_HOME)" demo

# umask: what Dagster's programs make in the home is its owner's alone, as the home is. The long heartbeat: the code
# server ends itself when it hears nothing for 30 s, and a laptop that slept for a minute would wake up without it.
ui: $(READY) ## Dagster's UI and daemon on http://127.0.0.1:3000 (PORT=...), over the same home folder
	@$(BIN)/batch-pipeline --home "$(BATCH_PIPELINE_HOME)" init
	@umask 077 && home="$$(cd "$(BATCH_PIPELINE_HOME)" && pwd)" && \
	exec env BATCH_PIPELINE_HOME="$$home" DAGSTER_HOME="$$home/dagster" $(ACTIVATED) \
	DAGSTER_GRPC_PROXY_HEARTBEAT_TTL_SECONDS=86400 \
	$(BIN)/dg dev --host 127.0.0.1 --port $(PORT)

test: $(READY) ## the tests, but for the slow ones (about 10 minutes on two cores)
	@$(COMPILED) $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(READY) ## the slow tests: phones against phonenumbers by the million, kill -9, ...
	@$(COMPILED) $(BIN)/python -m pytest -m slow -n 2 --dist worksteal

bench: $(READY) ## how fast a cohort of 1,000,000 lines is planned, 100,000 messages sent, 10,000 receipts taken, 2,000 patients served
	@$(BIN)/python -m benchmarks.planning --rows 1000000
	@$(BIN)/python -m benchmarks.dispatching --messages 100000
	@$(BIN)/python -m benchmarks.gateway --receipts 10000
	@$(BIN)/python -m benchmarks.patients --patients 2000 --seconds 60

bench-large: $(READY) ## the same with 10,000,000 lines
	@$(BIN)/python -m benchmarks.planning --rows 10000000

lint: $(READY) ## style, types, the one-way layers, Dagster's definitions
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo
	@DAGSTER_HOME="$$PWD/$(VENV)/dagster" $(ACTIVATED) $(BIN)/dg check defs

format: $(READY) ## mend what ruff can mend
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

lock: $(READY) ## choose every dependency's version again and write requirements.lock
	@$(UV) pip compile --quiet --system-certs --upgrade --universal --python-version 3.11 --generate-hashes --extra dev \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## remove .venv, caches and the demo's home folder (asks nothing: an own home folder lies elsewhere)
	@rm -rf $(VENV) .home .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find batch_pipeline batch_pipeline_tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: a set-up that was cut short is done again.
$(READY): requirements.lock pyproject.toml
	@sh .ci/venv $(VENV) && sh .ci/frontend $(VENV) && touch $@
