# What one types in a checkout. `make` alone says what there is.

# Debian's Python is optimised by a profile and while it is linked. One that a version manager built, and that
# comes first on the path, often is not: it takes half as long again.
PYTHON ?= $(or $(wildcard /usr/bin/python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Where the environment forbids compiled files, each of hundreds of processes compiles everything again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup system-packages demo clean-demo test test-demo lint bench

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## *\(.*\)/\1 \2/p' Makefile | while read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

setup: $(STAMP)  ## install what is missing: system packages (needs root for that), .venv, the vdc command

system-packages:
	@deployments/install-system-packages

# The stamp is written last: an interrupted installation is done again.
$(STAMP): requirements.txt requirements-dev.txt pyproject.toml | system-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup  ## a datacenter on this machine, from two hosts to a bill; stays up (needs root)
	$(BIN)/python -m deployments.demo

clean-demo: setup  ## take the demo down again, to the last process
	$(BIN)/python -m deployments.demo --clean

test: setup lint  ## style, types, layers, and all tests but the demo, none skipped (needs root)
	VDC_REQUIRE_ALL=1 $(BIN)/pytest -m "not demo" --numprocesses 4 --dist loadscope --no-loadscope-reorder

test-demo: setup  ## the demo, a second time where it stands, and away: what each chapter proves
	VDC_REQUIRE_ALL=1 $(BIN)/pytest -m demo

lint: setup  ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## measure deployments against the bare floor (needs root); writes build/bench/results.csv
	$(BIN)/python -m deployments.bench
