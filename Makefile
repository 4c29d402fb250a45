# `make demo` and `make test` set themselves up; nothing else is needed but Python >= 3.10.
PYTHON ?= python3
BIN := .venv/bin

unexport PYTHONDONTWRITEBYTECODE  # or every process that starts compiles all of these modules again

.PHONY: install demo test test-long check format proto diagrams clean
.DEFAULT_GOAL := demo

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the pinned dependencies into .venv (a few minutes, once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/atoll demo $(ARGS)

test: install
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long" $(ARGS)

test-long: install
	$(BIN)/pytest -n 2 --dist loadfile -m long $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p atoll.protocol -p atoll.optim
	$(BIN)/pytest -q tests/test_imports.py tests/test_wire_is_fresh.py tests/test_diagrams_are_fresh.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: install
	$(BIN)/python tools/generate_wire.py

diagrams: install
	$(BIN)/python tools/generate_diagrams.py

clean:
	rm -rf .venv build dist *.egg-info src/*.egg-info
