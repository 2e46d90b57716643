"""What other tools' prompts hold beside words and weights, put into what a story's prompt can say.

See https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#prompt-editing.
"""

import re

from storyboard import prompts
from storyboard.errors import SettingsError

# <lora:name:0.8> and the like
TAG = re.compile(r"<(\w{2,20}(?:\[[^\[\]<>\n]{0,50}\])?:[^<>\n]{1,300})>")
BREAK = re.compile(r"\bBREAK\b")
AND = re.compile(r"\bAND\b")
AND_WEIGHT = re.compile(r":\s?-?\d{0,9}\.?\d{1,9}\s?$")
WHEN = re.compile(r"\s*(\d{1,9}\.?\d{0,9}|\.\d{1,9})\s*")  # in prompt editing
TOKENS = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\", re.DOTALL)
CLOSING = {"(": ")", "[": "]"}
WHEN_TOKENS = 3  # that a number of prompt editing has at most


def of_a1111(prompt: str, steps: int | None) -> tuple[str, list[str]]:
    """``prompt`` of A1111's web UI as a story says it, and what it cannot say, a sentence each.

    Args:
        steps: Of the picture, for prompt editing that counts them; None where it is not known.
    """
    prompt, notes = without_tags(prompt)
    for pattern, what in ((BREAK, "starts a new chunk"), (AND, "composes several prompts")):
        prompt, joined = _joined(prompt, pattern)
        if joined:
            notes.append(f"{pattern.pattern[2:-2]} {what} there, here the parts are one prompt")
    prompt, edits = _without_editing(prompt, steps or 0)
    if edits:
        notes.append(
            f"{edits[0]} changes words while the picture is drawn: the words of most steps are "
            "taken" + (f", in {len(edits)} places" if len(edits) > 1 else "")
        )
    prompt, note = balanced(prompt)
    return prompt, [*notes, *note]


def without_tags(prompt: str) -> tuple[str, list[str]]:
    """``prompt`` without ``<lora:name:0.8>`` and other tags, which are no words, and notes."""
    tags = list(dict.fromkeys(match[1] for match in TAG.finditer(prompt)))
    if not tags:
        return prompt, []
    shown = ", ".join(f"<{tag}>" for tag in tags[:4]) + (", …" if len(tags) > 4 else "")
    is_lora = any(tag.lower().startswith(("lora", "lyco")) for tag in tags)
    why = "a LoRA of another file" if is_lora else "what only that tool reads"
    return TAG.sub("", prompt).strip(), [f"{shown} names {why}: taken out of the prompt"]


def _joined(prompt: str, separator: re.Pattern) -> tuple[str, bool]:
    """``prompt`` with commas where ``separator`` stands, and whether there is one."""
    parts = separator.split(prompt)
    if len(parts) == 1:
        return prompt, False
    if separator is AND:
        parts = [AND_WEIGHT.sub("", part.rstrip()) for part in parts]
    words = [part.strip().strip(",").strip() for part in parts]
    return ", ".join(word for word in words if word), True


def _without_editing(prompt: str, steps: int) -> tuple[str, list[str]]:
    """``prompt`` with ``[a:b:0.5]`` and ``[a|b]`` replaced by one side, and those as written.

    The side that most of the steps see stays; of alternating words the first.
    """
    pieces: list[str] = []
    frames: list[tuple[str, int, list[int]]] = []  # bracket, its piece, pieces of : and | in it
    edits = []
    for match in TOKENS.finditer(prompt):
        token = match[0]
        if token in ("(", "["):
            frames.append((token, len(pieces), []))
        elif token in (":", "|") and frames and frames[-1][0] == "[":
            frames[-1][2].append(len(pieces))
        pieces.append(token)
        if frames and CLOSING[frames[-1][0]] == token:
            bracket, start, separators = frames.pop()
            chosen = _side(pieces, start, separators, steps) if bracket == "[" else None
            if chosen is not None:
                edits.append("".join(pieces[start : start + 20])[:60])
                pieces[start:] = pieces[slice(*chosen)]
    return "".join(pieces), edits


def _side(
    pieces: list[str], start: int, separators: list[int], steps: int
) -> tuple[int, int] | None:
    """The pieces that stay of the square bracket at ``start``; None for one of weights alone."""
    if not separators:
        return None
    signs = {pieces[index] for index in separators}
    if signs == {"|"}:
        return start + 1, separators[0]
    last = "".join(pieces[separators[-1] + 1 : -1][: WHEN_TOKENS + 1])
    number = WHEN.fullmatch(last)
    if signs != {":"} or len(separators) > 2 or not number:
        return None
    share = float(number[1])
    if share > 1 or (share == 1 and "." not in number[1]):
        share = share / steps if steps else 1.0
    before = (start + 1, separators[0] if len(separators) == 2 else start + 1)
    after = (separators[0] + 1 if len(separators) == 2 else start + 1, separators[-1])
    return before if share >= 0.5 else after


def balanced(prompt: str) -> tuple[str, list[str]]:
    r"""``prompt`` with what brackets without a partner mean in A1111, and a note of it.

    There ``(`` and ``[`` weigh all that follows, and ``)`` and ``]`` are signs
    (modules/prompt_parser.py, parse_prompt_attention).
    """
    try:
        prompts.check(prompt)
    except SettingsError:
        pass  # a weight that is out of range is refused later, with its place
    else:
        return prompt, []
    tokens = TOKENS.findall(prompt)
    opened: list[int] = []
    wrong = False
    for index, token in enumerate(tokens):
        if token in CLOSING:
            opened.append(index)
        elif token in CLOSING.values():
            if opened and CLOSING[tokens[opened[-1]]] == token:
                opened.pop()
            else:
                tokens[index] = f"\\{token}"
                wrong = True
    if not (wrong or opened):
        return prompt, []
    tail = "".join(CLOSING[tokens[index]] for index in reversed(opened))
    note = "a bracket without its partner is read as A1111 does: it weighs all that follows"
    return "".join(tokens) + tail, [note]
