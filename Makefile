# Every target sets up what it needs in .venv, from nothing.
PYTHON ?= python3
BIN := .venv/bin
export MUJOCO_GL ?= egl
export HF_HUB_OFFLINE ?= 1

.PHONY: setup parts demo test test-slow mutants check docs bench

setup: .venv/ready

# torch comes first and pinned: resolved as a dependency it would be the newest build, with
# gigabytes of CUDA.
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mujoco,video,lm,sweep,atari,serve,export,dev]'
	touch $@

# Real programs and data that tests use. Where one cannot be installed, its tests are skipped (that of the site fails in CI).
parts: .venv/parts

.venv/parts: .venv/ready
	missing=""; \
	command -v chromium || command -v chromium-browser || command -v google-chrome || missing="$$missing chromium"; \
	command -v redis-server || missing="$$missing redis-server"; \
	command -v npm || missing="$$missing nodejs npm"; \
	test -z "$$missing" || (apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing) \
	  || echo "cannot install$$missing here: the tests that need it will be skipped"
	npm install --silent --no-audit --no-fund --prefix .venv onnxruntime-web@1.30.0 \
	  || echo "cannot install onnxruntime-web here: the test of the JavaScript client will be skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps icu-sepsis==2.0.1
	touch $@

demo: setup
	$(BIN)/rlt demo

test: parts
	$(BIN)/python -m pytest -m "not slow" -n 2

# Ray is for tests of a cluster only, and large.
test-slow: parts
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
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
