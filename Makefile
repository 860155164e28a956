# make demo     both approaches, from nothing: environment, model, training, evaluation, comparison
# make test     all checks and all tests, as CI runs them
# make bench    side by side with TRL and mlx-lm; utilisation and profile of a step (40 minutes)
# make check    lint, format, types, import contracts
# make format   put the code in order
# make clean    remove the environment and caches; runs/ stays

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test bench check format clean openblas chromium

demo: $(INSTALLED)
	$(BIN)/speakeasy run demo

# Two processes of one thread each; then what measures time or uses every core. Threads are named,
# so that no measurement chooses them (speakeasy_torch/processor.py) where runs are compared by the bit.
test: $(INSTALLED) openblas chromium check
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m 'not starter and not alone'
	OMP_NUM_THREADS=$$(nproc 2>/dev/null || sysctl -n hw.ncpu) $(BIN)/pytest -m 'starter or alone'

# Writes its part of docs/benchmarks.md. Nothing else should run meanwhile.
bench: $(INSTALLED) openblas
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[mlx,torch,dev,bench]'
	$(BIN)/python -m benchmarks

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A file rather than the folder: an installation that broke off is done again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than Python 3.11; try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[mlx,torch,dev]'
	touch $@

# MLX's CPU build on Linux brings a slow BLAS and takes the system's OpenBLAS where there is one
# (speakeasy_mlx/__init__.py). CI fetches it to save time; without it the tests pass all the same.
openblas:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && ! ldconfig -p | grep -q 'libopenblas\.so\.0'; then \
	    { apt-get update -qq && apt-get install -y -qq libopenblas0-pthread; } >/dev/null \
	        || echo "OpenBLAS could not be installed; MLX's tests will take longer" >&2; \
	fi

# The report's tests look at it in a browser; without one they are skipped, and say so.
chromium:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && ! command -v chromium >/dev/null; then \
	    { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null \
	        || echo "Chromium could not be installed; the report is not looked at" >&2; \
	fi

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
