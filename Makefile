# One stamp file for each environment, so that nothing is installed twice.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt
DEPENDS := pyproject.toml requirements/constraints.txt

.PHONY: demo test bench lint docs package clean

demo: .stamps/run
	$(BIN)/thalweg frontier markov --preset quick --out results/demo

test: .stamps/test .stamps/rivals
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: .stamps/lint .stamps/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/basedpyright

bench: .stamps/bench .stamps/rivals
	for claim in benchmarks/*_*.py; do $(BIN)/python $$claim || exit 1; done

docs: .stamps/docs
	$(BIN)/python docs/build.py

package: .stamps/test
	.ci/package

.stamps/run: $(DEPENDS)
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	mkdir -p .stamps && touch $@

.stamps/test .stamps/lint .stamps/bench .stamps/docs: .stamps/%: .stamps/run
	$(PIP) -e '.[$*]'
	touch $@

.stamps/rivals: .stamps/run requirements/rivals.txt
	$(PIP) --no-deps -r requirements/rivals.txt
	touch $@

clean:
	rm -rf .venv .stamps .site dist results
