"""A prompt as ComfyUI reads it.

How its CLIP node weighs words, and what its canvas does to a text that it sends.
"""

import math
import re
from itertools import groupby
from operator import itemgetter

from storyboard import prompts
from storyboard.errors import SettingsError

MAX_DEPTH = 64  # of brackets that a text of ComfyUI is read in
# To ComfyUI the name of a file; CLIP, which knows no capitals, reads the words in both forms
EMBEDDING = "embedding:"
_TO_CANVAS = re.compile(r"\\[{}|]|\\.|\\$|[{}|]|(?<=/)[/*]", re.DOTALL)
_FROM_CANVAS = re.compile(r"(\\)\\\{\\([{}|])\}|\\([{}|])|(\\.)|\{([/*])\}", re.DOTALL)


def to_clip(prompt: str) -> str:
    """``prompt`` for ComfyUI's CLIPTextEncode, every weight written out: ``(text:1.2)``.

    There ``[x]`` is literal, an explicit weight replaces that of the brackets around it, and a
    backslash escapes round brackets alone (comfy/sd1_clip.py, ``token_weights`` and
    ``escape_important``).

    Raises:
        SettingsError: As ``prompts.parse``.
    """
    text = ""
    for piece, weight in prompts.parse(prompt):
        escaped = re.sub(r"[()]", r"\\\g<0>", piece).replace(EMBEDDING, EMBEDDING.capitalize())
        if weight == 1:
            text += escaped
            continue
        words = escaped.rstrip()
        # a backslash of the text itself would escape the bracket
        space = " " if text.endswith("\\") else ""
        text += f"{space}({words}:{prompts.number(weight)}){escaped[len(words) :]}"
    return text


def from_clip(text: str) -> str:
    """The prompt that says what CLIPTextEncode reads in ``text``.

    Raises:
        SettingsError: Its brackets are nested deeper than any prompt that people write.
    """
    return prompts.written(_pieces(text))


def kept_or_from_clip(text: str) -> str:
    """``text`` itself where a story reads it as CLIPTextEncode does, else as ``from_clip``.

    Raises:
        SettingsError: As ``from_clip``.
    """
    pieces = _pieces(text)
    try:
        same = _same(prompts.parse(text), pieces)
    except SettingsError:  # brackets that only a story reads
        same = False
    return text if same else prompts.written(pieces)


def _same(ours: list[tuple[str, float]], theirs: list[tuple[str, float]]) -> bool:
    """Whether two readings have the same words of the same weights, spaces aside."""
    return _without_spaces(ours) == _without_spaces(theirs)


def _without_spaces(pieces: list[tuple[str, float]]) -> list[tuple[float, str]]:
    words = [("".join(text.split()), weight) for text, weight in pieces]
    groups = groupby(((text, weight) for text, weight in words if text), key=itemgetter(1))
    return [(weight, "".join(text for text, _ in group)) for weight, group in groups]


def _pieces(text: str) -> list[tuple[str, float]]:
    """The texts that CLIPTextEncode reads, each with its weight."""
    hidden = text.replace(r"\)", "\0\1").replace(r"\(", "\0\2")
    return [
        (piece.replace("\0\1", ")").replace("\0\2", "("), round(weight, 6))
        for piece, weight in _weighed(hidden, 1.0)
    ]


def _weighed(text: str, weight: float, depth: int = 0) -> list[tuple[str, float]]:
    """Pieces of ``text`` with the weight of each, as ComfyUI's ``token_weights``."""
    if depth > MAX_DEPTH:
        raise SettingsError(
            f"The prompt nests brackets more than {MAX_DEPTH} deep: write one weight instead."
        )
    pieces = []
    for part in _parts(text):
        if len(part) < 2 or part[0] != "(" or part[-1] != ")":
            pieces.append((part, weight))
            continue
        inner = part[1:-1]
        words, _, number = inner.rpartition(":")
        if words and (explicit := _number(number)) is not None:
            pieces += _weighed(words, explicit, depth + 1)
        else:
            pieces += _weighed(inner, weight * prompts.STEP, depth + 1)
    return pieces


def _parts(text: str) -> list[str]:
    """``text`` cut before and behind its outermost brackets."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "(" and depth == 1:
            parts.append(text[start:index])
            start = index
        elif character == ")" and depth == 0:
            parts.append(text[start : index + 1])
            start = index + 1
    return [part for part in [*parts, text[start:]] if part]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def to_canvas(text: str) -> str:
    r"""``text`` in a form that the canvas sends as ``text``.

    (https://github.com/Comfy-Org/ComfyUI_frontend, src/utils/formatUtil.ts, processDynamicPrompt.)
    It first deletes ``/* */`` and what follows ``//`` on a line, then chooses one of ``{a|b}``, and
    takes the backslash from ``\{``, ``\}`` and ``\|``. A choice of one keeps the second sign of
    ``//`` from the first, and a brace from the backslash before it. A backslash at the end, to
    which it would add "undefined", gets a space behind it.
    """
    return _TO_CANVAS.sub(_protected, text)


def _protected(match: re.Match) -> str:
    sign = match[0]
    if sign in ("/", "*"):
        return f"{{{sign}}}"
    if sign in ("{", "}", "|"):
        return f"\\{sign}"
    if sign == "\\":
        return "\\ "
    return f"\\\\{{\\{sign[1]}}}" if sign[1] in "{}|" else sign


def from_canvas(text: str) -> str:
    """The text that ``to_canvas`` shows as ``text``."""
    return _FROM_CANVAS.sub(lambda match: "".join(group for group in match.groups() if group), text)
