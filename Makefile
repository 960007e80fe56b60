# `make demo` and `make test` need only Python 3.11 and a package registry: each sets up .venv first, quick the second time.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON := $(shell command -v python3.11 || command -v python3)
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-slow train-smoke check bench clean help

help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onepeace needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.8'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,m4a,pretrained,scale]'
	touch $@

demo: $(STAMP) ## Embed the gallery, search it in every direction, write onepeace-demo/index.html
	$(BIN)/onepeace demo --out onepeace-demo

test: $(STAMP) ## Run all tests but the slow ones
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(STAMP) ## Run the slow tests
	$(BIN)/python -m pytest -m slow

train-smoke: $(STAMP) ## Train both stages of the plain recipe on the gallery, a minute or two
	rm -rf runs/plain-smoke
	$(BIN)/onepeace train plan configs/plans/smoke.yaml

check: $(STAMP) ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## Measure start-up, encoding, a folder and a training step side by side, half an hour
	for name in startup encode pipeline train_step; do $(BIN)/python benchmarks/$$name.py || exit 1; done

clean: ## Remove what was installed and built
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis onepeace-demo
