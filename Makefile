# Everything runs in .venv, which the first target makes. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster check bench clean slurm
.DELETE_ON_ERROR:

PYTHON ?=# the interpreter for .venv; empty: python3, or the first of python3.13 ... that is new enough
TORCH ?= torch==2.13.0# named on the command line of pip, so that pip keeps this build of it

LMMS_EVAL := lmms-eval==0.7.3# without its dependencies: see "eval" in pyproject.toml

BIN := .venv/bin
export PYTHONSAFEPATH := 1# a folder of the clone never shadows an installed package

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/.installed  ## five methods and the full cache on the tiny model: a table and a figure, in minutes
	$(BIN)/sparsemm run +experiment=quickstart

test: .venv/.installed-dev slurm  ## the tests, a process per core; more options with ARGS="-k worker -x"
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

test-cluster: .venv/.installed-dev slurm  ## every disturbance of a sweep on a real SLURM of two nodes, a quarter of an hour
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/cluster/test_cluster.py tests/cluster/matrix*.py --durations=0 $(ARGS)

slurm:  ## SLURM for its tests, where it may be installed: root on Debian; elsewhere they are skipped
	@PATH="$$PATH:/usr/sbin"; command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v sbatch >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	  apt-get -qq install -y --no-install-recommends slurmctld slurmd slurm-client >/dev/null; } || \
	echo "SLURM cannot be installed here: its tests are skipped."

check: .venv/.installed-dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# mypy does not read package-dir: show it the packages as they are installed
	@rm -rf .venv/typed && mkdir -p .venv/typed/sparsemm
	@cd .venv/typed/sparsemm && ln -s ../../../sparsemm/* ../../../kernels ../../../conf ../../../experiments .
	@ln -s ../../hydra_plugins .venv/typed
	cd .venv/typed && ../bin/mypy -p sparsemm --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache

bench: .venv/.installed  ## the measured figures: the grid against one cell, planning, the store
	@for file in benchmarks/*.py; do echo "$$file"; $(BIN)/python "$$file" || exit 1; done

clean:  ## remove .venv and caches; outputs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.made:
	@python=; \
	for name in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14); do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "SparseMM needs Python 3.11 or newer; found: $$($(or $(PYTHON),python3) --version 2>&1 | head -n 1)." >&2; \
	  echo "Install one, or name it: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	"$$python" -m venv .venv || { \
		  echo "$$python cannot make a virtual environment. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

.venv/.installed: pyproject.toml | .venv/.made
	$(BIN)/python -m pip install $(TORCH) -e .
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/.made
	$(BIN)/python -m pip install $(TORCH) -e ".[dev,eval]"
	$(BIN)/python -m pip install --no-deps $(LMMS_EVAL)
	@touch .venv/.installed $@
