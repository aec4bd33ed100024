# make demo   installs into .venv, trains, samples and weighs digits under three processes (runs/digits-*/report.html)
# make test   installs into .venv, runs the default tests         make test-all   the long ones too
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUNS ?= runs
DEMO_FLAGS ?=
export OMP_NUM_THREADS = 1

.PHONY: install demo docs test test-all lint clean
.SILENT: demo docs

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# one process for each core: the variance-preserving run here, the other two beside it
demo: install
	mkdir -p $(RUNS) && rm -f $(RUNS)/failed
	echo "training on scikit-learn's digits under three processes; the other two write to $(RUNS)/others.txt"
	{ $(MAKE) -s $(RUNS)/digits-ve $(RUNS)/digits-subvp > $(RUNS)/others.txt 2>&1 || touch $(RUNS)/failed; } & \
	$(MAKE) -s $(RUNS)/digits-vp || touch $(RUNS)/failed; \
	echo "waiting for the other two processes"; wait; \
	if [ -e $(RUNS)/failed ]; then tail -n 5 $(RUNS)/others.txt; exit 1; fi
	grep -h "bits/dim" $(RUNS)/digits-*/log.txt
	ls $(RUNS)/digits-*/report.html

.PHONY: $(RUNS)/digits-vp $(RUNS)/digits-ve $(RUNS)/digits-subvp
$(RUNS)/digits-vp $(RUNS)/digits-ve $(RUNS)/digits-subvp: $(RUNS)/digits-%: install
	$(BIN)/scoresde train --config configs/$*/digits.py --workdir $@ $(DEMO_FLAGS)
	$(BIN)/scoresde sample --config configs/$*/digits.py --workdir $@ $(DEMO_FLAGS)
	$(BIN)/scoresde likelihood --config configs/$*/digits.py --workdir $@ $(DEMO_FLAGS)
	$(BIN)/scoresde report --config configs/$*/digits.py --workdir $@ $(DEMO_FLAGS)

test: install
	$(BIN)/python -m pytest -q -n 2

test-all: install
	$(BIN)/python -m pytest -q -n 2 -m ""

# the documentation site, docs/_site/index.html; warnings are errors
docs: $(VENV)/docs-installed
	$(BIN)/python -m sphinx -q -b html -W --keep-going -d docs/_doctrees docs docs/_site
	echo "docs/_site/index.html"

$(VENV)/docs-installed: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
