# Everything runs in .venv, which `make install` fills; outside the checkout only caches are written.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
ARGS ?=

.PHONY: full test quick check format install bench clean help

full: install  ## the whole job; without ARGS on the demo set
	@$(RUN) pipelines/full.py $(ARGS)

test: install  ## the whole test suite, two files at a time
	@$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

quick: install  ## the everyday tests: without those that are slow or start Ray
	@$(RUN) -m pytest -m 'not slow and not ray' -n 2 --dist loadfile $(ARGS)

check: install  ## lint, format, types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: install  ## puts the code into its format
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

bench: install  ## extraction, flow and training, measured
	@$(RUN) benchmarks/extract.py
	@$(RUN) benchmarks/flow.py
	@$(RUN) benchmarks/train.py

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@echo "Installing into $(VENV) (about 6 GB with PyTorch; once)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"Multiclue needs Python 3.11 or 3.12, not {v[0]}.{v[1]}: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check uv
	@$(RUN) -m uv pip install --quiet --python $(RUN) --compile-bytecode --editable '.[dev]'
	@echo "Compiling the optical flow for this processor (once)"
	@$(RUN) -m actors.flow
	@touch $@

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(MAKEFILE_LIST)

clean:  ## removes the environment and everything the demo made
	rm -rf $(VENV) storage *.egg-info .pytest_cache .mypy_cache .ruff_cache
