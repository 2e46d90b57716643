"""What of an output folder is worth keeping: what took time to make, or was written by a person.

Pictures of the training set, caches, weights and previews of ``preview`` are not: they are there
again, or made again.
"""

import json
import re
import shutil
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from storyboard import artifacts
from storyboard.data import edits_file, recipes
from storyboard.errors import SettingsError
from storyboard.settings import Settings

STAGES = ("lora", "story", "base")  # folders with a manifest
SCORES = "scores"
EDITS = edits_file.FILE
CHECKPOINT = ".checkpoint"  # of a training that is not finished
NOTES = "kept"  # what ``keep`` itself writes into the output folder
SETTINGS = f"{NOTES}/settings.json"
RECIPE = f"{NOTES}/recipe.yaml"
CAPTIONS = {
    f"{NOTES}/collected.jsonl": "collected/metadata.jsonl",
    f"{NOTES}/cleaned.jsonl": "cleaned/metadata.jsonl",
    f"{NOTES}/cleaned.csv": "cleaned/metadata.csv",
}
RUN = "run.json"  # in NOTES, not kept: which copies are of this folder
FOLDERS = (*STAGES, SCORES, CHECKPOINT, NOTES)

_PART = r"\.?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
_NAME = re.compile(
    rf"{re.escape(EDITS)}|(?:{'|'.join((*STAGES, SCORES, NOTES))})(?:/{_PART}){{1,3}}"
    rf"|\.checkpoint/[0-9a-f]{{16}}(?:/{_PART}){{1,2}}"
)


@dataclass(frozen=True)
class Origin:
    """Which copies are of an output folder.

    Attributes:
        run: In all copies of the folder, and of those that were brought back from one.
        copy: Number of the last copy that was made of the folder, or brought back into it; copies
            of several places are counted together.
    """

    run: str
    copy: int = 0

    def has(self, run: str, number: int) -> bool:
        """Whether nothing was kept since elsewhere that the folder does not have."""
        return self.run == run and number <= self.copy


def is_name(name: str) -> bool:
    """Whether ``name`` can be one of a kept file, relative to the output folder."""
    return _NAME.fullmatch(name) is not None and not name.endswith(".")


def is_note(name: str) -> bool:
    """Whether it is about the copy, and of no stage."""
    return name.startswith(f"{NOTES}/")


def whole_of(name: str) -> str:
    """The folder of a stage or a training in which ``name`` lies; ``name`` where it is in none."""
    parts = name.split("/")
    if parts[0] in STAGES:
        return parts[0]
    return "/".join(parts[:2]) if parts[0] == CHECKPOINT else name


def write_notes(settings: Settings) -> None:
    """Write the settings, the recipe and the captions into ``<output>/kept``."""
    folder = settings.folder
    write_origin(folder, origin_of(folder))  # a first copy that breaks off is known by it
    # in ASCII: names of files may hold bytes that are no text
    content = json.dumps(asdict(settings), indent=1)
    artifacts.write_atomically(folder / SETTINGS, f"{content}\n")
    # a recipe that is gone was kept before; one that came back with a copy may be the one in use
    with suppress(SettingsError, shutil.SameFileError):
        shutil.copyfile(recipes.path_of(settings.recipe), folder / RECIPE)
    for name, source in CAPTIONS.items():
        if (folder / source).is_file():
            shutil.copyfile(folder / source, folder / name)


def files(folder: Path) -> dict[str, Path]:
    """What is to be kept of ``folder``, by name relative to it."""
    paths = [folder / EDITS]
    paths += [path for stage in STAGES for path in _of_stage(folder / stage)]
    paths += (folder / SCORES).glob("*.json")
    for training in (folder / CHECKPOINT).glob("*"):
        paths += [*training.glob("*.safetensors"), *training.glob("*.json")]
        paths += training.glob("previews/*.png")
    paths += [path for path in (folder / NOTES).glob("*") if path.name != RUN]
    found = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
    return {name: path for name, path in found.items() if is_name(name) and path.is_file()}


def _of_stage(folder: Path) -> list[Path]:
    return [folder / name for name in artifacts.named(folder)]


def origin_of(folder: Path) -> Origin:
    """Which copies are of ``folder``; a new run where none has been made or brought back."""
    try:
        content = json.loads((folder / NOTES / RUN).read_text(encoding="utf-8"))
        origin = Origin(content["run"], content["copy"])
        if re.fullmatch(r"[0-9a-f]{32}", origin.run) and type(origin.copy) is int:
            return origin
    except (OSError, ValueError, LookupError, TypeError):
        pass  # there is none, or it is damaged
    return Origin(uuid.uuid4().hex)


def write_origin(folder: Path, origin: Origin) -> None:
    """Note it in ``folder``."""
    artifacts.write_json(folder / NOTES / RUN, asdict(origin))


def other_settings(settings: Settings) -> list[str]:
    """Settings that are not those in ``<output>/kept``, as ``"rank=16 (now None)"``."""
    try:
        kept = json.loads((settings.folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    now = json.loads(json.dumps(asdict(settings)))
    elsewhere = {"output", "keep_in", "time_budget"}
    names = [name for name in now if name in kept and name not in elsewhere]
    return [
        f"{name}={kept[name]!r} (now {now[name]!r})" for name in names if kept[name] != now[name]
    ]
