"""A Chromium for a module's tests, a notebook in JupyterLab, a folder for screenshots."""

import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from tests.browser import chromium
from tests.browser.lab import Lab
from tests.browser.server import Server
from tests.conftest import ROOT

SCREENSHOTS = "STORYBOARD_SCREENSHOTS"  # names the folder that is kept
DESKTOP, PHONE = 1400, 390  # pixels
# so that all of the notebook takes a minute on two cores
SMALL = {
    "resolution": 96,
    "rank": 4,
    "train_steps": 20,
    "train_batch_size": 4,
    "num_inference_steps": 8,
}


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = os.environ.get(SCREENSHOTS)
    if folder is None:
        return tmp_path_factory.mktemp("screenshots")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.launched(tmp_path_factory.mktemp("chromium")) as launched:
        yield launched


@pytest.fixture(scope="module")
def server(tmp_path_factory, browser):
    """JupyterLab over copies of both notebooks, the Chinese one with small settings.

    It asks for the browser first: where that is missing nothing else is started.
    """
    folder = tmp_path_factory.mktemp("lab")
    work = folder / "work"
    (work / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "story.png", work / "docs")
    shutil.copy(ROOT / "baseline.en.ipynb", work)
    notebook = nbformat.read(ROOT / "baseline.ipynb", 4)
    for cell in notebook.cells:
        if cell.id == "settings-code":
            cell.source = _with_values(cell.source, SMALL)
    nbformat.write(notebook, work / "baseline.ipynb")

    running = Server(work, folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def open_lab(browser, server):
    """name of a notebook in the server's folder -> it, open."""
    return lambda name: Lab(lambda: chromium.new_page(browser, DESKTOP), server, name)


def _with_values(source, values):
    for name, value in values.items():
        source, count = re.subn(rf"^{name} = None", f"{name} = {value}", source, flags=re.M)
        assert count == 1, name
    return source
