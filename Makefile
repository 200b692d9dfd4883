# The whole set-up on a fresh machine is `make demo` or `make test`: each makes .venv by itself. Needs Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

SECONDS ?= 600
STEPS ?= 40# of training in notebooks: enough to see that they run

# Images: the first engine that answers builds; IMAGE_BUILD_FLAGS go to its `build` as they are.
VARIANT ?= gpu
FIJI ?= 1
MODELS ?= auto
BASE ?= debian:bookworm-slim# with @sha256:... it is this very image
IMAGE ?= densecell-batch
# Files of tests are spread over the processors, with a thread of TensorFlow each.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile
TESTS ?= # further options of pytest, such as --within MINUTES
ENGINE ?= $(shell for e in docker podman buildah; do $$e info >/dev/null 2>&1 && echo $$e && break; done)
IMAGE_BUILD_FLAGS ?=
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' densecell_batch/_version.py)

.PHONY: help demo test test-processes test-slow test-lowest test-processor test-bioimageio fuzz check format docs examples bench image image-base image-constraints image-test clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test,fiji,docs,examples]'
	touch $@

demo: $(VENV)/.installed  ## segment a real EM stack into ./demo-out
	$(BIN)/densecell-batch demo -o demo-out

test: $(VENV)/.installed  ## the tests of functions: a few minutes
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) tests/unit tests/project $(TESTS)

test-processes: $(VENV)/.installed  ## those that start processes, ImageJ, Slurm or a browser, where these are installed
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) tests/process tests/fiji tests/slurm tests/container $(TESTS)

test-slow: $(VENV)/.installed  ## the tests that take minutes or gigabytes
	$(BIN)/python -m pytest -m slow $(PARALLEL) $(TESTS)

test-lowest:  ## the quick tests of functions with the oldest dependencies that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --constraint tests/lowest-versions.txt --editable '.[test]'
	.venv-lowest/bin/python -m pytest -q -m "not slow and not fiji" $(PARALLEL) tests/unit $(TESTS)

test-processor:  ## the tests without TensorFlow and Keras, as on a processor that does not train, in an environment of their own
	$(PYTHON) -m venv .venv-processor
	.venv-processor/bin/pip install --quiet $$($(PYTHON) container/requirements.py cpu test)
	.venv-processor/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	.venv-processor/bin/python -m pytest -q -m "not slow and not fiji" $(PARALLEL) tests/unit tests/process $(TESTS)

test-bioimageio: $(VENV)/.installed  ## the official test of bioimage.io on exported packages; its tools in an environment of their own
	$(PYTHON) -m venv .venv-bioimageio
	.venv-bioimageio/bin/pip install --quiet bioimageio.core onnxruntime 'pydantic<2.13'
	PATH="$(CURDIR)/.venv-bioimageio/bin:$$PATH" $(BIN)/python -m pytest -m slow tests/unit/models/test_bioimageio.py

fuzz: $(VENV)/.installed  ## damage good files at random for SECONDS and read them
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

check: $(VENV)/.installed  ## lint, format, types, the order of imports, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.installed  ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed  ## make the documentation a site, in site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

examples: $(VENV)/.installed  ## execute the notebooks of examples/ into build/examples/; STEPS= trains as long as they stand
	$(BIN)/python examples/execute.py $(if $(STEPS),--set STEPS=$(STEPS))

bench: $(VENV)/.installed  ## print the tables of benchmarks/
	$(BIN)/python benchmarks/inference.py

image:  ## build the container image (VARIANT=cpu|gpu, FIJI=1|0, MODELS=auto|none|NAMES, BASE=...)
	@test -n "$(ENGINE)" || { echo "no docker, podman or buildah answers; ENGINE=... names one" >&2; exit 1; }
	$(ENGINE) build $(if $(filter docker,$(notdir $(ENGINE))),,--format docker --layers) --build-arg BASE=$(BASE) \
	  --build-arg VARIANT=$(VARIANT) --build-arg FIJI=$(FIJI) --build-arg MODELS="$(MODELS)" \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null) \
	  --tag $(IMAGE):latest --tag $(IMAGE):$(VERSION)-$(VARIANT) $(IMAGE_BUILD_FLAGS) .

image-base:  ## make a base image from Debian packages alone, for machines that reach no image registry: BASE=densecell-base
	mkdir -p build
	mmdebstrap --variant=minbase --components=main --aptopt='Acquire::Languages "none"' bookworm build/base.tar
	podman import --quiet build/base.tar localhost/densecell-base
	rm build/base.tar

image-test: $(VENV)/.installed  ## test the image that `make image` built, and the launcher with it
	$(ENGINE) inspect --type image $(IMAGE) >/dev/null
	$(BIN)/python -m pytest -m container tests/container/test_container.py

image-constraints: $(VENV)/.installed  ## pin the newest Python packages for the images
	PYTHON=$(BIN)/python container/constraints.sh cpu
	PYTHON=$(BIN)/python container/constraints.sh gpu

clean:  ## remove what the targets made
	rm -rf $(VENV) .venv-lowest .venv-processor .venv-bioimageio demo-out build dist site *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
