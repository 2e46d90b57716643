"""What the docs say of settings, names and messages is what the code says."""

import ast
import functools
import inspect
import re
import tomllib
from dataclasses import fields

import pytest

import storyboard
from storyboard import Panel, Reference, Settings, Story
from storyboard.models import bases
from storyboard.settings import NUMBERS, WHOLE_NUMBERS
from tests.conftest import ROOT
from tests.markdown_pages import SPAN, Page
from tools import messages

LANGUAGES = ("en", "zh")
VALUE = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
NOTHING = "—"
PRINTED = re.compile(r"(?:collect|clean|train|render|text|CPU): ?\S|CPU \(")
ERROR = re.compile(r"(\w+Error): (.+)")
FILLED_IN = re.compile(r"\{[^{}]*\}")
LETTERS = 7  # that a text has beside what is filled in, to be told from others


def page(language, name):
    return Page(ROOT / "docs" / language / name)


def values_in(cell):
    """Numbers in a cell, code left out."""
    return {float(text.replace(",", "")) for text in VALUE.findall(SPAN.sub("", cell))}


@functools.cache
def settings_rows(language):
    """Default and range of each setting on the page, by its name in the order of the page."""
    rows = page(language, "settings.md").rows
    known = {field.name for field in fields(Settings)}
    return {row[0].strip("`"): row[1:3] for row in rows if row[0].strip("`") in known}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_setting_is_missing(language):
    assert settings_rows(language).keys() == {field.name for field in fields(Settings)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_ranges_are_those_that_are_checked(language):
    for name, limits in (WHOLE_NUMBERS | NUMBERS).items():
        assert values_in(settings_rows(language)[name][1]) == set(map(float, limits)), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_defaults_are_those_of_the_bases(language):
    """Where a base has another than most, its name stands before it."""
    for field in fields(Settings):
        cell = settings_rows(language)[field.name][0]
        own = {name: getattr(bases.get(name), field.name, None) for name in bases.names()}
        if field.default is not None:
            own = dict.fromkeys(own, field.default)
        numbers = {name: value for name, value in own.items() if isinstance(value, int | float)}
        if not numbers or field.name == "clip_skip":
            assert values_in(cell) == set()
            continue
        assert values_in(cell) == set(map(float, numbers.values())), field.name
        for name, value in re.findall(r"`(\w+)` ([\d.]+)", cell):
            assert numbers[name] == float(value), (field.name, name)


def public_names():
    """What users write: settings, calls, and the parameters of what a story is made of."""
    names = {field.name for field in fields(Settings)} | set(storyboard.__all__)
    for kind in (Panel, Story, Reference):
        names |= set(inspect.signature(kind).parameters)
    return names


def parameters(call):
    """Names that a call of ``storyboard`` takes by keyword."""
    name = ast.unparse(call.func)
    if name == "settings.but":
        return {field.name for field in fields(Settings)}
    return set(inspect.signature(getattr(storyboard, name)).parameters)


def check_code(code):
    """Raise unless every name and keyword in ``code`` is one of ours."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            assert {each.arg for each in node.keywords} <= parameters(node), code
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = getattr(storyboard, node.value.id.capitalize())
            assert hasattr(owner, node.attr), code
        if isinstance(node, ast.Name):
            assert node.id in public_names() | {"settings"}, code


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_our_column_beside_other_tools_has_names_that_exist(language):
    cells = [row[1] for row in page(language, "coming-from.md").rows if len(row) == 3]
    codes = [code for cell in cells for code in SPAN.findall(cell)]
    assert len(codes) > 60
    for code in codes:
        check_code(code)
    for cell in cells:
        assert SPAN.search(cell) or cell in (NOTHING, "---", "here", "这里"), cell


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_courses_values_are_settings(language):
    [(_, code)] = page(language, "coming-from.md").blocks
    check_code(code.removeprefix("course = "))
    course = eval(code.removeprefix("course = "), {"settings": Settings()})
    assert (course.rank, course.alpha, course.recipe) == (16, 4.0, "course")


@functools.cache
def patterns():
    """Every text of the package that is printed or raised, as a pattern; errors by their kind."""
    found = [(each.kind, each.text) for each in messages.messages()]
    for path in sorted((ROOT / "storyboard").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                text = messages._text(node, {})
                found.append(("", " ".join(text.split())))
    own = {each: FILLED_IN.split(each[1]) for each in found}
    return [
        (kind, re.compile(".*?".join(map(re.escape, pieces))))
        for (kind, _), pieces in own.items()
        if len(re.sub(r"\W", "", "".join(pieces))) >= LETTERS
    ]


def is_said(line):
    error = ERROR.fullmatch(line)
    kind, text = error.groups() if error else ("", line)
    return any(of == kind and pattern.fullmatch(text) for of, pattern in patterns())


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_messages_are_those_that_are_printed(language):
    found = page(language, "troubleshooting.md")
    lines = [line for name, block in found.blocks if not name for line in block.splitlines()]
    lines += [code for code in found.spans if ERROR.match(code) or PRINTED.match(code)]
    assert len(lines) > 25
    assert [line for line in lines if not is_said(line)] == []


@pytest.mark.slow
def test_the_check_of_messages_finds_what_is_not_said():
    assert is_said(
        "LoraError: The LoRA is all zeros, it has learnt nothing: raise train_steps "
        "and run the training cell again."
    )
    assert not is_said("LoraError: The LoRA is all zeros.")
    assert not is_said("train: done")


@pytest.mark.parametrize("language", LANGUAGES)
def test_torch_is_in_the_range_that_is_installed(language):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [torch] = [each for each in project["dependencies"] if re.match(r"torch\b", each)]
    low, above = re.search(r">=(\d+\.\d+),<(\d+\.\d+)", torch).groups()
    highest = f"2.{int(above.split('.')[1]) - 1}"
    text = page(language, "troubleshooting.md").text
    assert re.search(rf"torch\D* {re.escape(low)} \w+ {re.escape(highest)}\b", text)
