"""Settings, prompts, panels, references and command lines that nobody would write on purpose."""

import math
import random
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from benchmarks.bad_inputs import Wrong
from storyboard import Panel, Reference, Settings, Story, prompts
from storyboard.__main__ import parameters_of

TEXTS = (
    "", " ", "\n", "\0", "\ud83d", "a\ufeffb", "~", "~nobody/x", "..", "/", "//", "C:\\a", "=1+1",
    "None", "nan", "１２", "٣", "é" * 300, "x" * 5000, "a/" * 3000, "紫色" * 12000, "{folder", "{}",
    "a\r\nb", "\x1b[31m", "<script>", "%s%n", "\u202e", "\udcff",
)  # fmt: skip
SIGNS = (
    "(",
    ")",
    "[",
    "]",
    ":",
    "1.2",
    ".",
    "\\",
    " ",
    "a",
    "紫",
    "9" * 50,
    "-",
    "+",
    "e5",
    "\ud83d",
)


class _Odd:
    """An object whose text cannot be had."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def make(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """One bad input below ``folder``: what it is, and the call that must handle or refuse it."""
    kind = rng.choice(
        (
            _setting,
            _setting,
            _change,
            _output,
            _prompt,
            _prompt,
            _panel,
            _story,
            _reference,
            _option,
        )
    )
    return kind(rng, folder)


def _value(rng: random.Random) -> object:
    number = rng.choice(
        (0, -1, 2**63, 10**5000, 1e308, math.nan, math.inf, -0.0, 0.1, True, 3 + 4j)
    )
    array = rng.choice((np.int64(3), np.float32("nan"), np.zeros(3), np.bool_(True), np.str_("a")))
    thing = rng.choice(([], {}, (), {"a": [1] * 9}, b"\xff", _Odd(), object, print, {1, 2}, None))
    return rng.choice((number, array, thing, rng.choice(TEXTS), Path("a") / "b"))


def _setting(rng: random.Random, _folder: Path) -> tuple[str, Callable[[], object]]:
    names = [field.name for field in fields(Settings)]
    values = {rng.choice(names): _value(rng) for _ in range(rng.randint(1, 3))}

    def call() -> None:
        settings = Settings(**values)
        _same_again(settings)

    return f"settings {', '.join(values)}", call


def _same_again(settings: Settings) -> None:
    values = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    if Settings(**values) != settings:
        raise Wrong(f"{settings} is another when its values are given again")


def _change(rng: random.Random, _folder: Path) -> tuple[str, Callable[[], object]]:
    name = rng.choice((*TEXTS[:6], "trainsteps", "rank", "Seed", "base", "character"))
    value = _value(rng)
    return f"but({name!r})", lambda: Settings().but(**{name: value})


def _output(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    (folder / "file").write_text("mine", encoding="utf-8")
    output = folder / rng.choice(("file", "file/x", "file/x/y", "new", "new/" * 9))
    value = rng.choice((output, str(output)))
    return "output", lambda: Settings(output=value).folder


def _prompt(rng: random.Random, _folder: Path) -> tuple[str, Callable[[], object]]:
    text = "".join(rng.choices(SIGNS, k=rng.choice((3, 10, 100, 19_000))))
    if rng.random() < 0.3:
        depth = rng.choice((2, 30, 9_000))
        text = "(" * depth + "a" + rng.choice((")", ":1.5)", "]")) * depth

    def call() -> None:
        pieces = prompts.parse(text)
        if prompts.parse(prompts.written(pieces)) != pieces:
            raise Wrong("a prompt that is written again reads otherwise")

    return "prompt", call


def _panel(rng: random.Random, _folder: Path) -> tuple[str, Callable[[], object]]:
    names = ("prompt", "negative_prompt", "seed", "reference", "subject", "style")
    values = {rng.choice(names): _value(rng) for _ in range(rng.randint(1, 3))}
    return f"panel {', '.join(values)}", lambda: Panel(**values)


def _story(rng: random.Random, _folder: Path) -> tuple[str, Callable[[], object]]:
    panels = rng.choice(
        (
            _value(rng),
            [_value(rng)],
            ["a"] * rng.randint(60, 70),
            ["a", _value(rng)],
            iter("a" * 99),
        )
    )
    shared = {name: rng.choice(("", _value(rng))) for name in ("negative_prompt", "common")}

    def call() -> None:
        Story(panels, **shared).resolved(rng.choice((0, 42)))

    return "story", call


def _reference(rng: random.Random, _folder: Path) -> tuple[str, Callable[[], object]]:
    names = ("control", "strength", "end", "weights", "annotator")
    values = {rng.choice(names): _value(rng) for _ in range(rng.randint(1, 2))}
    picture = rng.choice(("a.png", _value(rng)))
    return f"reference {', '.join(values)}", lambda: Reference(picture, **values)


def _option(rng: random.Random, _folder: Path) -> tuple[str, Callable[[], object]]:
    defaults = {field.name: field.default for field in fields(Settings)}
    text = rng.choice((*TEXTS, "1e400", "0x10", "1_000", "[[[[" * 500, "True", "-0", "9" * 5000))
    name = rng.choice((*defaults, "nothing"))

    def call() -> None:
        Settings(**parameters_of([[name, text]], defaults))

    return f"-p {name}", call
