"""One process that tries bad inputs: reads JSON lines from stdin, writes two for each.

An input comes as ``{"area", "seed", "number", "folder"}``. The first answer says what it is, the
second how it ended. What the call prints goes to stderr.
"""

import importlib
import json
import os
import random
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from benchmarks.bad_inputs import Wrong
from storyboard.errors import StoryboardError
from storyboard.reference import Reference
from storyboard.settings import Settings
from storyboard.story import Panel

# what a message may name beside a file: fields of the public classes, and parts of a story
FIELDS = {field.name for kind in (Settings, Panel, Reference) for field in fields(kind)}
PARTS = {"panel", "prompt", "caption", "story", "row", "line", "cell", "operator"}
QUOTED = re.compile(r"`([^`]+)`")  # in the words of what an input is: the field it concerns
SHORTEST_NAME = 3  # signs; a shorter file name is found in any sentence


def main() -> None:
    outcomes = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        for answer in tried(**json.loads(line)):
            outcomes.write(json.dumps(answer) + "\n")
            outcomes.flush()


def tried(area: str, seed: int, number: int, folder: str) -> Iterator[dict]:
    """Make the input and call what must handle or refuse it.

    Yields:
        ``{"what"}`` before the call; ``{"what", "outcome", "message", "seconds"}`` after it. The
        outcome is ``handled``, ``refused`` or what is wrong.
    """
    make = importlib.import_module(f"benchmarks.bad_inputs.{area}").make
    place = Path(folder)
    inside = place / "input"
    inside.mkdir(parents=True)
    os.chdir(place)
    what, call = make(random.Random(f"{area}/{seed}/{number}"), inside)
    yield {"what": _shown(what)}

    began = time.perf_counter()
    outcome, message = _outcome_of(call, inside, what)
    seconds = time.perf_counter() - began

    strays = sorted(os.fsencode(path.name) for path in place.iterdir() if path != inside)
    if strays and outcome in ("handled", "refused"):
        outcome, message = "outside", f"left {strays} outside its folder"
    os.chdir("/")
    shutil.rmtree(place, ignore_errors=True)
    shown = {"what": what, "outcome": outcome, "message": message}
    yield {name: _shown(text) for name, text in shown.items()} | {"seconds": round(seconds, 2)}


def _outcome_of(call: Callable[[], object], inside: Path, what: str) -> tuple[str, str]:
    try:
        call()
    except StoryboardError as error:
        return _judged(str(error), inside, what), str(error)
    except Wrong as error:
        return "silent", str(error)
    except BaseException as error:  # anything at all, SystemExit too, is what we look for
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "/storyboard/" in frame.filename]
        frame = (ours or where)[-1]
        at = f"{Path(frame.filename).name}:{frame.lineno}"
        return "raw", f"{type(error).__name__}: {error} [{at}]"
    return "handled", ""


def _judged(message: str, inside: Path, what: str) -> str:
    if len(message.splitlines()) != 1:
        return "lines"
    words = set(re.findall(r"\w+", message.lower()))
    if words & (FIELDS | PARTS) or str(inside) in message:
        return "refused"
    names = {_shown(path.name) for path in inside.rglob("*")} | set(QUOTED.findall(what))
    named = any(name in message for name in names if len(name) >= SHORTEST_NAME)
    return "refused" if named else "nameless"


def _shown(text: str) -> str:
    """``text`` in UTF-8: signs that stand for bytes of another encoding are replaced."""
    return text.encode("utf-8", "replace").decode()


if __name__ == "__main__":
    main()
