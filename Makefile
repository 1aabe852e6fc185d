# `make run` and `make test` are all a newcomer needs; each makes .venv itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SECONDS ?=
# Processes that share the tests: what waits in one leaves the processor to the other.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest
SIDE_BY_SIDE := -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

.PHONY: help run test lint kernels format test-kafka-long bench bench-accuracy bench-recovery bench-training soak fuzz clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# torch first and by itself: its CPU build serves, and a later resolver step leaves it alone.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "torch>=2.10,<2.14"
	$(BIN)/pip install --quiet -e ".[dev]"
	@touch $@

run: $(STAMP)  ## Everything on one machine until Ctrl-C; SECONDS=30 ends by itself
	$(BIN)/streamrnn demo $(if $(SECONDS),--seconds $(SECONDS))

test: $(STAMP)  ## All tests; those on a real Kafka when KAFKA_HOME is set. WORKERS=1: one after the other
	@$(MAKE) --no-print-directory -j2 lint kernels
	$(PYTEST) -m "not kafka_long" $(SIDE_BY_SIDE)

lint: $(STAMP)  ## ruff, ruff format, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Compiled once, beside the linters, and found in numba's cache by every process of the tests.
kernels: $(STAMP)
	@$(BIN)/python -m streamrnn.app.warm_up

format: $(STAMP)  ## Put the sources in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-kafka-long: $(STAMP)  ## Kill and fault runs on a real Kafka (KAFKA_HOME); tens of minutes
	$(PYTEST) -m kafka_long -v -s

bench: $(STAMP)  ## Throughput, latency, memory against a real Kafka (KAFKA_HOME)
	$(BIN)/python tests/benchmarks/throughput.py
	$(BIN)/python tests/benchmarks/latency.py
	$(BIN)/python tests/benchmarks/memory.py

bench-accuracy: $(STAMP)  ## All development rows through the back-test (STREAMRNN_DATA: the folder of the sets)
	$(BIN)/python tests/benchmarks/accuracy.py

bench-recovery: $(STAMP)  ## Take-over after kill -9; exactly-once beside at-least-once (KAFKA_HOME)
	$(BIN)/python tests/benchmarks/takeover.py
	$(BIN)/python tests/benchmarks/delivery.py

bench-training: $(STAMP)  ## Rounds of the trainer on the processor and on the GPU, where there is one
	$(BIN)/python tests/benchmarks/training.py

soak: $(STAMP)  ## Ten million ticks with churning series; the process must not grow
	$(BIN)/python tests/benchmarks/soak.py

fuzz: $(STAMP)  ## Coverage-guided fuzzing of all that reads outside bytes (Linux); SECONDS=600 for each target
	$(BIN)/pip install --quiet -e ".[fuzz]"
	$(BIN)/python tests/security/fuzz.py all --seconds $(or $(SECONDS),60)

clean:  ## Remove what was made here
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
