# make run    set up, then run the main job on real data
# make test   set up, then every check and every test
# Needs git, make and Python 3.11 or newer; all else goes into .venv.

# Where a Python is looked for, in this order; `make PYTHONS=/path/to/python` names another one.
PYTHONS := python3.11 python3 python3.12 python3.13 python3.14
VENV := .venv
BIN := $(VENV)/bin
# What was set up has the extras in its name: CI needs more than a plain run, which is content with more.
READY := $(VENV)/.ready$(if $(CI)$(wildcard $(VENV)/.ready-deploy),-deploy)
BENCH_READY := $(VENV)/.bench-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# In CI nothing is skipped.
comma := ,
EXTRAS := test$(if $(filter %-deploy,$(READY)),$(comma)deploy)

.PHONY: run test setup lint format faults bench clean
.DELETE_ON_ERROR:

run: setup
	@$(BIN)/python -m apps.quakes.run

test: lint
	$(BIN)/python -m pytest -q --numprocesses 4 --dist worksteal

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

format: setup
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# Every crash point 20 times; `make test` runs each twice.
faults: setup
	PSPF_FAULT_RUNS=20 $(BIN)/python -m pytest -q tests/faults

bench: $(BENCH_READY)
	@$(BIN)/python -m benchmarks.embedded
	@$(BIN)/python -m benchmarks.valkey
	@$(BIN)/python -m benchmarks.windows

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .pspf
	find pspf apps tests benchmarks -name __pycache__ -type d -exec rm -rf {} +

setup: $(READY)

# The stamp is made last, so that a set-up that was interrupted is done again.
$(READY): pyproject.toml
	@python=; for candidate in $(PYTHONS); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11 or newer is needed; looked for: $(PYTHONS)." >&2; \
	  echo "Name another one with: make PYTHONS=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; fi; \
	echo "set-up: virtual environment in $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV) || { \
	  echo "$$python can't make a virtual environment; Debian and Ubuntu keep that in the package python3-venv." >&2; exit 1; }
	@echo "set-up: PSPF and what its tests need"
	@$(PIP) install --editable '.[$(EXTRAS)]'
	@touch $@
	@echo "set-up: done"

# Whom PSPF is compared with is installed only where that is asked for.
$(BENCH_READY): $(READY)
	@$(PIP) install --editable '.[test,bench]'
	@touch $@
