# `make demo` and `make test` need only Python 3.11 and a package registry: each sets up .venv first, quick the second time.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
USERS := $(VENV)/.installed-for-users
PYTHON := $(shell command -v python3.11 || command -v python3)
export HF_HUB_OFFLINE := 1
# Where the environment forbids to keep compiled modules, each of the many processes would compile PyTorch anew, 3 s.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-slow test-wheel train-smoke check audit bench notebooks dist docs clean help chromium

help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

# The demo installs what users do, everything else what developers need.
$(STAMP): EXTRAS := dev,docs,m4a,pretrained,scale,sequences,service,client,datasets,langchain,llama-index,lora,mteb,scikit-learn,notebooks
$(USERS): EXTRAS := service
$(STAMP) $(USERS): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onepeace needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.8'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(USERS)) ## Embed the gallery, search it in every direction, write onepeace-demo/index.html
	$(BIN)/onepeace demo --out onepeace-demo

# One thread for each process: more would wait for one another. Many tests wait for a service, so three are not too many.
test: $(STAMP) chromium ## Run all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n 3 --dist loadfile --no-loadscope-reorder

# The tests of the page need a browser: without one, where Debian's cannot be installed either, they are skipped.
APT := DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes -o Acquire::Retries=1 -o Acquire::http::Timeout=20
chromium:
	@command -v $(CHROMIUM) chromium chromium-browser google-chrome chrome >/dev/null || { \
	    test "$$(id -u)" = 0 || root='sudo -n'; command -v apt-get >/dev/null && \
	    $$root env $(APT) update && $$root env $(APT) install --no-install-recommends chromium fonts-liberation; \
	} >/dev/null 2>&1 || true

test-slow: $(STAMP) ## Run the slow tests
	$(BIN)/python -m pytest -m slow

test-wheel: $(STAMP) ## Build the wheel, install it into a clean environment, and use it there
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

dist: $(STAMP) ## Build the wheel and the source distribution into dist/, and look whether they are well formed
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

train-smoke: $(STAMP) ## Train both stages of the plain recipe on the gallery, a minute or two
	rm -rf runs/plain-smoke
	$(BIN)/onepeace train plan configs/plans/smoke.yaml

check: $(STAMP) ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(STAMP) ## Check licences and known vulnerabilities of what is installed; the latter asks PyPI over the internet
	@failed=0; \
	$(BIN)/pip-licenses --summary || failed=1; \
	$(BIN)/pip-audit --strict --progress-spinner off --no-deps --disable-pip --requirement constraints.txt || failed=1; \
	exit $$failed

bench: $(STAMP) ## Measure start-up, encoding, a folder and a training step side by side, half an hour
	for name in startup encode pipeline train_step; do $(BIN)/python benchmarks/$$name.py || exit 1; done

notebooks: $(STAMP) ## Run all notebooks and write what comes out into them, five minutes
	$(BIN)/python notebooks/execute.py

docs: $(STAMP) ## Build the documentation into site/, which works offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## Remove what was installed and built
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis onepeace-demo dist site
