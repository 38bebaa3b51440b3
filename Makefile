# make up    a watched LLM service on this machine: collector, runtime with a real model, demo service, traffic, dashboard
# make test-libraries  the hooks against the real libraries, the runtime under load tools of others, in venvs over the first
# make test-scale  the questions on ClickHouse's engine and Spark, in another such venv (needs a Java runtime)
# make test  lint, types, tests          make test-all  the slow proofs too          make bench  every figure of the README
# make fuzz  the C decoder under libFuzzer with ASan and UBSan (needs clang); RUNS=... executions, by default 10 million
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LIBRARIES := .venv-libraries
OLDEST := .venv-oldest
LOAD_TOOLS := .venv-load
SCALE := .venv-scale
LLAMA_CPP := .venv-llamacpp
NATIVE := collector/receive/csrc
EXTENSIONS := collector/receive/_otlp.abi3.so gpu_runtime/_decode.abi3.so instrument/_clocks.abi3.so
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: up test test-all test-libraries test-scale check bench fuzz venv
.DELETE_ON_ERROR:

up: venv
	@$(BIN)/tailbudget up --demo

test: check
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-all: check
	time $(BIN)/python -m pytest -m "(slow or not slow) and not libraries and not scale" --durations=15

# Venvs that see the first one's packages: libraries that only their hooks' proofs need, and load tools, whose own needs
# may differ from our pins since they run as programs.
test-libraries: venv
	@test -x $(LIBRARIES)/bin/python || $(PYTHON) -m venv $(LIBRARIES)
	@$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> $$(echo $(LIBRARIES)/lib/python3*/site-packages)/first.pth
	$(LIBRARIES)/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt \
		--requirement tests/libraries.txt
	$(LIBRARIES)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --requirement tests/libraries_alone.txt
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	@$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> $$(echo $(OLDEST)/lib/python3*/site-packages)/first.pth
	$(OLDEST)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --requirement tests/libraries_oldest.txt
	@test -x $(LOAD_TOOLS)/bin/python || $(PYTHON) -m venv $(LOAD_TOOLS)
	@$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> $$(echo $(LOAD_TOOLS)/lib/python3*/site-packages)/first.pth
	$(LOAD_TOOLS)/bin/python -m pip --disable-pip-version-check --quiet install --requirement tests/load_tools.txt
	$(LIBRARIES)/bin/python -m pytest -m libraries
	$(OLDEST)/bin/python -m pytest -m libraries tests/test_libraries_oldest.py

# Every pin is given, so that nothing of the first venv is replaced.
test-scale: venv
	@test -x $(SCALE)/bin/python || $(PYTHON) -m venv $(SCALE)
	@$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> $$(echo $(SCALE)/lib/python3*/site-packages)/first.pth
	$(SCALE)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --requirement tests/scale.txt
	$(SCALE)/bin/python -m pytest -m scale

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	@test -x $(LLAMA_CPP)/bin/python || $(PYTHON) -m venv $(LLAMA_CPP)
	@$(LLAMA_CPP)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps xllamacpp
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

RUNS ?= 10000000
FUZZ := build/fuzz

fuzz:
	@mkdir -p $(FUZZ)/corpus
	clang -std=c11 -g -O1 -Wall -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I$(NATIVE) \
	  tests/fuzz/otlp_fuzz.c $(NATIVE)/otlp.c -lm -o $(FUZZ)/otlp_fuzz
	$(FUZZ)/otlp_fuzz -runs=$(RUNS) -max_len=2048 -rss_limit_mb=3000 -artifact_prefix=$(FUZZ)/ $(FUZZ)/corpus tests/fuzz/corpus

venv: $(VENV)/.installed $(EXTENSIONS)

# Installing builds them, and this again when their sources change; without a compiler Python and torch serve.
$(EXTENSIONS): $(wildcard $(NATIVE)/*.c $(NATIVE)/*.h gpu_runtime/csrc/* instrument/csrc/*) | $(VENV)/.installed
	@$(BIN)/python -c "from setuptools import setup; setup()" --quiet build_ext --inplace

# The stamp is rebuilt when what to install changes; sources are seen through the editable install without it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tailbudget needs Python 3.11 or newer, this is " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about a minute the first time)"
	$(PIP) install --constraint constraints.txt --editable ".[all,dev]"
	@touch $@
