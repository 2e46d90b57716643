"""The two notebooks: from one source, equal in code, each in one language, fit to be committed."""

import ast
import base64
import io
import json
import re
import tokenize

import nbformat
import pytest
from PIL import Image

from tests.conftest import ROOT
from tools import keep_outputs, make_notebook

NAMES = make_notebook.NOTEBOOKS
HAN = re.compile(r"[\u4e00-\u9fff]")
LARGEST = 10**6  # bytes of both notebooks together


@pytest.fixture(scope="module", params=sorted(NAMES))
def language(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(language):
    return nbformat.read(ROOT / NAMES[language], 4)


def code_of(language):
    return [cell for cell in nbformat.read(ROOT / NAMES[language], 4).cells if is_code(cell)]


def is_code(cell):
    return cell.cell_type == "code"


def without_texts(source):
    """The tokens of a cell, comments left out, texts that people read and languages blanked."""
    runnable = re.sub(r"^%", "# %", source, flags=re.MULTILINE)
    tokens = tokenize.generate_tokens(io.StringIO(runnable).readline)
    kept = [each for each in tokens if each.type != tokenize.COMMENT]
    return [
        ""
        if " " in each.string or HAN.search(each.string) or each.string.strip('"') in NAMES
        else each.string
        for each in kept
    ]


def test_both_are_what_the_source_says(language, notebook):
    made = make_notebook.notebook(make_notebook.SOURCE.read_text(encoding="utf-8"), language)
    assert [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.id, cell.cell_type, cell.source) for cell in made.cells
    ]


def test_they_are_equal_in_code():
    one, other = code_of("zh"), code_of("en")
    assert [cell.metadata for cell in one] == [cell.metadata for cell in other]
    for a, b in zip(one, other, strict=True):
        assert without_texts(a.source) == without_texts(b.source), a.id


def test_each_is_in_one_language(language, notebook):
    """Chinese sentences have Chinese words; the English one has Chinese only as a link's name."""
    for cell in notebook.cells:
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", cell.source)
        if language == "en":
            prose = prose.replace("中文版：", "")
            assert not HAN.search(prose), cell.id
        elif not is_code(cell):
            # four English words in a row are a sentence
            run = re.search(r"(?:\b[a-z]+\b[ ,]+){3}[a-z]+", prose)
            assert HAN.search(prose) and run is None, (cell.id, run)


def test_cells_are_short_and_have_one_set_of_parameters(notebook):
    code = [cell for cell in notebook.cells if is_code(cell)]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert all(len(cell.source.splitlines()) <= 15 for cell in code)
    assert sum(cell.source.count('Panel("') for cell in code) == 8
    for cell in code:
        ast.parse(re.sub(r"^%", "# %", cell.source, flags=re.MULTILINE))


def test_what_is_committed_names_no_place_of_the_machine_that_ran_it(notebook):
    nbformat.validate(notebook)
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert not re.search(r"(?<![\w.:/])/(home|root|work|tmp|usr|mnt|content)/", shown)
    for cell in notebook.cells:
        assert not is_code(cell) or cell.execution_count is None


def test_both_together_are_small():
    assert sum((ROOT / name).stat().st_size for name in NAMES.values()) < LARGEST


def test_of_a_run_what_cells_returned_is_kept_with_small_pictures():
    content = io.BytesIO()
    Image.new("RGB", (400, 200), "red").save(content, format="JPEG")
    encoded = base64.b64encode(content.getvalue()).decode()
    page = f"<img src='data:image/jpeg;base64,{encoded}' width='400'>"
    cell = nbformat.v4.new_code_cell("render(story, settings, lora)")
    cell.outputs = [
        nbformat.v4.new_output("stream", text="render: drew 8 of 8 panels in /home/me/outputs"),
        nbformat.v4.new_output("display_data", {"text/html": "progress"}),
        nbformat.v4.new_output("execute_result", {"text/html": page, "text/plain": "/home/me"}),
    ]
    (kept,) = keep_outputs.kept(cell)
    small = keep_outputs.PICTURE.search(kept.data["text/html"])[1]
    with Image.open(io.BytesIO(base64.b64decode(small))) as image:
        assert image.size == (84, 42)
    assert list(kept.data) == ["text/html"] and "/home" not in str(kept)
    assert kept.data["text/html"].endswith("width='400'>")
