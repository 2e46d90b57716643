"""The notebook's first cell, opened without its repository."""

import subprocess
import sys
import zipfile

import nbformat
import pytest

from tests.conftest import ROOT


def install_cell(name):
    return next(cell for cell in nbformat.read(ROOT / name, 4).cells if cell.id == "install-code")


def run_alone(source, folder):
    """Run ``source`` in ``folder`` by a Python that has no packages."""
    command = [sys.executable, "-X", "utf8", "-I", "-S", "-c", source]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("baseline.ipynb", "只打开了 baseline.ipynb：请把整个仓库"),
        (
            "baseline.en.ipynb",
            "baseline.en.ipynb was opened without its repository: put that beside",
        ),
    ],
)
def test_the_notebook_opened_alone_says_what_is_missing(tmp_path, name, message):
    (tmp_path / "storyboard").mkdir()  # the name alone is no package
    run = run_alone(install_cell(name).source, tmp_path)
    assert f"ModuleNotFoundError: {message}" in run.stderr


@pytest.mark.parametrize(
    "place",
    [
        "storyboard/__init__.py",  # the repository's folder is the notebook's
        "storyboard/storyboard/__init__.py",
        "Storyboard-main.zip/Storyboard-main/storyboard/__init__.py",
        "storyboard-0.2.0-py3-none-any.whl/storyboard/__init__.py",
        "drive/MyDrive/storyboard-main/storyboard/__init__.py",
        "../input/mine/storyboard-main/storyboard/__init__.py",
    ],
)
def test_the_notebook_opened_alone_takes_the_rest_from_beside_it(tmp_path, place):
    """A folder, an archive; on Colab's Drive; where Kaggle puts what was uploaded."""
    code = "def install(): print('found')"
    folder = tmp_path / "working"
    folder.mkdir()
    archive, _, member = place.partition("/")
    if archive.endswith((".zip", ".whl")):
        with zipfile.ZipFile(folder / archive, "w") as file:
            file.writestr(member, code)
    else:
        path = folder / place
        path.parent.mkdir(parents=True)
        path.write_text(code)
    run = run_alone(install_cell("baseline.ipynb").source, folder)
    assert run.stdout == "found\n", run.stderr
