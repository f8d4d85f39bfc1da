# `make demo` and `make test` do all set-up themselves; PYTHON chooses the interpreter of the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
, := ,

.PHONY: setup demo test test-slow lint docs package clean
.NOTPARALLEL:

setup: $(VENV)/.installed

# pip would compile all modules on one core, which is half of the time. The packages' own tests are not compiled.
define install
$(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --quiet --no-compile --upgrade pip
$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[$(1)]"
$(BIN)/python -W ignore -m compileall -qq -j 0 -x 'site-packages/.*/tests/' $(VENV)/lib || true
endef

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,dev)
	touch $@
	@echo 'Ready. To run the commands of the README yourself: source $(BIN)/activate'

$(VENV)/.extras: pyproject.toml constraints.txt
	$(call install,dev$(,)quantization$(,)eval)
	touch $(VENV)/.installed $@

demo: setup
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no recipes/demo.py

test: $(VENV)/.extras
	$(BIN)/python -m pytest -n logical --dist worksteal

test-slow: $(VENV)/.extras
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m sphinx -b html --fail-on-warning --keep-going docs docs/_build/html
	@echo 'The site is in docs/_build/html/index.html'

# A source archive and a wheel, in dist/. The wheel is built from the archive.
package: setup
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist . > /dev/null
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) outputs docs/_build build dist
