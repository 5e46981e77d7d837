# Every target sets up what it needs in .venv on a machine with Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
WORKERS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo docs test lint check-all check-fuzz check-chaos clean

$(STAMP): pyproject.toml setup.py $(wildcard src/dfmamba/ops/native/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## predict on the pictures that ship with the project
	$(BIN)/dfmamba predict examples --out out/demo
	@echo "Open the pictures in out/demo."

lint: $(STAMP)
	$(BIN)/ruff check src tests tools studies
	$(BIN)/ruff format --check src tests tools studies
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) lint  ## everything but the slow checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

docs: $(STAMP)  ## the site in out/site; links that lead nowhere are errors
	$(BIN)/mkdocs build --strict

check-all: $(STAMP) lint  ## also the slow checks
	test -d node_modules/onnxruntime-web || npm install --no-save onnxruntime-web
	$(BIN)/python -m pytest tests studies
	$(MAKE) check-fuzz

check-fuzz: $(STAMP)  ## read 20,000 damaged files of every format
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py --count 20000 --seed 0

check-chaos: $(STAMP)  ## kill a training run 20 times, tear its files, fill its disk, compare the bits
	OMP_NUM_THREADS=1 $(BIN)/python tests/train/chaos.py --kills 20 --steps 100

clean:
	rm -rf out build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
