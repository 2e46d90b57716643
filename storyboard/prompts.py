"""Prompts in AUTOMATIC1111's syntax: which words weigh how much.

``(text)`` weighs 1.1, ``[text]`` 1 / 1.1, ``(text:1.3)`` as much as it says; brackets nest and
multiply; ``\\(``, ``\\)``, ``\\[``, ``\\]`` and ``\\\\`` stand for the characters themselves
(https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis).
"""

import re

from storyboard.errors import SettingsError, brief

STEP = 1.1  # what one pair of brackets multiplies by
MAX_WEIGHT = 10.0
MAX_LENGTH = 20_000  # characters of a prompt
CONTEXT = 12  # characters either side of a wrong bracket, in messages
# possessive quantifiers: no backtracking, so that the time is linear in the length
_WEIGHT = r":\s*+([+-]?(?:\d++(?:\.\d++)?|\.\d++))\s*+(?=\))"
_TOKEN = re.compile(rf"\\[()\[\]\\]|[(\[\])]|{_WEIGHT}|\s++|[^\\()\[\]:\s]++|.", re.DOTALL)
_NO_TEXT = re.compile("[\\0\ud800-\udfff]")


def parse(prompt: str) -> list[tuple[str, float]]:
    """Pieces of ``prompt`` in order with their weights, neighbours of one weight joined.

    Raises:
        SettingsError: A bracket without its partner, a weight outside 0 to 10 (that of nested
            brackets is their product), a character that is no text, or over ``MAX_LENGTH``
            characters; shows where.
    """
    check_characters(prompt, "The prompt")
    if len(prompt) > MAX_LENGTH:
        raise SettingsError(
            f"The prompt {brief(prompt)} has {len(prompt):,} characters: "
            f"write at most {MAX_LENGTH:,}."
        )
    tokens = list(_TOKEN.finditer(prompt))
    factors = _factors(prompt, tokens)

    pieces: list[tuple[str, float]] = []
    weights = [1.0]  # of the brackets that are open, outermost first
    for index, match in enumerate(tokens):
        token = match[0]
        if token in "([":
            weights.append(weights[-1] * factors[index])
            if weights[-1] > MAX_WEIGHT:
                raise SettingsError(
                    f"The prompt {brief(prompt)} gives the weight {weights[-1]:g} in all at "
                    f"character {match.start() + 1} ({_around(prompt, match.start())}): "
                    f"nested brackets multiply, write them so that at most {MAX_WEIGHT:g} "
                    "comes out."
                )
        elif token in ")]":
            weights.pop()
        elif not (match[1] and index + 1 in factors):
            pieces.append((token[-1] if token[0] == "\\" else token, weights[-1]))
    return _joined(pieces)


def _factors(prompt: str, tokens: list[re.Match]) -> dict[int, float]:
    """What the brackets multiply by: index of the opening token -> factor.

    The index of a closing token whose weight is written before it is there too.
    """
    factors: dict[int, float] = {}
    opened: list[int] = []
    for index, match in enumerate(tokens):
        token = match[0]
        if token in "([":
            opened.append(index)
        elif token in ")]":
            partner = tokens[opened[-1]] if opened else match
            if not opened or partner[0] != {")": "(", "]": "["}[token]:
                raise _unbalanced(prompt, partner[0], partner.start())
            written_weight = tokens[index - 1][1]
            if token == ")" and written_weight:
                factors[index] = _weight(prompt, tokens[index - 1])
            factors[opened.pop()] = factors.get(index, STEP if token == ")" else 1 / STEP)
    if opened:
        last = tokens[opened[-1]]
        raise _unbalanced(prompt, last[0], last.start())
    return factors


def _weight(prompt: str, match: re.Match) -> float:
    weight = float(match[1])
    if not 0 <= weight <= MAX_WEIGHT:
        raise SettingsError(
            f"The prompt {brief(prompt)} gives the weight {match[1][:CONTEXT]} at character "
            f"{match.start() + 2} ({_around(prompt, match.start())}): "
            f"write one from 0 to {MAX_WEIGHT:g}."
        )
    return weight


def check_characters(text: str, what: str) -> None:
    """Raise SettingsError if ``text`` holds what is no character: half a pair, or NUL.

    Args:
        what: What the text is, for the message.
    """
    if wrong := _NO_TEXT.search(text):
        raise SettingsError(
            f"{what} {brief(text)} holds {brief(wrong[0])} at character {wrong.start() + 1}, "
            "which is no character (half an emoji, or a zero byte): delete it."
        )


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
    joined: list[tuple[list[str], float]] = []
    for text, exact in pieces:
        weight = round(exact, 6)  # ([x]) is 1
        if joined and (weight == joined[-1][1] or text.isspace()):
            joined[-1][0].append(text)
        else:
            joined.append(([text], 1.0 if text.isspace() else weight))
    return [("".join(texts), weight) for texts, weight in joined]


def _unbalanced(prompt: str, bracket: str, position: int) -> SettingsError:
    wrong = "never closed" if bracket in "([" else "never opened"
    return SettingsError(
        f"The prompt {brief(prompt)} has a {bracket!r} at character {position + 1} that is {wrong} "
        f"({_around(prompt, position)}): write its partner, or \\{bracket} for the sign itself."
    )


def _around(prompt: str, position: int) -> str:
    start, end = max(0, position - CONTEXT), position + 1 + CONTEXT
    before = "…" if start else ""
    after = "…" if end < len(prompt) else ""
    return f"{before}{prompt[start:position]}►{prompt[position:end]}{after}"
