"""Text of people in Markdown: shown as it stands, never read as Markdown or HTML."""

import html
import re
from collections.abc import Iterable

# Signs that begin something in Markdown (https://github.github.com/gfm); ~ and $ strike and typeset
SIGNS = re.compile(r"[\\`*\[\]|~$!#]|(?<!\w)_|_(?!\w)")
LINK = re.compile(r"\b(?:(https?|ftp)://|www\.)", re.IGNORECASE)  # becomes a link by itself


def escaped(text: str) -> str:
    r"""``text`` in one line, as no HTML, link, picture or formula.

    An underscore within a word is left: it emphasises nothing there.
    """
    whole = html.escape(" ".join(text.split()), quote=False)
    whole = SIGNS.sub(r"\\\g<0>", whole)
    return LINK.sub(
        lambda match: re.sub("[:.]", lambda sign: f"&#{ord(sign[0])};", match[0]), whole
    )


def table(head: list[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Lines of a table; its cells are Markdown."""
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(map(_cell, row))} |" for row in rows),
    ]


def _cell(value: object) -> str:
    """One line, in which a bar that nothing escapes yet ends no cell."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(str(value).split()))
