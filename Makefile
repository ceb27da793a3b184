# Every target sets .venv up by itself, once, and again when pyproject.toml has changed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.docs-ready
HOME_DEMO := .megagraph

.PHONY: help demo test chaos lint format types bench docs notebooks clean

help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: install it, or say PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is older"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable '.[sandbox]' --group dev
	@touch $@

demo: $(READY) ## Run the Gobang scenario with its scripted model; no API key is needed.
	$(BIN)/megagraph run gobang --model rehearsal --home $(HOME_DEMO)

test: $(READY) ## Run all tests, on all cores.
	$(BIN)/python -m pytest -n auto --dist worksteal

chaos: $(READY) ## Kill and resume runs, more than 100 times, and branch at every step of every agent.
	MEGAGRAPH_KILLED_RUNS=18 MEGAGRAPH_BRANCH_POINTS=0 MEGAGRAPH_KILLED_KEEPING=60 $(BIN)/python -m pytest -n auto tests/test_chaos.py tests/test_branches.py tests/test_branch_edits.py tests/test_keeping.py tests/test_workers.py

lint: $(READY) ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## Measure, and print the tables of benchmarks/README.md.
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.organisation
	$(BIN)/python -m benchmarks.barrier
	$(BIN)/python -m benchmarks.files
	$(BIN)/python -m benchmarks.branch
	$(BIN)/python -m benchmarks.gate
	$(BIN)/python -m benchmarks.events
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.soak

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

docs: $(DOCS_READY) ## Build the site into site/, with docs/cli.md and the pictures made anew.
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/pictures.py
	rm -rf site
	$(BIN)/zensical build --strict --clean
	rm -f site/*.py

notebooks: $(READY) ## Execute the notebooks and keep their outputs.
	$(BIN)/python notebooks/make.py

clean: ## Remove what the other targets made.
	rm -rf .venv dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
