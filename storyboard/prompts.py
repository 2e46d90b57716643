"""Prompts in AUTOMATIC1111's syntax: which words weigh how much.

``(text)`` weighs 1.1, ``[text]`` 1 / 1.1, ``(text:1.3)`` as much as it says; brackets nest and
multiply; ``\\(``, ``\\)``, ``\\[``, ``\\]`` and ``\\\\`` stand for the characters themselves
(https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis).
"""

import re

from storyboard.errors import SettingsError

STEP = 1.1  # what one pair of brackets multiplies by
MAX_WEIGHT = 10.0
CONTEXT = 12  # characters either side of a wrong bracket, in messages
_TOKEN = re.compile(r"\\[()\[\]\\]|[(\[\])]|:\s*([+-]?\d*\.?\d+)\s*(?=\))|.", re.DOTALL)


def parse(prompt: str) -> list[tuple[str, float]]:
    """Pieces of ``prompt`` in order with their weights, neighbours of one weight joined.

    Raises:
        SettingsError: A bracket without its partner, or a weight outside 0 to 10; shows where.
    """
    pieces: list[tuple[str, float]] = []
    opened: list[tuple[str, int, int]] = []  # bracket, its position, index of its first piece

    def scale(since: int, factor: float) -> None:
        pieces[since:] = [(text, weight * factor) for text, weight in pieces[since:]]

    written_weight: float | None = None  # in the bracket that closes next
    for match in _TOKEN.finditer(prompt):
        token, position = match[0], match.start()
        if token in "([":
            opened.append((token, position, len(pieces)))
        elif token in ")]":
            if not opened or opened[-1][0] != {")": "(", "]": "["}[token]:
                wrong = opened[-1][:2] if opened else (token, position)
                raise _unbalanced(prompt, *wrong)
            factor = STEP if written_weight is None else written_weight
            scale(opened.pop()[2], 1 / STEP if token == "]" else factor)
            written_weight = None
        elif match[1] and opened and opened[-1][0] == "(":
            written_weight = float(match[1])
            if not 0 <= written_weight <= MAX_WEIGHT:
                raise SettingsError(
                    f"The prompt {prompt!r} gives the weight {match[1]} at character "
                    f"{position + 2} ({_around(prompt, position)}): "
                    f"write one from 0 to {MAX_WEIGHT:g}."
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
    """Neighbours of one weight become one; spaces go with what is before them."""
    joined: list[tuple[str, float]] = []
    for text, exact in pieces:
        weight = round(exact, 6)  # ([x]) is 1
        if joined and (weight == joined[-1][1] or text.isspace()):
            joined[-1] = joined[-1][0] + text, joined[-1][1]
        else:
            joined.append((text, 1.0 if text.isspace() else weight))
    return joined


def _unbalanced(prompt: str, bracket: str, position: int) -> SettingsError:
    wrong = "never closed" if bracket in "([" else "never opened"
    return SettingsError(
        f"The prompt {prompt!r} has a {bracket!r} at character {position + 1} that is {wrong} "
        f"({_around(prompt, position)}): write its partner, or \\{bracket} for the sign itself."
    )


def _around(prompt: str, position: int) -> str:
    start, end = max(0, position - CONTEXT), position + 1 + CONTEXT
    before = "…" if start else ""
    after = "…" if end < len(prompt) else ""
    return f"{before}{prompt[start:position]}►{prompt[position:end]}{after}"
