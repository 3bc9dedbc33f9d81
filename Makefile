# Each target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
#   make train                        MMSA on sc2v2, a short run to look at
#   make train ARGS="seed=1 t_max=1000000 env_args.map_name=terran_5_vs_5"
#   make compare                      algorithms side by side in a few minutes (config/experiments/quick.yaml), and a page
#   make compare ARGS="--experiment=lbf --dry-run"
#   make test, make test-all, make lint, make bench
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
ARGS ?=
PIP_ARGS ?=
BIN := .venv/bin
READY := .venv/ready

.PHONY: train compare test test-all lint bench setup clean
.DEFAULT_GOAL := train

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] + \
	  "; name another one: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	@touch $@

train: $(READY)
	$(BIN)/python src/main.py --config=mmsa --env-config=sc2v2 with t_max=30000 test_interval=5000 test_nepisode=32 $(ARGS)

compare: $(READY)
	$(BIN)/python src/compare.py $(if $(filter --experiment% --search% --report%,$(ARGS)),,--experiment=quick) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

test-all: $(READY)
	$(BIN)/python -m pytest -m "" -n auto --maxprocesses 4 $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy src plugins

bench: $(READY)
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build plugins/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
