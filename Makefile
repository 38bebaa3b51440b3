# make up    a watched LLM service on this machine: collector, runtime with a real model, demo service, traffic, dashboard
# make test  lint, types, tests          make test-all  the slow proofs too          make bench  every figure of the README
# make fuzz  the C decoder under libFuzzer with ASan and UBSan (needs clang); RUNS=... executions, by default 10 million
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := collector/receive/csrc
EXTENSION := collector/receive/_otlp.abi3.so
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: up test test-all check bench fuzz venv
.DELETE_ON_ERROR:

up: venv
	@$(BIN)/tailbudget up --demo

test: check
	$(BIN)/python -m pytest

test-all: check
	time $(BIN)/python -m pytest -m "slow or not slow" --durations=15

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

RUNS ?= 10000000
FUZZ := build/fuzz

fuzz:
	@mkdir -p $(FUZZ)/corpus
	clang -std=c11 -g -O1 -Wall -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I$(NATIVE) \
	  tests/fuzz/otlp_fuzz.c $(NATIVE)/otlp.c -lm -o $(FUZZ)/otlp_fuzz
	$(FUZZ)/otlp_fuzz -runs=$(RUNS) -max_len=2048 -rss_limit_mb=3000 -artifact_prefix=$(FUZZ)/ $(FUZZ)/corpus tests/fuzz/corpus

venv: $(VENV)/.installed $(EXTENSION)

# Installing builds it, and this again when its sources change; without a compiler the Python decoder serves.
$(EXTENSION): $(wildcard $(NATIVE)/*.c $(NATIVE)/*.h) | $(VENV)/.installed
	@$(BIN)/python -c "from setuptools import setup; setup()" --quiet build_ext --inplace

# The stamp is rebuilt when what to install changes; sources are seen through the editable install without it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tailbudget needs Python 3.11 or newer, this is " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about a minute the first time)"
	$(PIP) install --constraint constraints.txt --editable ".[all,dev]"
	@touch $@
