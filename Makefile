# The commands of CONTRIBUTING.md. PYTHON=... takes another environment than .venv.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: setup check format test requirements messages audit

setup:  ## an environment with all that developing needs, and the checks before each commit
	python3 -m venv .venv
	.venv/bin/pip install -q -r requirements.txt -c constraints.txt
	.venv/bin/pip install -q -e ".[dev]" -c constraints.txt
	.venv/bin/pre-commit install

check:  ## format, lint, types and layers: nothing is changed
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

format:  ## whatever can be formatted and fixed by itself
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

test:  ## the README's test command
	$(PYTHON) -m pytest -n 2

requirements:  ## requirements.txt, from pyproject.toml
	$(PYTHON) -m tools.requirements

messages:  ## docs/messages.md, every error of the package, from the code
	$(PYTHON) -m tools.messages

audit:  ## known vulnerabilities of what is installed, where their data can be reached
	$(PYTHON) -m tools.audit
