# `make demo` and `make test` create .venv on their first run.
PYTHON ?= python3
BIN := .venv/bin
CONTRACT_TESTS := tests/models/test_attention.py tests/models/test_encoders.py tests/models/test_decoders.py \
  tests/models/test_factory.py tests/evaluation/test_metrics.py tests/data/test_loader.py

.PHONY: setup demo test test-minimal test-oldest lint lock clean

demo: setup
	rm -rf demo
	$(BIN)/segcoord data sample --layout voc --out demo/data
	$(BIN)/segcoord train --config configs/sample.yaml --run demo/run
	$(BIN)/segcoord evaluate --checkpoint demo/run/best.ckpt \
	  --masks demo/masks --overlays demo/overlays --sheet demo/sheet.png --json demo/score.json

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder

# Every module imports without the extras.
test-minimal: setup
	$(BIN)/uv venv --quiet --clear .venv-minimal
	$(BIN)/uv pip install --quiet --python .venv-minimal --constraint requirements.txt .
	.venv-minimal/bin/python tests/import_all.py

# The oldest versions of the dependencies that pyproject.toml allows.
test-oldest: setup
	$(BIN)/uv venv --quiet --clear .venv-oldest
	$(BIN)/uv pip install --quiet --python .venv-oldest --resolution lowest-direct \
	  --editable . 'pytest>=9' 'pytest-xdist>=3' 'hypothesis>=6'
	.venv-oldest/bin/python -m pytest -n auto --maxprocesses 4 $(CONTRACT_TESTS)

lint: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "segcoord needs Python 3.10 or newer; choose one with: make PYTHON=/path/to/python3 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet uv==0.13.9
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -r requirements.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

# Pins the tested versions for every supported Python.
lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra dev --no-annotate \
	  --no-header --upgrade pyproject.toml -o requirements.txt

clean:
	rm -rf .venv .venv-minimal .venv-oldest demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
