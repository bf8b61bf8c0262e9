# Targets for people. `make` alone explains them.
PYTHON ?= python3.11
PRESET ?= quick
# Processes of `make test`: one more than two cores, because studies wait for their kernels.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install study full full-report figures lab docs readme check test bench clean

help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(READY)  ## make .venv with the package and the pinned versions of what it needs

$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name one with PYTHON=..."; exit 1; }
	@echo "installing into $(VENV) (a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --no-compile --editable ".[dev]"
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores; pip would use one
	@touch $(READY)

study: $(READY)  ## run the study (PRESET=quick): fetch, train, evaluate, draw, report; ARGS="--set key=value" changes it
	@$(BIN)/ctsr study $(PRESET) $(ARGS)

full: $(READY)  ## the paper's own data, about a day on two cores, less with ARGS=--stored; DATA=folder or zip of it (default: fetched)
	@$(BIN)/ctsr study full $(if $(DATA),--data "$(DATA)") $(ARGS)

full-report: $(READY)  ## draw the figures and report of figures/full again, from its tables, in a few minutes
	@$(BIN)/ctsr report full

figures: $(READY)  ## publish a finished study (PRESET=quick) to figures/quick, all files or none
	@$(BIN)/ctsr figures $(PRESET)

# Settings for JupyterLab on top of the user's own, and the notebook that runs/explore.ipynb was copied from.
LAB := runs/.lab
lab: $(READY)  ## open JupyterLab on the explorer, in a copy of its notebook that you may change
	@mkdir -p $(LAB) && echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}' > $(LAB)/overrides.json
	@test -e runs/explore.ipynb || { cp nbs/explore.ipynb runs && cp nbs/explore.ipynb $(LAB); }
	@cmp -s nbs/explore.ipynb $(LAB)/explore.ipynb || echo "runs/explore.ipynb is a copy of an older nbs/explore.ipynb: to get the new one, rename yours and run 'make lab' again"
	@$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/runs/explore.ipynb --LabApp.app_settings_dir="$$PWD/$(LAB)" \
		--ServerApp.tornado_settings='{"websocket_max_message_size": 1000000000}' $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

docs: $(READY)  ## build the documentation site into _docs, a few minutes
	@$(BIN)/python nbs/site/build.py

readme: $(READY)  ## write README.md from nbs/index.ipynb
	@$(BIN)/python nbs/study/readme.py

check: $(READY)  ## style (ruff), library in step with the notebooks, fast tests
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/python -m pytest tests --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow and not browser and not network"

test: $(READY)  ## everything: style, notebooks clean and executed, tests/, a whole smoke study
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/python -m pytest tests --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

bench: $(READY)  ## time our denoising network against diffusers' and MONAI's (fetches both)
	@$(PIP) --editable ".[bench]"
	@mkdir -p runs/benchmark
	@$(BIN)/python -m papermill nbs/study/benchmark.ipynb runs/benchmark/benchmark.ipynb --no-progress-bar --log-output

clean:  ## remove the environment and everything a run wrote
	rm -rf $(VENV) runs _proc _docs build *.egg-info
