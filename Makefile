# From a clone with nothing installed: `make book` or `make test`. Needs Python 3.11 to 3.13, make and git.
# Linux and macOS.

VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0  # the release that every platform of the project has
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
CHAPTER ?=
NAME ?=
PYTHON ?=  # the interpreter of .venv; else the first of those below
PYTHONS := $(or $(strip $(PYTHON)),python3.11 python3.12 python3.13 python3 python)

export OMP_NUM_THREADS ?= 1
# glibc keeps freed memory instead of returning it: training steps are a fifth faster.
export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
export MALLOC_TRIM_THRESHOLD_ ?= 4294967296

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help environment data model book site lab chapters test lint unit nbval bench reproduce other-cpu browser lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

environment:  ## make .venv from requirements.lock (PYTHON=python3.12 for another interpreter)
	@wanted=$$(git hash-object requirements.lock pyproject.toml | tr '\n' ' '); \
	version() { "$$1" -c 'import sys; print(sys.version)' 2>/dev/null; }; \
	if [ -x $(BIN)/python ] && { [ -z "$(strip $(PYTHON))" ] || [ "$$(version $(PYTHONS))" = "$$(version $(BIN)/python)" ]; }; then \
	  if [ "$$(cat $(VENV)/made-from 2>/dev/null)" = "$$wanted" ]; then exit 0; fi; \
	else \
	  for python in $(PYTHONS); do \
	    $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && break; \
	    python=; \
	  done; \
	  [ -n "$$python" ] || { echo "no Python 3.11 to 3.13 with venv among: $(PYTHONS); install one, e.g. apt-get install python3.11-venv" >&2; exit 1; }; \
	  $$python -m venv --clear $(VENV) || exit 1; \
	fi; \
	echo "environment: $$($(BIN)/python --version) in $(VENV), packages of requirements.lock (some minutes) ..."; \
	$(PIP) -r requirements.lock && $(PIP) --no-deps --no-build-isolation --editable . && \
	echo "$$wanted" > $(VENV)/made-from

data: environment  ## make the teaching hospital and its corpus, in data/teaching
	@$(BIN)/python book/_ext/make_book.py data

model: data  ## train the small MARN that chapters load, in runs/model (two minutes, once)
	@$(BIN)/python book/_ext/make_book.py model

book:  ## make everything: environment, data, every chapter executed here, pages in _build/html
	@began=$$(date +%s); $(MAKE) --no-print-directory environment && \
	$(BIN)/python book/_ext/make_book.py book --environment $$(( $$(date +%s) - began ))

site: environment  ## render the pages from the stored outputs, in seconds
	@$(BIN)/python book/_ext/make_book.py site

lab: model  ## open the chapters in JupyterLab
	@$(BIN)/jupyter trust book/*.ipynb >/dev/null  # else no drawing is shown before its cell has run
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/book --ContentsManager.hide_globs=__pycache__ --ContentsManager.hide_globs='[0-9]*.md'

chapters: environment  ## execute what changed and update the committed notebooks (CHAPTER="03 04" for some)
	@$(BIN)/python book/_ext/make_book.py chapters $(CHAPTER)

test: browser  ## run all that CI runs: lint, tests, the chapters' stored outputs, the pages in a browser
	@$(MAKE) --no-print-directory data
	@{ $(MAKE) --no-print-directory lint && $(MAKE) --no-print-directory nbval CHAPTER=$(FIRST); } & \
	$(MAKE) --no-print-directory model && wait $$!  # each takes one processor
	@$(MAKE) --no-print-directory unit nbval CHAPTER="$(filter-out $(FIRST),$(CHAPTERS))"

lint: environment  ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each file runs in one process, so that what its tests share is made once; in the order of their names,
# since chapters that train come early, and a long one at the end would leave a processor idle.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

unit: data  ## run every test but nbval's, and the examples in docstrings
	$(BIN)/pytest $(WORKERS) --durations 10 --doctest-modules tests marn data_prep

NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 1800 --nbval-sanitize-with tests/nbval_sanitize.cfg -p no:cacheprovider
CHAPTERS := $(sort $(foreach page,$(notdir $(wildcard book/[0-9]*.ipynb)),$(firstword $(subst _, ,$(page)))))
# Trains the longest, and needs no model.
FIRST := 01
NOTEBOOKS = $(foreach number,$(or $(CHAPTER),$(CHAPTERS)),$(wildcard book/$(number)*.ipynb))
nbval: export TQDM_DISABLE := 1  # as the stored outputs were made
nbval: $(if $(filter-out $(FIRST),$(or $(CHAPTER),$(CHAPTERS))),model,data)  ## execute every chapter and compare it with its stored outputs (CHAPTER="03" for one)
	@rm -rf runs/[0-9][0-9]_*  # otherwise a chapter would resume an earlier run
	$(BIN)/pytest $(NBVAL) $(WORKERS) $(NOTEBOOKS)

bench: environment  ## run benchmarks against a straightforward reference (NAME="scores gru" for some)
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(NAME)

reproduce: environment  ## make the papers' tables from MIMIC-III's: MIMIC=DIR, DRY=1 to see the cost (OPTIONS=--help for more)
	@$(if $(MIMIC)$(OPTIONS),,echo "make reproduce: no tables are named; give their folder: make reproduce MIMIC=DIR" >&2; exit 2;) \
	PYTHONPATH=tests $(BIN)/python book/experiments/reproduce.py $(if $(MIMIC),"$(MIMIC)") $(if $(DRY),--dry-run) $(OPTIONS)

other-cpu:  ## run nbval imitating an older CPU, with two threads
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4" OMP_NUM_THREADS=2 $(MAKE) nbval CHAPTER="$(CHAPTER)"

# One that is there, else Playwright's own, else none, and the tests say so.
browser: environment
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  command -v $$name >/dev/null && exit 0; \
	done; \
	[ -d "/Applications/Google Chrome.app" ] || $(BIN)/playwright install chromium >/dev/null 2>&1 || \
	echo "No Chromium or Chrome here, none could be fetched: the pages will not be opened (apt-get install chromium)."

lock:  ## pin the dependencies of pyproject.toml in requirements.lock
	python3.11 -m venv --clear _build/lock
	_build/lock/bin/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*project["dependencies"], *sum(project["optional-dependencies"].values(), []), sep="\n")' > _build/lock/wanted
	_build/lock/bin/pip install --quiet torch==$(TORCH) -r _build/lock/wanted
	{ grep '^#' requirements.lock; _build/lock/bin/pip freeze --all --exclude pip \
	  | sed -E 's/\+[a-z0-9.]+$$//' | grep -vE '^(nvidia|cuda|triton)'; } > _build/requirements.lock
	mv _build/requirements.lock requirements.lock

clean:  ## remove everything made, except .venv, data and runs
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
