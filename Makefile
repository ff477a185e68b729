# The project's tasks; each makes its own .venv from envs/requirements.lock. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
CONFIG ?= config.yaml
STUDY ?= .
# A folder of profiles/. The machine's own one is told the number of cores; a cluster's says itself how many jobs there may be.
PROFILE ?= default
# Further options of Snakemake: ARGS=--unlock, ARGS="--cache preprocess"; ARGS="--dry-run --quiet rules" counts the jobs and starts none.
ARGS =
LIMIT := $(if $(filter default,$(PROFILE)),--cores $(CORES))
RUN := export PATH="$(CURDIR)/.venv/bin:$$PATH" PYTHONPATH="$(CURDIR)";
SNAKEMAKE := $(RUN) snakemake --snakefile "$(CURDIR)/Snakefile" --workflow-profile "$(CURDIR)/profiles/$(PROFILE)" $(LIMIT)
VERDICT := $(if $(filter --unlock --dry-run -n,$(ARGS)),true,python -m lcm report --verdict --output results/report)

.PHONY: help demo study doctor test test-slurm test-faults check bench docs lock

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 13

demo: .venv/ok ## the demo study, start to end, needing no input
	@$(SNAKEMAKE) $(ARGS)
	@$(RUN) $(VERDICT)

study: .venv/ok ## your own study: make study CONFIG=my.yaml STUDY=folder-for-results PROFILE=default|slurm|…
	@mkdir -p "$(STUDY)"
	@$(SNAKEMAKE) --configfile "$(CONFIG)" --directory "$(STUDY)" $(ARGS)
	@$(RUN) cd "$(STUDY)" && $(VERDICT)

doctor: .venv/ok ## will it run here? make doctor CONFIG=my.yaml STUDY=folder-for-results PROFILE=default|slurm|…
	@mkdir -p "$(STUDY)"
	@$(RUN) python -m lcm doctor --config "$(CONFIG)" --directory "$(STUDY)" $(if $(LIMIT),,--profile "$(CURDIR)/profiles/$(PROFILE)")

test: .venv/ok ## every test but those of test-slurm
	@$(RUN) python -m pytest -n $(CORES) --dist loadfile -m "not slurm"

test-slurm: .venv/ok ## studies through a real Slurm, started here and stopped again; as root, on Debian after tests/slurm/install.sh
	@$(RUN) LCM_SLURM=require python -m pytest tests/slurm -m slurm

test-faults: .venv/ok ## every stage killed fifty times, disks that are full: hours
	@$(RUN) LCM_KILLS=50 python -m pytest -n $(CORES) --dist worksteal -rP tests/faults

check: .venv/ok ## format, lint, types, import laws, generated files
	@$(RUN) ruff format --check --quiet lcm tests docs benchmarks profiles
	@$(RUN) ruff check --quiet lcm tests docs benchmarks profiles
	@$(RUN) snakefmt --check Snakefile workflow
	@$(RUN) snakemake --lint
	@$(RUN) mypy
	@$(RUN) lint-imports --no-logo
	@$(RUN) python docs/generate.py --check

docs: .venv/ok ## regenerate the JSON schema and the README's tables and graph
	@$(RUN) python docs/generate.py

bench: .venv/ok ## timings against peers, in one run
	@$(RUN) python benchmarks/imaging.py
	@$(RUN) python benchmarks/phenotypes.py
	@$(RUN) python benchmarks/training.py --layers 1 2 --batch 8 --repeats 3
	@$(RUN) python benchmarks/scale.py --sizes 100 1000

lock: ## pin what pyproject.toml asks for, in a fresh environment
	@rm -rf .lockenv && $(PYTHON) -m venv .lockenv
	@$(PYTHON) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *sum(p["optional-dependencies"].values(), []), sep="\n")' > .lockenv/asked.txt
	@.lockenv/bin/pip install --quiet -r .lockenv/asked.txt
	@(sed -n '/^#/p' envs/requirements.lock; .lockenv/bin/pip freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' | grep -viE '^(nvidia|cuda|triton)') > envs/new.lock
	@mv envs/new.lock envs/requirements.lock
	@rm -rf .lockenv

.venv/ok: envs/requirements.lock
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing the pinned packages into .venv (once) …"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.lock
	@touch $@
