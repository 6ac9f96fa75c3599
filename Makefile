# The whole project in a few commands. It needs make and Python 3.11 to 3.14; everything else goes into .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PROFILE ?= demo
DATA ?=
JOBS ?= 2
MINUTES ?= 60
ONLY ?=
BIN := .venv/bin
READY := .venv/.lab4-ready
SAY := @printf 'lab4: %s\n'
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && { echo "$$p"; break; }; done)
# The tests run the notebooks at the smallest profile, as copies with that parameter and the golden outputs.
SMOKE := $(patsubst notebooks/%,build/smoke/%,$(wildcard notebooks/*.ipynb))

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile
	@echo "report takes PROFILE=smoke|demo|full and DATA=folder, as in: make report DATA=../LAB4_Dataset"

setup: $(READY) ## the environment: .venv with the pinned packages (the other targets do this themselves)

report: $(READY) ## train, compare and roll out; the last line is the path of the page
	@$(BIN)/lab4 report --profile $(PROFILE) $(if $(DATA),--data "$(DATA)")

test: $(READY) $(SMOKE) ## all tests and all notebooks (notebooks first: they take longest, so the workers stay busy)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
		--durations 20 $(SMOKE) tests

lab: $(READY) ## JupyterLab on the first notebook
	@# threads that wait do not spin: two notebooks at once would spend most of their time on that
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} $(BIN)/jupyter lab notebooks/00_start_here.ipynb

soak: $(READY) ## an hour of training in a loop: memory and open files must not grow (MINUTES=60)
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

long: $(READY) ## kills, faults and bad input: many times as many as in make test, and different ones every time
	@LAB4_LONG=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadscope tests/test_resume.py tests/test_faults.py \
		tests/test_bad_input.py tests/test_bad_files.py

notebooks: $(READY) ## re-execute the notebooks in the form they are committed in (ONLY="03 10": just these)
	@$(BIN)/python tests/execute_notebooks.py $(ONLY)

lint: $(READY) ## check the style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

pins: ## rewrite constraints.txt: what a fresh environment would get today
	rm -rf build/pins && $(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install -q -e '.[dev]' torch==2.11.0 torchvision==0.26.0
	(sed -n '/^#/p' constraints.txt && build/pins/bin/python -m pip freeze --exclude-editable) > build/constraints.txt
	mv build/constraints.txt constraints.txt && rm -rf build/pins

clean: ## remove the environment and what was built; runs/ and data/ stay
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis

build/smoke/%.ipynb: notebooks/%.ipynb $(READY)
	@mkdir -p build/smoke && $(BIN)/papermill --prepare-only --log-level ERROR -p profile smoke $< $@

# A copied checkout must not keep using the environment, and so the code, of its original.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "lab4: no Python from 3.11 to 3.14 found (python3 is $$(python3 -V 2>&1)); install one," \
		"or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "lab4: $(PYTHON) cannot make environments;" \
		"on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	$(SAY) "making the environment .venv with $$($(PYTHON) -V)"
	@test "$$(cat $(READY) 2>/dev/null)" = "$(CURDIR)" || $(PYTHON) -m venv $(if $(wildcard $(READY)),--clear) .venv
	$(SAY) "installing the packages pinned in constraints.txt (about 5 GB with PyTorch; minutes the first time)"
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@printf '%s' "$(CURDIR)" > $(READY)
	$(SAY) "the environment is ready"

.PHONY: help setup report test lab soak long notebooks lint pins clean
