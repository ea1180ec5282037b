# Two commands on a fresh machine: make demo, make test. They make their own environment.
# Variables: PYTHON (the interpreter to make it with), VENV (where), and for the demo
# DATABASE_URL and REDIS_URL, for the tests CQ_TEST_DATABASE_URL and CQ_TEST_REDIS_URL:
# make hands those on to what it starts, from its command line as from the environment.

VENV ?= .venv
export VENV
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest

.PHONY: help demo test test-fast test-all bench lint format clean

help:
	@echo "make demo      the demo project, with a worker, on SQLite or DATABASE_URL=... REDIS_URL=..."
	@echo "make test      the tests, on PostgreSQL and on SQLite, with servers they start themselves"
	@echo "make test-fast the unit tests alone, on SQLite"
	@echo "make test-all  their long forms too; MariaDB too, where CQ_TEST_MARIADB_URL names one"
	@echo "make bench     the figures of docs/explanation/performance.md, on servers they start themselves"
	@echo "make lint      ruff, mypy and import-linter"
	@echo "make format    what ruff can put right by itself"
	@echo "make clean     remove the environment and all caches"

# Made anew when what it depends on changes, and only then.
$(VENV)/.made-%: pyproject.toml .ci/environment
	@sh .ci/environment $*

demo: $(VENV)/.made-demo
	@$(BIN)/python -m demo

# All at once, since tests wait more than they work; what the others say comes after the first.
test: $(VENV)/.made-dev
	@said=$$(mktemp -d); \
	CQ_TEST_DATABASE_URL=sqlite $(PYTEST) -m "not once" >"$$said/sqlite" 2>&1 & sqlite=$$!; \
	$(PYTEST) -m faults >"$$said/faults" 2>&1 & faults=$$!; \
	$(PYTEST) -m "not faults"; failed=$$?; \
	wait $$faults || failed=1; \
	wait $$sqlite || failed=1; \
	cat "$$said/faults" "$$said/sqlite"; rm -r "$$said"; \
	exit $$failed

test-fast: $(VENV)/.made-dev
	CQ_TEST_DATABASE_URL=sqlite $(PYTEST) tests/unit

test-all: export CQ_TEST_LONG = 1
test-all: test
	@if [ -n "$$CQ_TEST_MARIADB_URL" ]; then \
		CQ_TEST_DATABASE_URL="$$CQ_TEST_MARIADB_URL" $(PYTEST) -m "not once"; \
	else \
		echo "MariaDB: not run, since CQ_TEST_MARIADB_URL names none."; \
	fi

bench: $(VENV)/.made-dev
	$(BIN)/python -m bench
	$(BIN)/python -m bench.delay_without_redis
	$(BIN)/python -m bench.trees

lint: $(VENV)/.made-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.made-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .tox .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
