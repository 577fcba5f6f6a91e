# Every target sets up what it needs in .venv, from nothing.
PYTHON ?= python3
BIN := .venv/bin
export MUJOCO_GL ?= egl
export HF_HUB_OFFLINE ?= 1

.PHONY: setup browser demo test test-slow mutants check docs bench

setup: .venv/ready

# torch comes first and pinned: resolved as a dependency it would be the newest build, with
# gigabytes of CUDA.
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mujoco,video,lm,sweep,atari,serve,export,dev]'
	touch $@

# A test opens the documentation in a browser. Where none can be installed, that test is skipped (in CI it fails).
browser: setup
	command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || (apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium) \
	  || echo "no Chromium, and apt-get cannot install it here: the test of the documentation site will be skipped"

demo: setup
	$(BIN)/rlt demo

test: browser
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Plants faults into copies of the code and runs the tests that should catch them.
mutants: setup
	$(BIN)/python tests/mutants/run.py --jobs 2

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python docs/build_site.py

bench: setup
	$(BIN)/rlt bench train --sizes hopper atari gpt2-small
	$(BIN)/rlt bench data
	$(BIN)/rlt bench act
	$(BIN)/python studies/large_store.py
