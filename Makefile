# Each target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
#   make train                        MMSA on sc2v2, a short run to look at
#   make train ARGS="seed=1 t_max=1000000 env_args.map_name=terran_5_vs_5"
#   make compare                      algorithms side by side in a few minutes (config/experiments/quick.yaml), and a page
#   make compare ARGS="--experiment=lbf --dry-run"
#   make test, make test-all, make lint, make bench
#   make epymarl                      MMSA in upstream EPyMARL, a short run; clones the tested commit into .epymarl
#   make epymarl EPYMARL_PATH=PATH    the same in a checkout that is there; make test EPYMARL_PATH=PATH tests against it
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
ARGS ?=
PIP_ARGS ?=
EPYMARL_URL ?= https://github.com/uoe-agents/epymarl.git
EPYMARL_COMMIT := cbc38c09588064eab978501d0f12c2cf58fa7fc2
BIN := .venv/bin
READY := .venv/ready

.PHONY: train compare epymarl test test-all lint bench setup clean
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

epymarl: $(READY) $(if $(EPYMARL_PATH),,.epymarl)
	$(BIN)/python src/main.py --epymarl="$(or $(EPYMARL_PATH),.epymarl)" --config=mmsa --env-config=gymma \
	  with env_args.key=Foraging-8x8-2p-3f-v3 t_max=20000 test_interval=5000 test_nepisode=20 log_interval=5000 $(ARGS)

.epymarl:
	@rm -rf $@.part && git init -q $@.part && GIT_TERMINAL_PROMPT=0 git -C $@.part fetch -q --depth 1 $(EPYMARL_URL) $(EPYMARL_COMMIT) && \
	  git -C $@.part checkout -q FETCH_HEAD && mv $@.part $@ || { rm -rf $@.part; \
	  echo "error: $(EPYMARL_URL) at $(EPYMARL_COMMIT) could not be cloned (is git here, and the network?);" \
	    "name a checkout that you have: make epymarl EPYMARL_PATH=PATH" >&2; exit 1; }

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
	rm -rf .venv .epymarl .pytest_cache .mypy_cache .ruff_cache .hypothesis build plugins/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
