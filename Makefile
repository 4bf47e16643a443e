# `make serve` and `make test` are all that a fresh machine needs: Python >= 3.11, a C/C++ compiler and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?= conifer-demo-dense
PYTEST_ARGS ?=
# A file's tests stay together: they share servers and compiled kernels.
WORKERS ?= --numprocesses=auto --maxprocesses=4 --dist=loadfile

PACKAGE := $(shell find conifer_gguf native plugins catalog -type f \
	-not -path '*/__pycache__/*' -not -path 'conifer_gguf/_native/*' 2>/dev/null)

.PHONY: serve test check lint native plugin clean

serve: $(VENV)/.installed ## install, serve a tiny model that comes with it, print the address
	$(BIN)/conifer-gguf serve --model $(MODEL) --pull

test: $(VENV)/.tests-installed ## the whole suite; what this machine lacks is skipped with its reason
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest -p no:cacheprovider -rs $(WORKERS) $(PYTEST_ARGS)

check: $(VENV)/.dev-installed lint ## lint, types and the fast tests, under a minute
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest -q -p no:cacheprovider tests/unit -m "not slow"

lint: $(VENV)/.dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

native: $(VENV)/.dev-installed ## compile the shim and the plugins into this checkout, to run it without installing
	$(BIN)/cmake -S native -B build/dev -G Ninja -DCONIFER_STRICT=ON -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja)
	$(BIN)/cmake --build build/dev
	$(BIN)/cmake --install build/dev --prefix .

plugin: ## make plugin P=plugins/ssd_scan compiles one plugin the way a third party would
	$(CC) -O2 -fPIC -shared -fvisibility=hidden -Inative/include -I$(P) -o $(P)/$(notdir $(P)).so $(P)/$(notdir $(P)).c -lm

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

define install
	@$(BIN)/python -c "import llama_cpp" 2>/dev/null || echo "building llama.cpp once, about 5 minutes on 2 cores"
	$(BIN)/python -m pip install --progress-bar off $(1)
	@touch $@
endef

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(PACKAGE)
	$(call install,".")

$(VENV)/.tests-installed: $(VENV)/bin/python pyproject.toml $(PACKAGE)
	$(call install,".[test]")
	@touch $(VENV)/.installed

$(VENV)/.dev-installed: $(VENV)/bin/python pyproject.toml $(PACKAGE)
	$(call install,".[dev]")
	@touch $(VENV)/.installed $(VENV)/.tests-installed

clean:
	rm -rf build dist conifer_gguf/_native $(VENV)
