# make lab: study.  make test: check everything.  make help: the rest.  Nothing but Python ≥ 3.11 and make is needed.

# Work that another make may be doing at the same time (a lab beside a test) must not fight over one environment.
VENV ?= .venv
# The newest supported interpreter that runs; `make PYTHON=/path/to/python3.12 …` chooses another. (Trying it is more
# than finding it: the shims of a version manager are on the PATH for versions that are not active, too.)
ifndef PYTHON
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
endif
# `make setup TORCH=cpu` takes the CPU-only PyTorch (smaller; Linux takes the CUDA build otherwise).
TORCH ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.course-setup
NOTEBOOKS ?= $(sort $(wildcard notebooks/*.ipynb))
# Tests run side by side, one thread each.
WORKERS ?= auto

# Two settings as large as the models (measured). GOMP_SPINCOUNT: a waiting thread spins for microseconds, then sleeps;
# spinning on (the default) lets one busy neighbour stall every parallel region, never spinning (OMP_WAIT_POLICY=PASSIVE)
# makes small layers on two threads slower than on one. The malloc thresholds keep freed activations in the process,
# instead of faulting the same pages in again every step.
export GOMP_SPINCOUNT ?= 1000
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
export MALLOC_TOP_PAD_ ?= 268435456

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-unit notebooks live slides exercises grade site lint format bench mutations browser-test clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make the environment (once; again only when its inputs changed)

$(STAMP): requirements.txt constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found. Install it, or say where it is: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else f"$(PYTHON) is Python {v}; the course needs 3.11 or newer: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "No virtual environment could be made. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
ifeq ($(TORCH),cpu)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --torch-backend cpu -r requirements.txt -c constraints.txt
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
endif
	@$(BIN)/python -m ipykernel install --sys-prefix --name python3 --display-name "Python 3 (course)" \
	    --env GOMP_SPINCOUNT $(GOMP_SPINCOUNT) --env MALLOC_MMAP_THRESHOLD_ $(MALLOC_MMAP_THRESHOLD_) \
	    --env MALLOC_TRIM_THRESHOLD_ $(MALLOC_TRIM_THRESHOLD_) --env MALLOC_TOP_PAD_ $(MALLOC_TOP_PAD_) > /dev/null
	@touch $@

lab: setup  ## open JupyterLab at the first lecture
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

test: setup  ## every test: the library, the equations, the notebooks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadscope

test-unit: setup  ## the same without the notebooks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadscope tests --ignore=tests/notebooks

notebooks: setup  ## run every notebook from top to bottom and keep its outputs (NOTEBOOKS=… for some)
	$(BIN)/python -m course_lib.classroom.execute $(NOTEBOOKS)

live: setup  ## copies of the lectures to type in: notebooks/live/ (NOTEBOOKS=… for some, FORCE=1: over what was typed)
	$(BIN)/python -m course_lib.classroom.live $(NOTEBOOKS) $(if $(FORCE),--force)

slides: setup  ## the lectures as reveal.js pages in build/slides (CHECK=1: nothing over an edge; needs Chromium)
	$(BIN)/python -m course_lib.classroom.slides $(NOTEBOOKS) $(if $(CHECK),--check)

exercises: setup  ## the students' release of the graded exercises (FORCE=1: over what was worked on)
	$(BIN)/python -m course_lib.classroom.release $(if $(FORCE),--force)

grade: setup  ## grade SUBMISSIONS=folder of student/assignment/*.ipynb, JOBS=n at a time, into graded/
	@test -n "$(SUBMISSIONS)" || { echo "Which submissions? make grade SUBMISSIONS=folder [JOBS=4] [ONLY=ex01_pca_autoencoders] [COURSE_GRADING_SEED=…]"; exit 1; }
	@COURSE_GRADING_SEED="$(COURSE_GRADING_SEED)" $(BIN)/python -m course_lib.classroom.grading "$(SUBMISSIONS)" \
	    --jobs $(or $(JOBS),1) $(if $(OUTPUT),--output "$(OUTPUT)") $(if $(ONLY),--only $(ONLY)) $(if $(UNSAFE),--unsafe)

browser-test: setup  ## the lectures in a real JupyterLab and Chromium: every widget moved (K=03 for some)
	$(BIN)/python -m pytest tests/browser $(if $(K),-k "$(K)")

site: setup  ## the lectures, exercises, glossary and reference as static pages, in build/site
	$(BIN)/python -m course_lib.site

lint: setup  ## ruff over code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff put code and notebooks in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## the benchmarks: ours against the naive way or a peer, in one run
	$(BIN)/python -m pytest tests/benchmarks -s -o python_files="bench_*.py"

mutations: setup  ## break each formula once and see a test go red
	$(BIN)/python tests/mutations.py

clean:  ## remove the environment and the caches (not the downloaded data)
	rm -rf $(VENV) data/cache .pytest_cache .ruff_cache .hypothesis .benchmarks
