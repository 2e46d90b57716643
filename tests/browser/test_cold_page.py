"""A committed notebook as a page, as those see it who run nothing."""

import pytest

from tests.browser import looks, pages
from tests.browser.conftest import DESKTOP, PHONE
from tests.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("name", ["baseline.ipynb", "baseline.en.ipynb"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_its_pictures_load_and_nothing_fails(browser, tmp_path, screenshots, name, width):
    page, errors = pages.opened(browser, ROOT / name, tmp_path, width)
    assert looks.broken_pictures(page) == [] and errors == []
    assert page.locator(".sb img").count() > 60
    page.screenshot(path=screenshots / f"cold-{name[:-6]}-{width}.png", full_page=True)
