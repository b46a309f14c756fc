# Needs python3 (3.11 or later) with pip, make and git; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test thorough exhaustive mutations lint types download bench wheel clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/python -m experiments digits $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

# whether the tests notice wrong optimizers
mutations: $(INSTALLED)
	$(BIN)/python -m tests.optim.mutations $(ARGS)

# the rest of the cross product of optimizers and properties, and what takes longest
thorough: $(INSTALLED)
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal -m 'thorough and not exhaustive' $(ARGS)

# each property of the models that compile for long, optimized as users have them; not in .ci/run
exhaustive: $(INSTALLED)
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal -m exhaustive $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# fetches data sets of a few megabytes; skips those that cannot be reached
download: $(INSTALLED)
	$(BIN)/python -m pytest -m download $(ARGS)

# training, layers, attention, recurrent, transformer, optimizers, per_example or cost_model
BENCH ?= training
bench: $(INSTALLED)
	$(BIN)/python -m experiments.benchmarks.$(BENCH) $(ARGS)

# only jaxnets goes into it; built in an empty folder, where no older wheel is taken for it
OUT ?= dist
wheel: $(INSTALLED)
	rm -rf build/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m zipfile --list build/wheel/jaxnets-*.whl
	! $(BIN)/python -m zipfile --list build/wheel/jaxnets-*.whl | grep --extended-regexp '^(tests|experiments)/'
	mkdir -p $(OUT) && cp build/wheel/jaxnets-*.whl $(OUT)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build dist

# uv is quicker, but reads none of pip's settings: where it fails, pip may still succeed. Bytecode
# as pip makes it: without, the first process takes 8 s more, or each where Python may not write any
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxnets needs Python 3.11 or later; choose one with: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || $(PYTHON) -m venv --clear --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet uv || true
	$(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]' || \
	  $(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[dev]'
	touch $@
