# Everything runs in .venv, which set-up makes on the first call (a few minutes) and leaves alone afterwards.
# Needs Python 3.10 or newer with venv (3.11 is tested), and nothing else.

VENV := .venv/bin/python
# Pictures are written to files; no target opens a window.
export MPLBACKEND := Agg

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-places test lint format clean

help:
	@echo "make demo     train, evaluate and predict on a small drawn data set; ends with where the results lie"
	@echo "make demo-places  the same for scenes: train and evaluate a classifier on drawn scenes, show what it looks at"
	@echo "make test     the test suite (ARGS='-k name' for a part of it)"
	@echo "make setup    only the set-up that both begin with"
	@echo "make lint     ruff: rules and formatting;  make format: apply what can be applied"
	@echo "make clean    remove .venv and caches; runs and data stay"

# PYTHON=… chooses the interpreter that .venv is made from.
setup:
	@for python in $(PYTHON) python3.11 python3 python3.12 python3.13 python3.10 python; do \
		if "$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then \
			exec "$$python" tools/setup_environment.py; \
		fi; \
	done; \
	echo "error: no Python 3.10 or newer with venv was found; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	exit 1

demo: setup
	@$(VENV) tools/demo.py $(ARGS)

demo-places: setup
	@$(VENV) tools/demo_places.py $(ARGS)

# Two processes of one thread each are faster than one of two: most tests are small.
test: setup
	@OMP_NUM_THREADS=1 $(VENV) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup
	@$(VENV) -m ruff check .
	@$(VENV) -m ruff format --check .

format: setup
	@$(VENV) -m ruff check --fix .
	@$(VENV) -m ruff format .

clean:
	rm -rf .venv .venv.lock build *.egg-info .pytest_cache .ruff_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
