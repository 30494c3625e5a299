# `make quickstart`, `make check` and `make test` need python3 >= 3.11 and install everything else into .venv, once.
#   PYTHON   the interpreter that .venv is made from
#   ARGS     more arguments: of launch.quickstart, or of pytest
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

# What mypy reads: the rooms that users call.
PUBLIC := cord_jax/*.py cord_jax/methods cord_jax/publishing cord_jax/rescoring/config.py \
  cord_jax/rescoring/job.py cord_jax/rescoring/question.py cord_jax/student/__init__.py cord_jax/student/config.py \
  cord_jax/student/row_filter.py cord_jax/miniature/__init__.py cord_jax/miniature/config.py cord_jax/study launch \
  models/__init__.py models/config.py

.PHONY: quickstart check test clean

quickstart: .venv/run.stamp
	$(BIN)/python -m launch.quickstart --output_dir=quickstart $(ARGS)

check: .venv/check.stamp
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet --output-format=concise .
	$(BIN)/mypy $(PUBLIC)

test: .venv/test.stamp
	$(BIN)/python -m pytest -n logical --maxprocesses=4 --dist worksteal $(ARGS)

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name another, as in: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module; install it (Debian and Ubuntu: python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run.stamp: setup.cfg pyproject.toml requirements.txt | .venv/pyvenv.cfg
	$(BIN)/python -m pip install --quiet -c requirements.txt -e .
	@touch $@

.venv/test.stamp: .venv/run.stamp
	$(BIN)/python -m pip install --quiet -c requirements.txt -e '.[test]'
	@touch $@

.venv/check.stamp: .venv/run.stamp
	$(BIN)/python -m pip install --quiet -c requirements.txt -e '.[check]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info
