# make demo       installs into .venv, trains on digits, draws samples, computes a likelihood: runs/demo/report.html
# make demo-all   the same for three processes at full length
# make docs       the documentation site: docs/_build/html/index.html
# make test       the default tests         make test-all   the long ones too         make lint   ruff and mypy
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUNS ?= runs
DEMO_FLAGS ?=
DEMO_SECONDS ?= 80
export OMP_NUM_THREADS = 1

.PHONY: install demo demo-all docs test test-all lint clean
.SILENT: demo demo-all docs

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# One process. --fit-time chooses the number of training steps for this machine, and the config.json of the run stores it.
demo: install
	echo "A model of 8x8 digits under the VP process: training for about $(DEMO_SECONDS) s, then samples, a likelihood and a report."
	echo "The first picture of samples follows after 50 steps: $(RUNS)/demo/previews/step-000000050-ema.png"
	$(BIN)/scoresde train --config configs/vp/digits.py --workdir $(RUNS)/demo --fit-time $(DEMO_SECONDS) \
		--config.training.preview_every=1250 $(DEMO_FLAGS)
	$(MAKE) -s $(RUNS)/demo.results
	echo "The same run again, with the same number of steps: scoresde train --config $(RUNS)/demo/config.json --workdir NEW"

# Three processes at the full number of steps, for two cores: VP here, the other two one after the other in the background.
demo-all: install
	mkdir -p $(RUNS) && rm -f $(RUNS)/failed
	echo "Training on digits under three processes. VE and sub-VP write their progress to $(RUNS)/others.txt."
	{ $(MAKE) -s $(RUNS)/digits-ve $(RUNS)/digits-subvp > $(RUNS)/others.txt 2>&1 || touch $(RUNS)/failed; } & \
	$(MAKE) -s $(RUNS)/digits-vp || touch $(RUNS)/failed; \
	echo "VP is complete. Waiting for VE and sub-VP."; wait; \
	if [ -e $(RUNS)/failed ]; then tail -n 5 $(RUNS)/others.txt; exit 1; fi
	grep -h "bits/dim" $(RUNS)/digits-*/log.txt
	ls $(RUNS)/digits-*/report.html

.PHONY: $(RUNS)/digits-vp $(RUNS)/digits-ve $(RUNS)/digits-subvp
$(RUNS)/digits-vp $(RUNS)/digits-ve $(RUNS)/digits-subvp: $(RUNS)/digits-%: install
	$(BIN)/scoresde train --config configs/$*/digits.py --workdir $@ $(DEMO_FLAGS)
	$(MAKE) -s $@.results

%.results:
	$(BIN)/scoresde sample --workdir $* $(DEMO_FLAGS)
	$(BIN)/scoresde likelihood --workdir $* $(DEMO_FLAGS)
	$(BIN)/scoresde report --workdir $* $(DEMO_FLAGS)

test: install
	$(BIN)/python -m pytest -q -n 2

test-all: install
	$(BIN)/python -m pytest -q -n 2 -m ""

# the documentation site, docs/_build/html/index.html; warnings are errors
docs: $(VENV)/docs-installed
	$(BIN)/python -m sphinx -q -b html -W --keep-going -d docs/_build/doctrees docs docs/_build/html
	echo "docs/_build/html/index.html"

$(VENV)/docs-installed: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
