"""READMEs and docs: links hold, and the two languages say the same."""

from collections import Counter
from urllib.parse import unquote

import pytest

from tests.conftest import ROOT
from tests.markdown_pages import HAN, Page, runnable

TWINS = [("README.md", "README.zh.md")]
TWINS += [
    (f"docs/en/{path.name}", f"docs/zh/{path.name}")
    for path in sorted((ROOT / "docs" / "en").iterdir())
]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("recipes", "benchmarks", "tools")),
    *sorted((ROOT / "models").glob("*/README.md")),
]
MOST_FIGURES = 600_000  # bytes of docs/figures


def pair(names):
    return [Page(ROOT / name) for name in names]


def one_name(code):
    """Code in which the two languages may differ by the name of the notebook alone."""
    return code.replace("baseline.en.ipynb", "baseline.ipynb")


def differing(one, other):
    """What each of two lists has more of."""
    one, other = Counter(map(one_name, one)), Counter(map(one_name, other))
    return list((one - other).elements()), list((other - one).elements())


def test_every_page_has_its_twin():
    names = [[path.name for path in (ROOT / "docs" / one).iterdir()] for one in ("en", "zh")]
    assert sorted(names[0]) == sorted(names[1])


@pytest.mark.parametrize("names", TWINS, ids=lambda names: names[0])
def test_twins_have_the_same_headings(names):
    english, chinese = pair(names)
    assert english.levels == chinese.levels


@pytest.mark.parametrize("names", TWINS, ids=lambda names: names[0])
def test_twins_have_the_same_code(names):
    """But for comments, and for texts that the Chinese one has in Chinese."""
    english, chinese = pair(names)
    for one, other in zip(english.blocks, chinese.blocks, strict=True):
        assert one[0] == other[0]
        more, less = differing(runnable(*one), runnable(*other))
        if one[0]:
            assert more == less == []
        assert less == []  # words that a figure has translated stand in the English one alone

    more, translated = differing(english.spans, chinese.spans)
    assert [code for code in translated if not HAN.search(code)] == []
    assert len(more) == len(translated), (more, translated)


@pytest.mark.parametrize("names", TWINS, ids=lambda names: names[0])
def test_twins_have_the_same_numbers(names):
    english, chinese = pair(names)
    assert english.numbers == chinese.numbers


@pytest.mark.parametrize("names", TWINS, ids=lambda names: names[0])
def test_twins_have_the_same_tables_and_pictures(names):
    english, chinese = pair(names)
    assert [len(row) for row in english.rows] == [len(row) for row in chinese.rows]
    pictures = [
        [link for link in page.links if link.endswith((".png", ".webp"))]
        for page in (english, chinese)
    ]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_hold(path):
    page = Page(path)
    broken = []
    for link in page.links:
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        is_page = target.suffix == ".md"
        if not target.exists() or (anchor and is_page and anchor not in Page(target).anchors):
            broken.append(link)
    assert broken == []


def test_figures_are_small_and_shown():
    figures = sorted((ROOT / "docs" / "figures").iterdir())
    shown = {link for page in PAGES for link in Page(page).links}
    assert [path.name for path in figures if f"../figures/{path.name}" not in shown] == []
    assert sum(path.stat().st_size for path in figures) < MOST_FIGURES


def test_readme_leads_to_every_page():
    for names in TWINS[1:]:
        for readme, name in zip(TWINS[0], names, strict=True):
            links = {link.partition("#")[0] for link in Page(ROOT / readme).links}
            assert name in links, readme
