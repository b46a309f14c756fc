# Needs python3 (3.11 or later) with pip, make and git; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test lint types bench wheel clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/python -m experiments digits $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m experiments.benchmarks.training $(ARGS)

# only jaxnets goes into it
OUT ?= dist
wheel: $(INSTALLED)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(OUT) .
	$(BIN)/python -m zipfile --list $(OUT)/jaxnets-*.whl
	! $(BIN)/python -m zipfile --list $(OUT)/jaxnets-*.whl | grep --extended-regexp '^(tests|experiments)/'

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build dist

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxnets needs Python 3.11 or later; choose one with: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || $(PYTHON) -m venv --clear --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet uv || true
	if $(BIN)/python -m uv --version; \
	then $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --editable '.[dev]'; \
	else $(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[dev]'; fi
	touch $@
