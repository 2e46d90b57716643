"""The notebook in JupyterLab and Chromium, as a person runs, edits and reads it."""

import hashlib

import nbformat
import pytest

from tests.browser import lab as labs
from tests.browser import looks, pages
from tests.browser.conftest import DESKTOP, PHONE, SMALL
from tests.browser.lab import RUN_TIMEOUT

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SHOWN = (
    "settings",
    "story",
    "preview",
    "check",
    "collect",
    "curate",
    "clean",
    "train",
    "render",
    "edit",
    "noise",
    "compare",
    "strengths",
    "score",
    "files",
)
PANELS = 8
TOPS = "pictures => pictures.map(each => Math.round(each.getBoundingClientRect().top))"


@pytest.fixture(scope="module")
def lab(open_lab):
    """The Chinese notebook after Run All; the tests below take it in their order."""
    lab = open_lab("baseline.ipynb")
    lab.run_all()
    return lab


def test_all_cells_run_and_no_console_has_an_error(lab):
    assert lab.tracebacks() == [] and lab.console == []


@pytest.mark.parametrize("name", ["preview", "render"])
def test_the_story_is_eight_pictures_with_their_prompts(lab, name):
    output = lab.output_of(name)
    assert output.locator("img").count() == PANELS
    assert all(each.is_visible() for each in output.locator("img").all())
    captions = output.locator("figcaption").all_inner_texts()
    assert len(set(captions)) == PANELS and all("紫色短发女孩" in each for each in captions)
    assert looks.broken_pictures(lab.page) == []


def test_progress_is_finished(lab):
    steps = SMALL["train_steps"]
    assert f"train: 100%| {steps}/{steps} [" in lab.text_of("train")
    assert "render: 100%| " in lab.text_of("render")
    assert f"render: drew {PANELS} of {PANELS} panels" in lab.text_of("render")


def test_tables_charts_and_scores_are_seen(lab):
    clean = lab.text_of("clean")
    assert "kept 312 of 427" in clean and "image_near_deduplicator" in clean
    charts = lab.output_of("clean").locator("img[src^='data:image/svg']")
    assert charts.count() == 11 and all(each.is_visible() for each in charts.all())
    assert lab.output_of("train").get_by_alt_text("the loss over").is_visible()
    assert lab.output_of("strengths").locator("img").count() == 4
    scores = lab.output_of("score").locator("tr").all_inner_texts()
    assert len(scores) == 6 and "LoRA" in scores[0] and "图文匹配" in scores[1]


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_all_is_legible_and_nothing_is_cut_off(lab, screenshots, width, theme):
    """Also keeps the pictures that people look at."""
    lab.set_look(width, theme)
    for name in SHOWN:
        lab.screenshot(name, screenshots / f"{name}-{width}-{theme.lower()}.png")
    assert looks.texts(lab.page) > 100
    assert looks.faint(lab.page) == [] and looks.cut_off(lab.page) == []


def test_an_edited_prompt_draws_one_panel(lab, server):
    lab.set_look(DESKTOP, "Light")
    folder = server.folder / "outputs" / "story"
    files, shown = _fingerprints(folder), lab.pictures_of("render")
    assert len(set(shown)) == PANELS

    lab.replace("story", line="雨天", word="难过", by="大笑")
    lab.run("story")
    lab.run("render")
    assert lab.tracebacks() == []
    assert f"render: drew 1 of {PANELS} panels" in lab.text_of("render")
    assert _changed(files, _fingerprints(folder)) == [3]
    assert _changed(shown, lab.pictures_of("render")) == [3]
    assert "大笑，白色衣服，撑着雨伞" in lab.text_of("render")


def test_opened_where_it_is_not_trusted_it_still_shows_all(lab, open_lab, screenshots):
    """As somebody else opens it: JupyterLab then drops styles and drawings from outputs."""
    notebook = nbformat.read(lab.save(), 4)
    notebook.metadata["changed"] = True  # so that its signature is another
    nbformat.write(notebook, lab.path.with_name("received.ipynb"))
    received = open_lab("received.ipynb")
    assert received.page.locator(".sb svg, style:text('.sb')").count() == 0

    # all at one moment: what lies above them may still be drawn
    tops = received.output_of("render").locator("img").evaluate_all(TOPS)
    assert len(tops) == PANELS and len(set(tops)) == 2  # four in a row
    assert received.output_of("clean").locator("img[src^='data:image/svg']").count() == 11
    assert looks.broken_pictures(received.page) == [] and received.console == []
    assert looks.faint(received.page) == [] and looks.cut_off(received.page) == []
    for name in ("clean", "train", "render"):
        received.screenshot(name, screenshots / f"received-{name}.png")


def test_as_a_page_its_pictures_load_and_nothing_fails(lab, browser, tmp_path, screenshots):
    page, errors = pages.opened(browser, lab.save(), tmp_path, DESKTOP)
    assert looks.broken_pictures(page) == [] and errors == []
    assert page.get_by_text("kept 312 of 427").is_visible()
    assert page.locator(".sb img").count() > 60
    assert looks.faint(page) == [] and looks.cut_off(page) == []
    page.screenshot(path=screenshots / "page-executed.png", full_page=True)


def test_two_pictures_unticked_are_taken_out(lab, server):
    gallery = lab.output_of("curate")
    ticks = gallery.get_by_role("checkbox")
    for index in (0, 1):
        ticks.nth(index).uncheck()
    gallery.get_by_text("去掉 2 张").wait_for()
    edits = (server.folder / "outputs" / "edits.csv").read_text(encoding="utf-8-sig")
    assert [line.split(",")[1] for line in edits.splitlines()] == ["keep", "no", "no"]

    lab.run("clean")
    assert lab.tracebacks() == []
    assert "outputs/edits.csv: 2 pictures taken out" in lab.text_of("clean")


def test_a_variation_of_a_panel_is_kept_and_the_story_is_shown_as_code(lab, server):
    lab.run("edit")
    folder = server.folder / "outputs" / "story"
    files = _fingerprints(folder)
    editor = lab.output_of("edit")
    editor.get_by_role("button", name="四个变化").nth(2).click()
    keep = editor.get_by_role("button", name="留这张")
    keep.nth(3).wait_for(timeout=RUN_TIMEOUT)
    seed = keep.nth(1).inner_text().split()[-1]
    keep.nth(1).click()
    code = editor.locator("pre", has_text=f"seed={seed}")
    code.wait_for()
    editor.get_by_text("改文字或种子，再画").wait_for(timeout=RUN_TIMEOUT)
    assert f"seed={seed}" in code.inner_text().splitlines()[3]
    assert _changed(files, _fingerprints(folder)) == [3] and keep.count() == 0
    assert lab.tracebacks() == [] and lab.console == []


def test_a_page_that_draws_no_more_frames_is_opened_anew(open_lab, monkeypatch):
    lab = open_lab("baseline.en.ipynb")
    lab.page.evaluate("window.requestAnimationFrame = () => 0")
    monkeypatch.setattr(labs, "FRAME_TIMEOUT", 500)
    with pytest.warns(UserWarning, match="baseline.en.ipynb: the page drew no frame any more"):
        lab.set_look(PHONE, "Light")
    assert lab.page.viewport_size["width"] == PHONE
    assert lab.page.evaluate(labs.DRAWS, 60_000)


def _fingerprints(folder):
    paths = [folder / f"panel-{number}.png" for number in range(1, PANELS + 1)]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def _changed(before, after):
    """Numbers, from 1, of what is another."""
    pairs = zip(before, after, strict=True)
    return [number for number, (one, other) in enumerate(pairs, 1) if one != other]
