"""Nothing runs that came from a file: what the package's code may not call."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "storyboard"
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# what torch.load(weights_only=True) raises where a file holds more than weights
UNPICKLING_FAILS = ("lora/checkpoint.py", "compat/data_juicer.py")
PICKLE_NAMES = ("", ".UnpicklingError")
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
UNSAFE_YAML = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}


def trees() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def calls() -> list[tuple[str, str, dict[str, ast.expr]]]:
    """(module, dotted name of what is called, keyword arguments)."""
    return [
        (module, _dotted(node.func), {each.arg: each.value for each in node.keywords if each.arg})
        for module, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is(value: ast.expr | None, constant: object) -> bool:
    return isinstance(value, ast.Constant) and value.value is constant


@pytest.mark.slow
def test_nothing_is_unpickled():
    imported = {
        (module, name)
        for module, tree in trees()
        for node in ast.walk(tree)
        for name in _imported(node)
    }
    forbidden = {each for each in imported if each[1].split(".")[0] in FORBIDDEN_MODULES}
    allowed = {(module, f"pickle{part}") for module in UNPICKLING_FAILS for part in PICKLE_NAMES}
    assert forbidden - allowed == set()
    for module, name, keywords in calls():
        if name == "torch.load":
            assert _is(keywords.get("weights_only"), True), module
        assert not _is(keywords.get("allow_pickle"), True), module


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [each.name for each in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{each.name}" for each in node.names)]
    return []


def test_no_code_of_a_file_runs():
    for module, name, keywords in calls():
        assert name not in FORBIDDEN_CALLS | UNSAFE_YAML, f"{module} calls {name}"
        assert not _is(keywords.get("shell"), True), module
        if "trust_remote_code" in keywords:
            assert _is(keywords["trust_remote_code"], False), module


def test_pictures_are_opened_with_a_list_of_formats():
    """Without one, Pillow starts Ghostscript for what looks like EPS."""
    for module, name, keywords in calls():
        if name in {"Image.open", "PIL.Image.open"}:
            assert "formats" in keywords, f"{module} opens a picture of any format"


def test_pillows_limit_stays_on():
    for module, tree in trees():
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                assert not _dotted(target).endswith("MAX_IMAGE_PIXELS"), module


@pytest.mark.parametrize("name", ["tests", "benchmarks", "tools"])
def test_no_script_of_the_repository_unpickles_or_trusts_remote_code(name):
    for path in Path(ROOT / name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {each.arg: each.value for each in node.keywords}
                assert not _is(keywords.get("trust_remote_code"), True), path
                if _dotted(node.func) == "torch.load":
                    assert _is(keywords.get("weights_only"), True), path
