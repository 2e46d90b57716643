"""Prompts in AUTOMATIC1111's syntax: which words weigh how much.

``(text)`` weighs 1.1, ``[text]`` 1 / 1.1, ``(text:1.3)`` as much as it says; brackets nest and multiply; ``\\(``, ``\\)``,
``\\[``, ``\\]`` and ``\\\\`` stand for the signs themselves
(https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis).
"""

import re

from storyboard.errors import SettingsError

STEP = 1.1  # what one pair of brackets multiplies by
MAX_WEIGHT = 10.0
SHOWN = 12  # signs either side of a wrong bracket
_TOKEN = re.compile(r"\\[()\[\]\\]|[(\[\])]|:\s*([+-]?\d*\.?\d+)\s*(?=\))|.", re.DOTALL)


def parse(prompt: str) -> list[tuple[str, float]]:
    """Pieces of ``prompt`` in order with the weight of each, neighbours of one weight joined; [] if nothing is said.

    Raises:
        SettingsError: A bracket without its partner, or a weight outside 0 to 10; shows the place.
    """
    pieces: list[tuple[str, float]] = []
    opened: list[tuple[str, int, int]] = []  # bracket, where it stands, number of its first piece

    def scale(since: int, factor: float) -> None:
        pieces[since:] = [(text, weight * factor) for text, weight in pieces[since:]]

    said: float | None = None
    for match in _TOKEN.finditer(prompt):
        token, place = match[0], match.start()
        if token in "([":
            opened.append((token, place, len(pieces)))
        elif token in ")]":
            if not opened or opened[-1][0] != {")": "(", "]": "["}[token]:
                raise (
                    _unbalanced(prompt, *opened[-1][:2])
                    if opened
                    else _unbalanced(prompt, token, place)
                )
            scale(opened.pop()[2], 1 / STEP if token == "]" else STEP if said is None else said)
            said = None
        elif match[1] and opened and opened[-1][0] == "(":
            said = float(match[1])
            if not 0 <= said <= MAX_WEIGHT:
                raise SettingsError(
                    f"The prompt {prompt!r} gives the weight {match[1]} at character {place + 2} ({_around(prompt, place)}): write one from 0 to {MAX_WEIGHT:g}."
                )
        else:
            pieces.append((token[-1] if token[0] == "\\" else token, 1.0))
    if opened:
        raise _unbalanced(prompt, *opened[-1][:2])
    return _joined(pieces)


def plain(prompt: str) -> str:
    """The words of ``prompt`` without weights.

    Raises:
        SettingsError: As ``parse``.
    """
    return "".join(text for text, _ in parse(prompt))


def weighted(pieces: list[tuple[str, float]]) -> bool:
    """Does any of them weigh other than 1?"""
    return any(weight != 1 for _, weight in pieces)


def literal(text: str) -> str:
    """The prompt that says ``text`` as it stands, its brackets and backslashes included."""
    return re.sub(r"([()\[\]\\])", r"\\\1", text)


def written(pieces: list[tuple[str, float]]) -> str:
    """The prompt that ``parse`` reads as ``pieces``."""
    return "".join(
        literal(text) if weight == 1 else f"({literal(text)}:{number(weight)})"
        for text, weight in pieces
    )


def number(weight: float) -> str:
    """``weight`` with six digits behind the point, as ``parse`` rounds it, and no exponent."""
    return f"{weight:.6f}".rstrip("0").rstrip(".")


def check(prompt: str) -> str:
    """``prompt`` itself, if it can be read.

    Raises:
        SettingsError: As ``parse``.
    """
    parse(prompt)
    return prompt


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Neighbours of one weight become one; spaces, which weigh nothing, go with what is before them."""
    joined: list[tuple[str, float]] = []
    for text, weight in pieces:
        weight = round(weight, 6)  # ([x]) is 1 exactly
        if joined and (weight == joined[-1][1] or text.isspace()):
            joined[-1] = joined[-1][0] + text, joined[-1][1]
        else:
            joined.append((text, 1.0 if text.isspace() else weight))
    return joined


def _unbalanced(prompt: str, bracket: str, place: int) -> SettingsError:
    wrong = "never closed" if bracket in "([" else "never opened"
    return SettingsError(
        f"The prompt {prompt!r} has a {bracket!r} at character {place + 1} that is {wrong} ({_around(prompt, place)}): write its partner, or \\{bracket} for the sign itself."
    )


def _around(prompt: str, place: int) -> str:
    start, end = max(0, place - SHOWN), place + 1 + SHOWN
    return f"{'…' if start else ''}{prompt[start:place]}►{prompt[place:end]}{'…' if end < len(prompt) else ''}"
