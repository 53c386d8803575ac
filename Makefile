# `make demo` and `make test` create .venv on their first run.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint lock clean

demo: setup
	rm -rf demo
	$(BIN)/segcoord data sample --layout voc --out demo/data
	$(BIN)/segcoord train --config configs/sample.yaml --run demo/run
	$(BIN)/segcoord evaluate --checkpoint demo/run/best.ckpt \
	  --masks demo/masks --overlays demo/overlays --sheet demo/sheet.png --json demo/score.json

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

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
	rm -rf .venv demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
