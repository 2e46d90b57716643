"""What was drawn of many stories: a line of JSON for each panel, or for a story that failed."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storyboard import artifacts
from storyboard.errors import SettingsError
from storyboard.rendering.many_workers import Drawn
from storyboard.rendering.pictures import panel_file

MANIFEST = "manifest.jsonl"
WRITTEN_EVERY = 2.0  # seconds, at least: of thousands of stories it is some MB


class Manifest:
    """``manifest.jsonl`` of some stories, written on the way and where the context ends.

    What an earlier call said of stories that this one does not reach stays.

    Raises:
        SettingsError: Something else is called so.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.path = folder / MANIFEST
        before = _read(self.path)
        self.lines = {name: before.get(name, []) for name in names}
        self._written = time.monotonic()

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, drawn: Drawn) -> None:
        """What became of a story."""
        self.lines[drawn.name] = _lines(drawn, self.lines[drawn.name])
        if time.monotonic() - self._written > WRITTEN_EVERY:
            self._write()

    def _write(self) -> None:
        lines = [line for lines in self.lines.values() for line in lines]
        if lines:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            artifacts.write_atomically(self.path, text)
        self._written = time.monotonic()


def _lines(drawn: Drawn, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each panel; one that was drawn before keeps its seconds."""
    if drawn.pictures is None:
        return [{"story": drawn.name, "error": drawn.error}]
    spent = {line.get("sha256"): line.get("seconds") for line in before}
    return [
        {
            "story": drawn.name,
            "panel": index + 1,
            "file": f"{drawn.name}/{panel_file(index)}",
            "prompt": panel.prompt,
            "negative_prompt": panel.negative_prompt,
            "seed": panel.seed,
            "sha256": digest,
            "seconds": round(drawn.seconds, 2) if index in drawn.new else spent.get(digest),
        }
        for index, (panel, digest) in enumerate(
            zip(drawn.pictures.panels, drawn.digests, strict=True)
        )
    ]


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Lines of an earlier call, by story."""
    if not path.exists():
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line:
                row = json.loads(line)
                found.setdefault(row["story"], []).append(row)
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise SettingsError(
            f"{path} is not a file that Storyboard made: move it away or set output to another "
            "folder."
        ) from error
    return found
