"""The real notebook, small, run from a terminal; then again; then with one prompt edited."""

import base64
import hashlib
import json
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from storyboard.__main__ import mend_links, parameters_of
from tests import original_layout
from tests.conftest import ROOT

NOTEBOOK = ROOT / "baseline.ipynb"
SMALL = {
    "rank": 8,
    "learning_rate": "1e-3",
    "train_steps": 40,
    "num_inference_steps": 8,
    "resolution": 96,
    "train_batch_size": 4,
}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train_steps", "8", 8),
        ("rank", "8.0", 8),
        ("seed", "1e3", 1000),
        ("seed", "9007199254740993", 9007199254740993),
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "None", None),
        ("base", "mini", "mini"),
        ("base", "none", None),
        ("base", "2024", "2024"),
        ("dataset", "2024", "2024"),
        ("dataset", "007", "007"),
        ("dataset", "1e5", "1e5"),
        ("dataset", "None", "None"),
        ("recipe", "", ""),
        ("precision", "fp32", "fp32"),
        ("train_steps", "many", "many"),
    ],
)
def test_the_terminal_reads_a_value_by_the_type_of_its_setting(name, text, value):
    defaults = dict.fromkeys(("train_steps", "learning_rate", "base", "precision"))
    defaults |= {"rank": 16, "seed": 42, "dataset": "sample", "recipe": "sample"}
    assert parameters_of([[name, text]], defaults) == {name: value}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "train_step", "3"], "The notebook has no setting 'train_step': choose from"),
        (["-p", "train_steps", "many"], "train_steps='many' must be a whole number"),
        (["-p", "recipe", ""], "recipe='' must be a name or a path"),
        (["-p", "output", "README.md"], "README.md is a file: name another"),
        (["--notebook", "README.md"], "README.md is no notebook: give the path of baseline.ipynb"),
        (["--notebook", "none.ipynb"], "There is no notebook at none.ipynb"),
    ],
)
def test_the_terminal_refuses_in_one_sentence_before_the_kernel_starts(arguments, message):
    command = [sys.executable, "-m", "storyboard", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 2 and run.stdout == ""
    assert message in run.stderr and run.stderr.count("\n") == 1


def test_the_links_of_the_executed_notebook_hold(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    cells = [
        nbformat.v4.new_markdown_cell(
            "![one](one.png) ![two](https://hub/two.png) [a](docs/a.md) [b](https://hub/b.md)"
        ),
        nbformat.v4.new_code_cell("'![one](one.png)'"),
    ]
    executed = tmp_path / "outputs" / "executed.ipynb"
    executed.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), executed)
    mend_links(executed, tmp_path)

    notebook = nbformat.read(executed, 4)
    nbformat.validate(notebook)
    markdown, code = notebook.cells
    assert markdown.source == (
        "![one](attachment:one.png) ![two](https://hub/two.png) [a](../docs/a.md) "
        "[b](https://hub/b.md)"
    )
    attached = base64.b64decode(markdown.attachments["one.png"]["image/png"])
    assert attached == (tmp_path / "one.png").read_bytes()
    assert code.source == "'![one](one.png)'"


def test_every_link_of_the_notebook_holds_in_the_executed_one(executed):
    output, _ = executed
    cells = nbformat.read(output / "baseline.executed.ipynb", 4).cells
    title = cells[0]
    assert "(attachment:story.png)" in title.source and "docs/story.png" not in title.source
    assert "image/png" in title.attachments["story.png"]
    texts = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    pages = re.findall(r"\]\(([^):]+\.md)\)", texts)
    assert len(pages) == 3 and all((output / page).is_file() for page in pages)


def run(output, notebook=NOTEBOOK, **parameters):
    command = [sys.executable, "-m", "storyboard", "--notebook", str(notebook)]
    for name, value in (SMALL | {"output": str(output)} | parameters).items():
        command += ["-p", name, str(value)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )


def contents(output):
    ours = [
        path
        for path in output.rglob("*")
        if path.is_file() and path.name != "baseline.executed.ipynb"
    ]
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in ours
    }


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    output = tmp_path_factory.mktemp("notebook")
    return output, run(output)


def test_it_runs_to_eight_different_pictures(executed):
    output, result = executed
    assert result.returncode == 0, result.stderr[-3000:]
    assert (
        result.stdout.strip()
        .splitlines()[-1]
        .startswith(f"The story is drawn: {output / 'story' / 'story.png'}")
    )
    assert "train: " in result.stdout and "render: drew 8 of 8 panels" in result.stdout
    shown = []
    for number in range(1, 9):
        with Image.open(output / "story" / f"panel-{number}.png") as image:
            shown.append(np.asarray(image.convert("RGB"), int))
    assert all(one.std() > 10 for one in shown)
    assert min(np.abs(a - b).mean() for i, a in enumerate(shown) for b in shown[:i]) > 3
    with Image.open(output / "story" / "story.png") as grid:
        assert grid.width > 4 * 96 and grid.height > 2 * 96


def test_the_lora_changes_all_eight(executed):
    output, _ = executed
    for number in range(1, 9):
        with (
            Image.open(output / "story" / f"panel-{number}.png") as one,
            Image.open(output / "base" / f"panel-{number}.png") as other,
        ):
            assert (
                np.abs(
                    np.asarray(one.convert("RGB"), int) - np.asarray(other.convert("RGB"), int)
                ).mean()
                > 3
            )


def test_the_cells_show_tables_and_pictures(executed):
    output, _ = executed
    executed = nbformat.read(output / "baseline.executed.ipynb", 4)
    pages = "".join(
        str(item.get("data", {}).get("text/html", ""))
        for cell in executed.cells
        for item in cell.get("outputs", [])
    )
    assert (
        pages.count("data:image/jpeg;base64") > 30
        and "alt='the loss over 40 steps'" in pages
        and "image_near_deduplicator" in pages
    )


def test_a_second_run_changes_nothing_and_an_edited_prompt_one_panel(executed, tmp_path):
    output, _ = executed
    before = contents(output)
    again = run(output)
    assert again.returncode == 0 and contents(output) == before
    for stage in ("collect", "clean", "train", "render"):
        assert f"{stage}: nothing to do" in again.stdout

    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if "Story([" in "".join(cell["source"]))
    lines = "".join(cell["source"]).splitlines(keepends=True)
    third = [i for i, line in enumerate(lines) if 'Panel("' in line][2]
    lines[third] = '    Panel("二次元，金色长发女孩，大笑，红色衣服，花园"),\n'
    cell["source"] = lines
    edited = tmp_path / "edited.ipynb"
    edited.write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")
    result = run(output, notebook=edited)
    assert result.returncode == 0 and result.stdout.count("render: drew 1 of 8 panels") == 3
    after = contents(output)
    changed = {name for name in after if after[name] != before.get(name)}
    listings = {
        f"{folder}/{name}"
        for folder in ("story", "base", "preview")
        for name in ("story.png", "story.json", "manifest.json", ".manifest.json", "panel-3.png")
    }
    listings |= {"scores/story.json", "scores/base.json"}
    assert listings <= changed and changed - listings == after.keys() - before.keys()
    assert [name.split("/")[:2] for name in after.keys() - before.keys()] == [
        ["cache", "text"]
    ]  # the new prompt's embedding


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kolors", "sdxl as a single file"])
def test_it_runs_to_the_end_on_a_base_by_its_path(hub, folder, tmp_path, monkeypatch, name):
    import diffusers

    path = hub(name.split()[0]).folder
    if "file" in name:
        monkeypatch.setenv("STORYBOARD_CACHE", str(tmp_path / "cache"))
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(path, variant="fp16")
        path = tmp_path / "anime.safetensors"
        save_file(
            {key: tensor.contiguous() for key, tensor in original_layout.single_file(pipe).items()},
            path,
        )
    result = run(
        tmp_path / "out",
        base=path,
        dataset=folder,
        train_steps=4,
        num_inference_steps=2,
        resolution=64,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (
        "render: drew 8 of 8 panels" in result.stdout
        and (tmp_path / "out" / "story" / "story.png").is_file()
    )


@pytest.mark.slow
def test_bad_input_ends_with_one_sentence_and_an_exit_code(tmp_path):
    """A base that does not exist: in test_packaging.py, which runs the same from a wheel."""
    result = run(tmp_path, dataset="/no/such/folder")
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1 and "DatasetError: There is no folder" in last


@pytest.mark.slow
def test_an_unknown_setting_is_named():
    result = subprocess.run(
        [sys.executable, "-m", "storyboard", "-p", "stepz", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2 and "no setting 'stepz'" in result.stderr
