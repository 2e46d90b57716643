"""The rules of the house: sizes, layers, no import cycle."""

import ast
import graphlib
import unicodedata
from functools import cache

import grimp
import pytest
from importlinter import api as importlinter
from importlinter.cli import lint_imports

from tests.conftest import ROOT

PACKAGES = ("storyboard", "benchmarks", "tools", "tests")
MODULE_LINES = 300
FUNCTION_LINES = 60
LINE_LENGTH = 100


def modules():
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def text(path):
    return path.read_text(encoding="utf-8")


def columns(line):
    """As ruff counts them: a Chinese sign takes two."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in line)


def where(path, line=None):
    name = path.relative_to(ROOT).as_posix()
    return name if line is None else f"{name}:{line}"


def test_no_module_is_over_300_lines():
    sizes = {where(path): len(text(path).splitlines()) for path in modules()}
    assert {name: size for name, size in sizes.items() if size > MODULE_LINES} == {}


def test_no_function_is_over_60_lines():
    too_long = {}
    for path in modules():
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = node.end_lineno - node.lineno + 1
                if size > FUNCTION_LINES:
                    too_long[f"{where(path, node.lineno)} {node.name}"] = size
    assert too_long == {}


def test_no_line_is_over_100_columns():
    too_long = [
        where(path, number)
        for path in modules()
        for number, line in enumerate(text(path).splitlines(), 1)
        if columns(line) > LINE_LENGTH
    ]
    assert too_long == []


def test_imports_only_run_down(monkeypatch):
    monkeypatch.chdir(ROOT)
    configuration = importlinter.read_configuration("pyproject.toml")
    assert not any("ignore_imports" in contract for contract in configuration["contracts_options"])
    assert lint_imports(config_filename="pyproject.toml", cache_dir=None) == 0


def test_there_is_no_import_cycle():
    """Imports inside functions count as well."""
    graph = grimp.build_graph("storyboard", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail("imports in a cycle: " + " -> ".join(error.args[1]))
