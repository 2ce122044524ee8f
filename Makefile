# Each target does its own set-up: a virtual environment, the pinned install, then the work.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed

.PHONY: demo gallery docs test check bench slow clean

demo: $(STAMP)  ## the whole story on handwritten digits: two nets, two audits, one report
	$(BIN)/holdfast demo --out runs/demo

gallery: $(STAMP)  ## the pictures of docs/explain.md
	$(BIN)/holdfast demo --explain --out runs/demo
	$(BIN)/python docs/gallery.py runs/demo/robust/explain docs/images/explain

docs: $(STAMP)  ## the documentation as a site that opens from the disk: site/index.html
	$(BIN)/python -m mkdocs build --quiet

test: $(STAMP)  ## the default test suite, on every core
	$(BIN)/python -m pytest -n auto

slow: $(STAMP)  ## the experiments of minutes
	$(BIN)/python -m pytest -m slow

check: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

bench: $(STAMP)  ## what a search costs, counted and timed; peers are paired with us where they are installed
	$(BIN)/python benchmarks/attacks_vs_peers.py
	$(BIN)/python benchmarks/verdict_vs_autoattack.py

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs site build dist
