# Everything a newcomer types. `make finetune` and `make test` set up what they need by themselves.
# Written for GNU make 3.81 (macOS) and newer.

BACKEND ?= auto
PYTHON ?=
BIN := .venv/bin
STAMP := .venv/.ready
# Two at a time: a file's tests stay together, since they share models that were built for them.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile
CORE := data/core

.DEFAULT_GOAL := help
.PHONY: help setup finetune dataset accept-7b test test-all check format mutants bench docs clean

help:  ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | while IFS='|' read -r name text; do \
		printf '  make %-9s %s\n' "$$name" "$$text"; done

setup: $(STAMP)  ## Make .venv and install everything (seconds when it is up to date)
	@$(BIN)/python -c 'import sys; print("setup: ready, Python", sys.version.split()[0], "in .venv")' >&2

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON='$(PYTHON)' bash scripts/setup.sh
	@touch $@

finetune: $(STAMP)  ## The demonstration: finetune, export to Q4_K_M, evaluate before and after (BACKEND=torch to insist)
	@$(BIN)/python -m toolkit demo --backend $(BACKEND)

dataset: $(STAMP)  ## The core set into data/core: generate, split 80/20, validate, report in docs/core-set
	@$(BIN)/python -m scripts.core_set_experiment --prepare data/nano-with-tools
	@$(BIN)/python -m toolkit dataset generate --seed 1 --out data/core-set.jsonl --overwrite
	@$(BIN)/python -m toolkit dataset split data/core-set.jsonl --out $(CORE) --shares 80/20 --seed 1 --overwrite
	@$(BIN)/python -m toolkit dataset validate $(CORE) --model data/nano-with-tools
	@$(BIN)/python -m toolkit dataset report $(CORE) --model data/nano-with-tools --out docs/core-set --title 'The core set'

accept-7b: $(STAMP)  ## Run once on a Mac or a CUDA machine: train, export and ask the 7B model, write a row of docs/benchmarks.md
	@$(BIN)/python -m scripts.accept_7b

test: $(STAMP)  ## The quick tests (at most 6 minutes)
	@$(PYTEST) -m 'not slow'

test-all: $(STAMP)  ## All tests, then a third of the mutants
	@$(PYTEST)
	@# The draw follows from code and tests, so a failing one can be repeated, and another page of docs changes nothing.
	@$(BIN)/python -m tests.mutants --share 3 --seed "$$(git rev-parse HEAD:toolkit HEAD:tests 2>/dev/null | tr '\n' ' ' || echo 0)"

check: $(STAMP)  ## Style, types, layers, and help texts in the docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "check: unformatted files; type: make format" >&2; exit 1; }
	@$(BIN)/basedpyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m scripts.command_docs --check
	@$(BIN)/python -m scripts.tested_versions --check

format: $(STAMP)  ## Let ruff format the code and mend what it can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

mutants: $(STAMP)  ## Plant every fault; each must make its named test fail
	@$(BIN)/python -m tests.mutants

bench: $(STAMP)  ## Side-by-side measurements against peers
	@found=0; for script in benchmarks/*.py; do \
		[ -e "$$script" ] || continue; found=1; echo "== $$script"; $(BIN)/python "$$script" || exit 1; done; \
		[ $$found = 1 ] || echo "bench: no benchmark has been written yet" >&2

docs: $(STAMP)  ## Write what is made from code: docs/commands.md, the list of tested versions
	@$(BIN)/python -m scripts.command_docs
	@$(BIN)/python -m scripts.tested_versions

clean:  ## Remove caches and build products (.venv and runs/ stay)
	@rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
