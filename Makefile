# Every target prepares what it needs in .venv; all that must be there before is Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what is imported as it is imported; pip would compile all that packages hold, a minute and a half of it.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
BUDGET ?= quick
GPU_DATA ?= runs/gpu/data
GPU_OUT ?= runs/gpu
LIMIT ?= 540
DEVICE ?= cuda

.PHONY: gpu help demo test test-lowest test-processors test-slow lint format bench reproduce site clean

help:
	@echo "make demo       train four digit classifiers, attack all of them at once, write a report: a minute on two cores"
	@echo "make test       lint, then run the whole test suite"
	@echo "make test-lowest  run it with the oldest versions of what omnirobust needs"
	@echo "make test-slow  the tests that take long, most of which start or kill many processes; make test leaves them out"
	@echo "make test-processors  compare batches and bytes as other processors and numbers of threads would round them"
	@echo "make lint       style, types and the order of imports"
	@echo "make format     apply the style"
	@echo "make bench      measure speed against peers, into benchmarks/*.md"
	@echo "make reproduce  recompute the paper's tables and figures, into runs/reproduction (BUDGET=smoke|quick|paper)"
	@echo "make gpu        train the large models and measure the tables on a GPU, in calls of under ten minutes (docs/scaling.md)"
	@echo "make site       build the documentation site into site/"
	@echo "make clean      remove .venv and caches"

$(VENV)/.created:
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 1)" || \
	  { echo "Python 3.11 or newer is needed: say which with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Constraints hold for every install, so that torch and all it needs come in the versions that were tested.
$(VENV)/.core: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

# With what the core needs, in one go: pip builds the package anew each time.
$(VENV)/.test: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) -e ".[test]"
	@touch $(VENV)/.core $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) -e ".[docs]"
	@touch $@

$(VENV)/.bench: $(VENV)/.core
	$(PIP) -e ".[bench]"
	@touch $@

demo: $(VENV)/.core
	$(BIN)/omnirobust demo

lint: $(VENV)/.test
	$(BIN)/ruff check src tests benchmarks docs examples scripts
	$(BIN)/ruff format --check src tests benchmarks docs examples scripts
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --threads 2 --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff format src tests benchmarks docs examples scripts
	$(BIN)/ruff check --fix src tests benchmarks docs examples scripts

# One thread a worker: torch's own threads would fight over the cores. Hundreds of tests start Python anew: bytecode is
# kept for them, whatever PYTHONDONTWRITEBYTECODE says. Their ten thousand files lie in .venv and are deleted as the next
# run begins: pytest's own place keeps those of three runs, and deletes older ones within the time of this one.
test: lint
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" \
	  --basetemp=$(VENV)/tests

test-slow: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# The optional peers are left out: they ask for newer versions of what they share with us.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt -e . pytest hypothesis cvxpy
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest tests/cli tests/jobs tests/fuzz \
	  tests/attacks/test_recipes.py tests/attacks/test_store.py tests/zoo/test_data.py

# The same processor, told to compute as others do: products of matrices then round differently with the size of a batch.
test-processors: $(VENV)/.test
	set -e; for setting in OMP_NUM_THREADS=1 OMP_NUM_THREADS=2 OMP_NUM_THREADS=4 MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=AVX2 \
	  ATEN_CPU_CAPABILITY=default; do \
	  echo "$$setting"; env OMP_NUM_THREADS=1 $$setting $(BIN)/python -m pytest -q -m processors; done

bench: $(VENV)/.bench
	set -e; for script in benchmarks/bench_*.py; do \
	  name=$$(basename $$script .py); $(BIN)/python $$script --out benchmarks/$${name#bench_}.md; done

reproduce: $(VENV)/.core
	$(BIN)/omnirobust reproduce --all --budget $(BUDGET) --out runs/reproduction

# One call of at most LIMIT seconds, which ends with code 75 until all is done: call it again. Where torch for the GPU is
# installed already, name its Python: make gpu GPU_PYTHON=python3 needs no .venv.
gpu: $(if $(GPU_PYTHON),,$(VENV)/.core)
	PYTHONPATH=src $(or $(GPU_PYTHON),$(BIN)/python) scripts/gpu/run.py go --data $(GPU_DATA) --out $(GPU_OUT) \
	  --limit $(LIMIT) --device $(DEVICE)

site: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The site: site/index.html"

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
