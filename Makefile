# `make demo` runs the whole pipeline on the speech in this repository; `make test` passes the tests.
# Both set everything up first: a virtual environment with exactly the packages of requirements.lock.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON     ?= python3
VENV       := .venv
UV         := $(VENV)-uv/bin/uv
# Of the installer, of every package, and of what builds ours: what has another SHA-256 than the one in git is not installed.
HASHED     := --no-deps --build-constraints infra/build.txt --require-build-hashes --preview-features build-dependency-hashes
BIN        := $(VENV)/bin
# Prefect's server writes its database and settings here unless you already have a PREFECT_HOME.
export PYTHONUNBUFFERED := 1

# What the base that comes with TinyWave is made of: folders that say under which licence their recordings are (infra/base.py).
BASE_SOURCES ?= examples/speech

.PHONY: help setup base demo demo-interleaved demo-encoder stack test test-machines test-nightly break-run break-store mutants bench-machines study study-transfer bench-tokenization bench-units bench-filters bench-distillation bench-on-policy bench-gpu bench-generation bench-voice bench-orchestration bench-catalog bench-scale bench-growth bench-talk-attacks bench-small soak-talk soak-watch docs check lock audit pin-images clean

help:  ## Show these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(VENV)/.installed  ## Create the virtual environment from requirements.lock

# uv finds Python 3.11 on the machine or fetches it: the one for which every platform has all wheels. Where it can do neither, 3.12
# serves as well (infra/decisions/0024-platforms.md).
$(UV): infra/uv.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' found; TinyWave needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: found $$($(PYTHON) --version), TinyWave needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV)-uv && $(VENV)-uv/bin/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes --only-binary :all: --requirement infra/uv.txt
	@touch $@

$(VENV)/.installed: requirements.lock infra/build.txt pyproject.toml | $(UV)
	@echo "Setting up $(VENV) (about 240 to 280 packages; PyTorch's are several GB the first time)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python 3.11 $(VENV) 2>/dev/null || $(UV) venv --quiet --python 3.12 $(VENV)
	@VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet --require-hashes requirements.lock
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet $(HASHED) --editable .
	@touch $@

demo: setup  ## Run the whole pipeline on the speech in examples/speech, from random weights to a student, into ./store
	@$(BIN)/tinywave run pipeline --preset demo --adaptation.teacher fresh --source examples/speech --root store

demo-interleaved: setup  ## The same with speech and text interleaved, into ./store
	@$(BIN)/tinywave run pipeline --preset demo-interleaved --source examples --root store

# Without ENCODER: Whisper tiny.en of a package, which hears the words of what is spoken as well (infra/tiny_whisper.py says how to install it).
ENCODER    ?=
LAYER      ?= 3
CLUSTERS   ?= 500
RECOGNISER ?=
TINY       := store/whisper-tiny.en
demo-encoder: setup  ## The demo with units of a real encoder, into ./store/demo-encoder: ENCODER=DIR LAYER=9 RECOGNISER=DIR
	@$(if $(ENCODER),:,$(BIN)/python -m infra.tiny_whisper $(TINY))
	@$(BIN)/tinywave run pipeline --preset demo --adaptation.teacher fresh --source examples/speech --root store/demo-encoder \
	  --tokenization.units.kind encoder --tokenization.units.encoder $(or $(ENCODER),$(TINY)) --tokenization.units.layer $(LAYER) \
	  --tokenization.units.clusters $(CLUSTERS) --adaptation.training.steps 1500 --distillation.training.steps 800 --evaluation.judges.items 12 \
	  $(addprefix --evaluation.generated.asr ,$(or $(RECOGNISER),$(if $(ENCODER),,$(TINY))))

stack: setup  ## Run docker-compose.yml's set without containers until Ctrl-C (needs PostgreSQL): infra/README.md
	@$(BIN)/python -m infra.native.stack $(STACK_ARGS)

test: setup  ## Pass the whole test suite
	@$(BIN)/python -m pytest --numprocesses 3 --no-loadscope-reorder

test-machines: setup  ## Pass what depends on arithmetic under every instruction set, with one and two threads
	@$(BIN)/python -m pytest tests/machines --all-machines --numprocesses 2

bench-machines: setup  ## Count what other kinds of CPU change in tokens and training (half an hour)
	@$(BIN)/python infra/benchmarks/machines.py $(BENCH_ARGS)

test-nightly: setup  ## The tests that draw hundreds of faults (an hour)
	@$(BIN)/python -m pytest --nightly -m nightly --timeout 0

# Moments are drawn anew each time; `KILLS=` says how many, `SEED=` gives those of a failure again.
break-run: setup  ## Kill 200 runs at drawn moments of all stages, with the store in a folder and on S3 (10 minutes)
	@TINYWAVE_SEED=$${SEED:-$$RANDOM} TINYWAVE_KILLS=$${KILLS:-200} \
	  $(BIN)/python -m pytest --nightly --timeout 0 tests/stages/test_drawn_kills.py tests/s3/test_drawn_kills.py

# Bits and ways are drawn anew each time; a failure prints what reproduces it.
break-store: setup  ## Flip 2,000 bits of a store, and let 1,000 drawn stories of writing, dying and mending happen to one (minutes)
	@TINYWAVE_STORE_SEED=$${SEED:-$$RANDOM} TINYWAVE_STORE_FLIPS=$${FLIPS:-2000} TINYWAVE_STORE_EXAMPLES=$${EXAMPLES:-500} \
	  $(BIN)/python -m pytest --timeout 0 tests/core/storage/test_flips.py tests/core/storage/test_model.py

# Places are drawn; `SEED=` draws others, `COUNT=` more, `ONLY=` from paths that contain it.
mutants: setup  ## Break the core in 40 places, one at a time, and see whether its tests notice (10 minutes)
	@$(BIN)/python infra/mutants.py

bench-tokenization: setup  ## Measure the speech tokenizer beside the straightforward way (minutes; quiet machine)
	@$(BIN)/python infra/benchmarks/tokenization.py $(BENCH_ARGS)

bench-units: setup  ## Measure what an encoder's units are worth beside MFCC's, on transcribed speech (half an hour)
	@$(BIN)/python infra/benchmarks/units.py $(BENCH_ARGS)

bench-filters: setup  ## Measure what thresholds of ingestion.keep leave out, on mixtures with known faults (3 minutes)
	@$(BIN)/python infra/benchmarks/filters.py $(BENCH_ARGS)

bench-distillation: setup  ## Measure what the teacher's signals cost and bring (minutes; quiet machine)
	@$(BIN)/python infra/benchmarks/distillation.py $(BENCH_ARGS)

bench-on-policy: setup  ## Compare students that learn from their own speech with others at equal cost (half an hour; quiet machine)
	@$(BIN)/python infra/benchmarks/on_policy.py $(BENCH_ARGS)

bench-gpu: setup  ## Measure a training step of real shapes on a GPU beside the plan (minutes; BENCH_ARGS=--small on a CPU)
	@$(BIN)/python infra/benchmarks/gpu.py $(BENCH_ARGS)

bench-generation: setup  ## Measure students of real shapes in llama.cpp: speed, memory, export (20 minutes; quiet machine)
	@$(BIN)/python infra/benchmarks/generation.py $(BENCH_ARGS)

bench-voice: setup  ## Measure how the voice made of recordings sounds beside them (10 minutes; quiet machine)
	@$(BIN)/python infra/benchmarks/voice.py $(BENCH_ARGS)

bench-orchestration: setup  ## Measure what Prefect costs beside the work, on 1,000 shards per stage (15 minutes; quiet machine)
	@$(BIN)/python infra/benchmarks/orchestration.py $(BENCH_ARGS)

bench-scale: setup  ## Measure what training reads and holds at 100 to 10,000 hours (10 minutes, 20 GB of disk; quiet machine)
	@$(BIN)/python infra/benchmarks/scale.py $(BENCH_ARGS)

bench-catalog: setup  ## Measure what the bookkeeping of 10,000 to 1,000,000 recordings costs (15 minutes; quiet machine)
	@$(BIN)/python infra/benchmarks/catalog.py $(BENCH_ARGS)

bench-growth: setup  ## Measure what 1 % more audio costs beside all of it (10 minutes; quiet machine)
	@$(BIN)/python infra/benchmarks/growth.py $(BENCH_ARGS)

bench-talk-attacks: setup  ## Measure how long anybody can keep `tinywave talk` from answering (3 minutes; quiet machine)
	@$(BIN)/python infra/benchmarks/talk_attacks.py $(BENCH_ARGS)

soak-talk: setup  ## Ask `tinywave talk` thousands of times, with hang-ups: memory and files must not grow (5 minutes)
	@$(BIN)/python infra/benchmarks/talk_attacks.py --soak 5000 $(BENCH_ARGS)

soak-watch: setup  ## Look for new audio 1,000 times in a folder that changes: memory and files must not grow (half an hour)
	@$(BIN)/python infra/benchmarks/soak_watch.py $(BENCH_ARGS)

base: setup  ## Make the base that small folders start from again, of BASE_SOURCES="examples/speech DIR …" (half an hour)
	@$(BIN)/python infra/base.py $(BASE_SOURCES) $(BASE_ARGS)

bench-small: setup  ## Measure what 2 to 130 minutes of speech give, from nothing and from the base (an hour; quiet machine)
	@$(BIN)/python infra/benchmarks/small.py $(BENCH_ARGS)

study: setup  ## What distillation is worth: arms and three seeds on real speech (20 minutes), into ./store/study
	@$(BIN)/python infra/benchmarks/study.py $(STUDY_ARGS)

study-transfer: setup  ## What a teacher that knows more leaves behind, by share of the speech and term of the loss (an hour), into ./store/study-transfer
	@$(BIN)/python infra/benchmarks/transfer.py $(STUDY_ARGS)

docs: setup  ## Build the documentation site into site/, without a network; a broken link ends the build
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --config-file infra/pages/mkdocs.yml
	@echo "open site/index.html, or with the search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

check: setup  ## Format, lint and type checks
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy
	@$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin  # finds what Linux alone has

# The second file names the wheels behind the first one's hashes, for the platforms and Pythons of
# tests/conventions/test_platforms.py, which reads both.
lock: $(UV)  ## Resolve pyproject.toml anew into requirements.lock
	@$(UV) pip compile pyproject.toml --extra pipeline --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet --output-file requirements.lock
	@set -o pipefail; $(UV) pip compile requirements.lock --no-deps --universal --python-version 3.11 --format pylock.toml --no-header --quiet \
	  | grep -oE '[^/"]+\.whl' | grep -E 'py3-none|py31[12]-none|cp31[12]-|abi3' \
	  | grep -E -- '-any|manylinux.*(x86_64|aarch64)|macosx.*(arm64|universal2)' | LC_ALL=C sort -u > infra/wheels.txt
	@printf 'hatchling>=1.27\neditables\n' | $(UV) pip compile - --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --quiet --output-file infra/build.txt >/dev/null

audit: $(UV)  ## List the known faults of the packages in requirements.lock (needs a network)
	@$(VENV)-uv/bin/python infra/audit.py $(UV)

pin-images:  ## Pin the images of docker-compose.yml and infra/Dockerfile by digest (needs docker and a network)
	@infra/pin_images.sh

clean:  ## Remove the virtual environment and caches (never a store)
	@rm -rf $(VENV) $(VENV)-uv site .pytest_cache .mypy_cache .ruff_cache
