"""Chromium of the system, headless, with a font that has Chinese, and what its console said."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import manimgx_fonts_cjk
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

# The first is what Playwright expects: it draws frames for a page whatever its window does.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
MISSING = (
    "There is no Chromium for the browser tests: install it by "
    "`apt-get install chromium-headless-shell`."
)
TIMEOUT = 120_000  # milliseconds for one thing to appear, on a busy machine
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir>{fonts}</dir>
  <cachedir>{cache}</cachedir>
</fontconfig>
"""
# Errors that are not ours: where they come from or what they say, and why they are there.
NOT_OURS = {
    r"/lsp/status": "JupyterLab asks for language servers, which are not installed",
}


@contextmanager
def launched(folder: Path) -> Iterator[Browser]:
    """The system's Chromium; what it writes of its own goes to ``folder``."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail(MISSING, pytrace=False)

    configuration = folder / "fonts.conf"
    fonts = Path(manimgx_fonts_cjk.__file__).parent
    configuration.write_text(FONTS.format(fonts=fonts, cache=folder / "fonts"), encoding="utf-8")
    environment = os.environ | {"FONTCONFIG_FILE": str(configuration)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, env=environment)
        try:
            yield browser
        finally:
            browser.close()


def new_page(browser: Browser, width: int, height: int = 900) -> tuple[Page, list[str]]:
    """A page, and the list that gets the errors which its console or its scripts have."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(TIMEOUT)
    errors: list[str] = []
    page.on("console", lambda message: _note(message, errors))
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page, errors


def _note(message: ConsoleMessage, errors: list[str]) -> None:
    line = f"{message.text} ({message.location.get('url', '')})"
    if message.type == "error" and not any(re.search(each, line) for each in NOT_OURS):
        errors.append(line)
