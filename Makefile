# `make train` and `make test` set up all they need on a machine that has
# Python 3.11 or later and make: a virtual environment in .venv, made once and
# again only when the project's files change.

PYTHON ?= python3
CONFIG ?= configs/quickstart.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
FILES := pyproject.toml constraints.txt
EXTRAS := test,lint,aot,gpu-aot,docs
# The public packages, and what those read who extend them.
DOCUMENTED := jaxmodels jaxmodels.ops.engine jaxmodels.ops.kernels \
  jaxmodels.ops.reference jaxmodels.testing.sizes
# glibc then asks Linux for large pages: of small ones, the arrays that come and
# go with every step cost a fifth of the time. Read as a process starts; where
# there is no glibc it does nothing.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: train test test-matrix test-all test-newest test-peers peers lint format docs clean help

help: ## This text.
	@sed -n 's/^\([a-z-]*\):.*## /\1  /p' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxmodels needs Python 3.11 or later; name one with" \
	  "make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Training needs the package alone; tests and linting need the extras.
$(VENV)/.train: $(BIN)/python $(FILES)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e .
	@touch $@

$(VENV)/.test: $(BIN)/python $(FILES)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  -e '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.train

# recurrentgemma wants an older NumPy than the rest, but runs with this one.
$(VENV)/.peers: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  -e '.[$(EXTRAS),peers]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --no-deps recurrentgemma
	@touch $@

train: $(VENV)/.train ## Train CONFIG into WORKDIR; ARGS go to the trainer.
	$(BIN)/python -m train $(CONFIG) --workdir=$(WORKDIR) $(ARGS)

test: $(VENV)/.test ## The tests, on all cores.
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal $(ARGS)

# Every form and kind of segment, and the mixers of `EACH_OP`. More lengths, reverse
# runs, more shards and what is marked `exhaustive` are left to `test-all`.
test-matrix: $(VENV)/.test ## The slow tests of ops, mixers, checkpoints and meshes, most of them, pages and notebooks.
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal \
	  -m 'slow and not exhaustive' \
	  -k 'not few_and_many and not True-' \
	  tests/ops tests/mixers tests/interop tests/train/devices \
	  tests/test_pages.py tests/test_notebooks.py $(ARGS)

test-all: $(VENV)/.test ## The slow tests too.
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal \
	  -m '' $(ARGS)

# What pip takes for a newer Python, without constraints: the newest JAX.
test-newest: ## A part of the tests on the newest Python, where there is one.
	@DEFAULT=$(PYTHON) ARGS='$(ARGS)' bash .ci/test-newest

test-peers: $(VENV)/.peers ## Compares with others' implementations.
	$(BIN)/python -m pytest -m slow tests/peers $(ARGS)

# In an environment of Python 3.12 that has the newer ones too.
peers: ## Times our ops against others' implementations; ARGS go to the command.
	@bash .ci/peers $(ARGS)

lint: $(VENV)/.test ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test ## Rewrites the files in the house style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.test ## The API reference, into build/docs; warnings are errors.
	$(BIN)/python -W error -m pdoc --docformat google \
	  --output-directory build/docs $(DOCUMENTED)

clean: ## Removes the environment and caches, never runs.
	rm -rf $(VENV) $(VENV)-newest $(VENV)-peers .pytest_cache .ruff_cache .mypy_cache build *.egg-info
