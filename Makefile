PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
VALIDATORS := build/validators
KILLS := 60
SEED := 0
LIFE :=
# Workers take whole files, in the order in which conftest.py puts them.
BY_FILES = --dist loadfile --no-loadscope-reorder
RANDOM_KILLS = --kills $(KILLS) --torture-seed $(SEED) --torture-record build/torture.jsonl
CHECKOUT_PYTHON = $(CHECKOUT)/.venv/bin/python

.PHONY: install run test test-quick test-whole check docs bench bench-reference torture torture-kills test-schedulers \
	test-checkout

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# The demo needs a quarter of what the tests do.
$(VENV)/plays: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,play]"
	touch $@

run: $(VENV)/plays
	$(BIN)/tiw-fsm demo

test: install
	$(BIN)/python -m pytest -n 3 $(BY_FILES)

# What takes its time is left out: the torture bench, whole runs as processes, playing, engines, recording, copies of the
# package.
test-quick: install
	$(BIN)/python -m pytest -n 3 $(BY_FILES) --ignore tests/torture --ignore tests/engines --ignore tests/run \
		--ignore tests/play --ignore tests/cli/test_starting.py \
		--ignore tests/config/test_mistakes.py --ignore tests/data/test_recording.py --ignore tests/test_api.py \
		--deselect tests/fsm/test_machine.py::test_wherever_the_runner_dies_the_run_ends_with_the_same_checkpoints \
		--ignore tests/test_guides.py --deselect tests/test_documents.py::test_what_getting_started_has_the_newcomer_type_works

# Nothing left out: all examples of what `make test` tries by one.
test-whole: install
	$(BIN)/python -m pytest -n 2 $(BY_FILES) $(RANDOM_KILLS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without a network, and to be read without one.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html is written: open it in a browser"

bench: install
	$(BIN)/python benchmarks/bench.py

bench-reference: install
	$(BIN)/python benchmarks/reference.py --checkout "$(CHECKOUT)" --checkout-python "$(if $(CHECKOUT),$(CHECKOUT_PYTHON))"

torture: install
	$(BIN)/python -m pytest tests/torture $(RANDOM_KILLS)

# Interrupted, it goes on by the same command; with LIFE=N it repeats one of the killed runs alone.
torture-kills: install
	$(BIN)/python -m pytest tests/torture/test_random_kills.py -k random_instants $(RANDOM_KILLS) $(addprefix --torture-life ,$(LIFE))

test-schedulers: install $(VALIDATORS)/installed
	$(BIN)/python -m pytest tests/test_scheduling.py tests/schedulers -rs

# What judges the text for Kubernetes and SkyPilot: too much for everybody's environment.
$(VALIDATORS)/installed:
	$(PYTHON) -m venv $(VALIDATORS)
	$(VALIDATORS)/bin/pip install --quiet --disable-pip-version-check kubernetes-validate==1.37.0 skypilot==0.14.1
	touch $@

test-checkout: install
	@test -d "$(CHECKOUT)" || { echo "give the folder of a TinyWorlds checkout: make test-checkout CHECKOUT=path"; exit 2; }
	$(BIN)/python -m pytest tests/engines --checkout "$(CHECKOUT)" --checkout-python "$(CHECKOUT_PYTHON)"
