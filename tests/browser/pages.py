"""A notebook as an HTML page, as nbviewer and others show it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, Route

from tests.browser import chromium
from tests.conftest import ROOT

# What nbconvert's page asks the network for: formulas and widgets, of which there are none here.
LIBRARIES = re.compile("https://")


def opened(browser: Browser, notebook: Path, folder: Path, width: int) -> tuple[Page, list[str]]:
    """The page of ``notebook`` written into ``folder``, and its errors."""
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "story.png", folder / "docs")
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--log-level=ERROR"]
    subprocess.run([*command, "--output-dir", folder, notebook], check=True)

    page, errors = chromium.new_page(browser, width)
    page.route(LIBRARIES, _empty)
    page.goto((folder / notebook.with_suffix(".html").name).as_uri())
    return page, errors


def _empty(route: Route) -> None:
    route.fulfill(status=200, content_type="text/javascript", body="")
