# make demo   create the environment, install aprnb, run the first tutorial, print its results
# make test   all checks and tests, browser tests included, in the same environment
# make lab    JupyterLab with the tutorial (the demo's copy if there is one)
# make docs   the documentation; warnings are errors
# make torture COUNT kills of a run, each followed by a resume, compared with a run that nobody killed
# make fuzz   COUNT mutations of real files, starting at SEED, through everything that reads them
# make mutants changes one line of the package at a time (tests/mutants/); its tests must fail; NAMES for some only
# make clean  remove the environment and everything that was made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
ifeq ($(shell uname -m),x86_64)
# one dtype and one set of kernels on every machine, so that recorded numbers compare
test: export ATEN_CPU_CAPABILITY ?= avx2
endif

.PHONY: demo test lab docs fuzz torture mutants clean chromium

demo: $(VENV)/.demo
	@$(BIN)/python notebooks/demo.py

test: $(VENV)/.dev chromium
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal --durations=25 --durations-min=5
	@APRNB_STATIC=1 $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=300 \
	    --nbval-sanitize-with notebooks/nbval_sanitize.cfg notebooks

lab: $(VENV)/.demo
	@$(BIN)/jupyter lab $(firstword $(wildcard demo/01-first-run.ipynb) notebooks/01-first-run.ipynb)

docs: $(VENV)/.dev
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

COUNT ?= 2000
SEED ?= 0
fuzz: $(VENV)/.dev
	@$(BIN)/python tests/attacks/fuzz.py --count $(COUNT) --seed $(SEED)

torture: $(VENV)/.dev
	@$(BIN)/python tests/torture/run.py --count $(COUNT) --seed $(SEED)

NAMES ?=
mutants: $(VENV)/.dev
	@$(BIN)/python tests/mutants/run.py $(NAMES)

clean:
	rm -rf $(VENV) demo docs/_build build dist .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "aprnb needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# The stamps keep pip from running again while pyproject.toml is unchanged.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing aprnb[notebook,train] into $(VENV) (about 1.5 GB, a few minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar on -e '.[notebook,train]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing aprnb[dev] into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar on -e '.[dev]'
	@touch $@ $(VENV)/.demo

chromium:
	@bash tests/chromium.sh
