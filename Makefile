# The one door. Every target sets up .venv first if it is missing or older than its pins.
#   make sweep SESSION=2 DATA=DIR WEIGHTS=DIR SIZE=160 TRIALS=N MINUTES=M SWEEP=quick WORKERS=2
PYTHON  ?= python3
SESSION ?= 2
WORKERS ?= 1
PORT    ?= 5000
NAME    ?= forward
SEED    ?= 1
VENV    := .venv
SATX    := $(VENV)/bin/satx
READY   := $(VENV)/.ready
# what both backends must do alike
CONTRACT := $(addprefix tests/training/test_,compiled_steps.py exactness.py inputs.py resume.py steps.py trained_variables.py trainer.py)

# Recipes read these from the environment, so that neither make nor the shell interprets a character in them.
TEXTS := SESSION WORKERS DATA WEIGHTS SIZE TRIALS MINUTES SWEEP FLEET BUDGET_USD PORT NAME SEED URL
$(foreach name,$(TEXTS),$(eval override export $(name) := $$(value $(name))))

.DEFAULT_GOAL := help
.PHONY: help setup sweep compare ui test test-faults test-slow test-exhaustive conformance lint format bench chaos gc clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with everything pinned

$(READY): pyproject.toml infra/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else "satx needs Python 3.11 or 3.12, this is " + sys.version.split()[0] + "; pass PYTHON=python3.11")'
	@echo 'Setting up $(VENV): some minutes'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint infra/constraints.txt --editable '.[dev]'
	touch $@

sweep: $(READY) ## the main job: SESSION=2 [DATA= WEIGHTS= SIZE= TRIALS= MINUTES= SWEEP= WORKERS= | FLEET= BUDGET_USD= SPOT=1]
	@$(SATX) sweep --session "$$SESSION" --workers "$$WORKERS" $(if $(DATA),--data "$$DATA") $(if $(WEIGHTS),--weights "$$WEIGHTS") \
	  $(if $(SIZE),--size "$$SIZE") $(if $(TRIALS),--trials "$$TRIALS") $(if $(MINUTES),--minutes "$$MINUTES") \
	  $(if $(SWEEP),--sweep "$$SWEEP") $(if $(FLEET),--fleet "$$FLEET") $(if $(BUDGET_USD),--budget-usd "$$BUDGET_USD") $(if $(SPOT),--spot)

compare: $(READY) ## the figure of all curves and a page: SESSION=2
	$(SATX) compare --session "$$SESSION"

ui: $(READY) ## MLflow on 127.0.0.1: PORT=5000
	$(SATX) ui --port "$$PORT"

test: $(READY) ## the fast tests; three processes keep two cores busy, since many tests wait
	$(VENV)/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m 'not slow and not exhaustive' --quiet
	KERAS_BACKEND=jax $(VENV)/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m 'not slow and not exhaustive' --quiet $(CONTRACT)

test-faults: $(READY) ## one of each kind that kills, fills disks and cuts off
	$(VENV)/bin/python -m pytest --numprocesses 3 --dist load -m faults --quiet

test-slow: $(READY) ## the tests that take a minute each
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist load -m slow --quiet

test-exhaustive: $(READY) ## every cut of every backbone
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist load -m exhaustive --quiet

conformance: $(READY) ## TensorFlow Serving's REST contract, asked of satx serve, or of the server at URL=http://127.0.0.1:8501
	$(VENV)/bin/python -m pytest tests/inference/conformance --quiet $(if $(URL),--conformance-url "$$URL")

lint: $(READY) ## ruff, mypy and the direction of imports
	$(VENV)/bin/ruff check satx tests experiments infra
	$(VENV)/bin/ruff format --check satx tests experiments infra
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(READY) ## let ruff rewrite
	$(VENV)/bin/ruff check --fix satx tests experiments infra
	$(VENV)/bin/ruff format satx tests experiments infra

chaos: $(READY) ## a fleet rehearsed while everything breaks, or TRAIN=1 real trainings: SEED=1
	$(VENV)/bin/python experiments/benchmarks/$(if $(TRAIN),chaos_training,chaos).py --seed "$$SEED"

bench: $(READY) ## a benchmark of experiments/benchmarks: NAME=forward [ARGS="..."]
	$(VENV)/bin/python "experiments/benchmarks/$$NAME.py" $(ARGS)

gc: $(READY) ## remove what no sweep needs any more from SATX_HOME
	$(SATX) gc

clean: ## remove .venv and caches of tools; results in .satx stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
