# Every target makes what it needs by itself, from Python 3.11 and make alone. `make check` is what CI runs.
SHELL := /bin/bash
BIN := .venv/bin
PYTEST_ARGS ?=
VARIANT ?= full
FUZZ_SECONDS ?= 60
SOAK_MINUTES ?= 10

.DEFAULT_GOAL := help
.PHONY: help demo run test cov bench bench-databases defences lint format types arch docs check lock image image-check release-check fuzz soak clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

# An environment is made anew in place when what it is made from has changed.
.venv/serve.stamp: pyproject.toml constraints.txt tools/setup.sh
	@tools/setup.sh serve
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt tools/setup.sh
	@tools/setup.sh dev
	@touch $@ .venv/serve.stamp

.venv/fuzz.stamp: .venv/dev.stamp
	$(BIN)/python -m pip install -qq --constraint constraints.txt --group fuzz
	@touch $@

demo: .venv/serve.stamp  ## train on real data, package, serve, ask with curl, stop
	@$(BIN)/python -u examples/demo.py

run: .venv/serve.stamp  ## the same, and leave it serving until Ctrl-C
	@$(BIN)/python -u examples/demo.py --keep-serving

test: .venv/dev.stamp  ## all tests
	@tools/setup.sh system
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

cov: .venv/dev.stamp  ## all tests with branch coverage
	$(MAKE) test PYTEST_ARGS="--cov --cov-report=term $(PYTEST_ARGS)"

lint: .venv/dev.stamp  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/dev.stamp  ## put the code into its format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: .venv/dev.stamp  ## mypy --strict
	$(BIN)/mypy

arch: .venv/dev.stamp  ## who may import whom
	PYTHONPATH=. $(BIN)/lint-imports

docs: .venv/dev.stamp  ## the docs site, in site/
	$(BIN)/mkdocs build --strict --quiet

check: lint types arch docs cov  ## what CI runs

bench: .venv/dev.stamp  ## compare with other servers; writes docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks $(if $(BENCH_ARGS),$(BENCH_ARGS),--write docs/benchmarks.md)

bench-databases: .venv/dev.stamp  ## read and write PostgreSQL, MariaDB and HSQLDB beside jaydebeapi and ADBC
	@tools/setup.sh system
	$(BIN)/python -m pip install -qq --constraint constraints.txt --group databases
	for name in postgresql mariadb hsqldb; do $(BIN)/python -m tests.benchmarks.jdbc $$name || exit 1; done

defences: .venv/dev.stamp  ## take each defence away and see its tests fail (an hour)
	$(BIN)/python -m tests.defences $(DEFENCE)

lock: .venv/dev.stamp  ## resolve constraints.txt anew, keeping what still fits (UPGRADE=--upgrade for the newest)
	$(BIN)/python -m pip install -q 'uv>=0.9'
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --group dev --group fuzz --group databases \
		--no-header --no-annotate --quiet $(UPGRADE) --output-file constraints.txt
	sed -i "s/ and sys_platform == 'linux'//; s/ ; sys_platform == 'linux'//" constraints.txt

image:  ## the container image, also without a Docker engine (VARIANT=slim for the small one)
	@tools/image.sh build $(VARIANT)

image-check: .venv/dev.stamp  ## the same, and tests of containers of it
	@tools/image.sh check $(VARIANT)

release-check: .venv/dev.stamp  ## wheel and sdist, installed without the sources and tested; docs, licences, image
	@tools/release_check.sh

fuzz: .venv/fuzz.stamp  ## malformed requests, packages and tables, for FUZZ_SECONDS each
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

soak: .venv/dev.stamp  ## load, package swaps and killed workers, for SOAK_MINUTES
	$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES)

clean:  ## remove everything that these targets made
	[ ! -d /var/tmp/prediction-api-image.$$(pwd | cksum | cut -d' ' -f1) ] || tools/image.sh clean
	rm -rf .venv .tools .demo site build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*
	find . -name __pycache__ -prune -exec rm -rf {} +
