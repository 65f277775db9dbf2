# Every command sets up what it needs: a virtual environment in .venv, and in it the package with the extra that the
# command uses. An extra is installed again only when pyproject.toml changes.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# PYTHON=... chooses the interpreter that makes .venv; ARGS=... goes to the command that a target ends in.
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)

.PHONY: help demo test lint check bench clean
.DEFAULT_GOAL := help
.NOTPARALLEL:  # two installations into one environment would race

help:
	@echo "make demo    filter a photograph with the library; writes a contact sheet and prints a table of times"
	@echo "make test    run the whole test suite                (ARGS='-k conv2d' runs a part)"
	@echo "make lint    ruff, its formatter and mypy"
	@echo "make check   lint, then test"
	@echo "make bench   run each benchmark once in .venv        (ARGS='--bench Forward' runs a part)"
	@echo "make clean   remove .venv, caches and what the commands wrote"
	@echo
	@echo "The first command makes .venv with Python 3.11, 3.12 or 3.13; PYTHON=/path/to/python3 chooses one."

demo: $(VENV)/.with-demo
	@$(BIN)/python -m gpuconv.demo $(ARGS)

test: $(VENV)/.with-test
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

lint: $(VENV)/.with-dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

check: lint test

bench: $(VENV)/.with-bench
	@cd asv_bench && ../$(BIN)/asv machine --yes && ../$(BIN)/asv run --quick -E existing:../$(BIN)/python $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist out asv_bench/env asv_bench/html asv_bench/results
	find gpuconv tests asv_bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@chosen=; for python in $(PYTHONS); do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	  then chosen=$$python; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "gpuconv needs Python 3.11, 3.12 or 3.13, and none of these is one: $(PYTHONS)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$($$chosen --version)"; \
	if ! $$chosen -m venv --clear $(VENV); then \
	  rm -rf $(VENV); \
	  echo "$$chosen cannot make a virtual environment with pip in it." >&2; \
	  echo "On Debian and Ubuntu: apt install python3-venv; then call make again." >&2; exit 1; \
	fi; \
	touch $@

$(VENV)/.with-%: pyproject.toml | $(VENV)/.made
	@echo "installing gpuconv[$*] into $(VENV)"
	@$(PIP) install --editable '.[$*]'
	@touch $@
