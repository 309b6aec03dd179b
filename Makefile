# Two commands do everything on a fresh machine with Python 3.11 and make: `make demo` and `make test`.
# Set-up that has been done is not done again.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Most tests wait, so that there may be more of them at once than cores. Those that measure times run after them, in pairs
# of which one at most is busy. CI has more time, and is steadier with less at once.
WORKERS ?= $(if $(CI),3,4)

# Their files. To collect all thousands of tests for these few would take longer than some of them.
ALONE = $(shell grep -rl --include='test_*.py' 'pytest\.mark\.alone' tests)

# What `make coverage` runs: `make coverage TESTS=tests/rpc` measures a part.
TESTS  ?= tests

# How long `make soak-cluster` takes.
MINUTES ?= 60

MEDIA  ?=
OUTPUT ?= demo-output

# `make demo STAY=1` keeps the room of the demo open until Ctrl-C.
STAY   ?=

# Tests start many programs. Without byte code on the disk each of them would compile the whole package.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test quick check pytest browsers soak-cluster coverage benchmark serve help clean

demo: $(VENV)/.installed-all  ## stream a media file between two peers and show that it works
	$(BIN)/metered-realtime demo $(if $(MEDIA),"$(MEDIA)") --output "$(OUTPUT)" $(if $(STAY),--stay inf)

test: check pytest  ## every check and every test, with real servers and a real browser where they can be installed

check: $(VENV)/.installed-dev  ## ruff, mypy --strict, the import rules and the figures of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/house.py --check

quick: check  ## the checks, the tests of the pure cores and a smoke test of the mesh, in less than a minute
	$(BIN)/python -m pytest tests/core tests/test_house.py tests/test_rooms.py --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest tests/mesh tests/channels -m smoke

pytest: $(VENV)/.installed-dev  ## every test, several at once except those that measure times
	./tools/install-test-programs
	$(BIN)/python -m pytest -m "not alone" --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m alone $(ALONE) --numprocesses 2 --dist loadgroup

browsers: $(VENV)/.installed-dev  ## the tests with browsers, every row in Firefox too
	./tools/install-test-programs
	$(BIN)/python -m pytest tests/interop -m "not alone" --every-browser --numprocesses 2 --dist loadfile

soak-cluster: $(VENV)/.installed-dev  ## nodes and Redis under random faults for MINUTES, with clients that check every message
	./tools/install-test-programs
	$(BIN)/python -m tests.cluster.soak --minutes $(MINUTES)

coverage: $(VENV)/.installed-dev  ## the lines and branches that tests reach, except those tests that measure times
	$(BIN)/python -m pytest $(TESTS) -m "not alone" --numprocesses $(WORKERS) --dist loadfile --cov --cov-report=term

benchmark: $(VENV)/.installed-dev  ## measure this project beside bare aiortc and websockets
	$(BIN)/python -m benchmarks.open_channel
	$(BIN)/python -m benchmarks.first_media
	$(BIN)/python -m benchmarks.mesh
	$(BIN)/python -m benchmarks.tone
	$(BIN)/python -m benchmarks.rpc
	$(BIN)/python -m benchmarks.data_channel --quick
	$(BIN)/python -m benchmarks.signalling
	$(BIN)/python -m benchmarks.broadcast --quick
	$(BIN)/python -m benchmarks.idle_bot
	$(BIN)/python -m benchmarks.fanout --rounds 1
	$(BIN)/python -m benchmarks.late_joiner
	$(BIN)/python -m benchmarks.recording --seconds 20
	$(BIN)/python -m benchmarks.survival
	$(BIN)/python -m benchmarks.file_transfer

serve: $(VENV)/.installed-all  ## run the signalling server and the room page
	$(BIN)/metered-realtime serve

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-all: pyproject.toml | $(BIN)/python
	@echo "Installing the project and what it needs into $(VENV) ..."
	@$(PIP) --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing the project and what its tests need into $(VENV) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed-all

clean:  ## remove what the targets above made
	rm -rf $(VENV) $(OUTPUT) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
