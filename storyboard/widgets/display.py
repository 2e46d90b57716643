"""How a cell shows widgets where it can, and text where it cannot."""

import html
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from storyboard import show
from storyboard.errors import SettingsError, brief

CHINESE = re.compile(r"[\u4e00-\u9fff]")
LANGUAGES = ("zh", "en")  # of labels
CARDS = "repeat(auto-fill, minmax({}px, 1fr))"  # as many columns as fit
# in the theme's own colour: no red is legible on white and on black
ERROR = "font-weight:600;border-left:4px solid #c0392b;padding-left:6px"


class Widgets:
    """Something that a cell shows as widgets, made by ``box``; elsewhere it is its text.

    Widgets need a running kernel and ipywidgets; without them, and in a run that nobody watches,
    nothing is lost: all that they do, methods of the same object do too.
    """

    language: str  # of labels

    def box(self) -> Any:
        """The widgets, made anew."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        content: dict[str, Any] = {"text/plain": str(self)}
        if show.in_notebook() and find_spec("ipywidgets"):
            return self.box()._repr_mimebundle_() | content
        return content


def language_of(texts: Iterable[str], asked: str | None) -> str:
    """``asked``, or the language that most of ``texts`` are in: "zh" or "en".

    Raises:
        SettingsError: Another one is asked for.
    """
    if asked is None:
        found = [bool(CHINESE.search(text)) for text in texts if text.strip()]
        return "zh" if 2 * sum(found) > len(found) else "en"
    if asked not in LANGUAGES:
        raise SettingsError(f'language={brief(asked)} must be "zh", "en" or None.')
    return asked


def cards(children: Sequence[Any], width: int) -> Any:
    """Widgets side by side, at least ``width`` pixels wide, in as many columns as fit."""
    import ipywidgets

    layout = ipywidgets.Layout(
        grid_template_columns=CARDS.format(width), grid_gap="10px", width="100%"
    )
    return ipywidgets.GridBox(children, layout=layout)


def picture(path: Path, side: int, title: str = "") -> str:
    """A picture as HTML, at most ``side`` pixels, with a line of text on hover."""
    return show.page(f"<div title='{html.escape(title)}'>{show.image(path, side)}</div>")


def line(text: str, style: str = "") -> str:
    """A line of text as HTML."""
    return f"<div class='sb' style='line-height:1.4;{style}'>{html.escape(text)}</div>"
