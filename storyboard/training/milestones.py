"""What training keeps along the way beside the state for resume: LoRAs and previews.

A run that goes on from the state finds them there; the last one copies them to what it made.
"""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

from storyboard import artifacts, disks
from storyboard.seals import is_sealed, sealed

LIST = "milestones.json"
STATE = "state.safetensors"
FINGERPRINT = re.compile(r"[0-9a-f]{16}")  # the name of a training's folder
OURS = re.compile(
    r"state\.safetensors|state\.tmp|milestones\.json|step-\d{6}\.safetensors"
    r"|previews/step-\d{6}-panel-\d+\.png"
)


class Milestones:
    """The files of one training in ``folder``, with their digests.

    Args:
        story: What previews are drawn from; those of another story are not kept.

    Attributes:
        previews: Step -> names of the pictures, relative to ``folder``.
    """

    def __init__(self, folder: Path, story: str = "") -> None:
        self.folder, self.story = folder, story
        self.previews: dict[int, list[str]] = {}
        self._digests: dict[str, str] = {}
        self._read()

    def add(self, name: str, content: bytes) -> None:
        """Keep a file."""
        path = self.folder / name
        with disks.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_atomically(path, content)
        self._digests[name] = artifacts.digest_of_file(path)
        self._write()

    def add_previews(self, step: int, names: list[str]) -> None:
        """Note that the files ``names`` are the previews after ``step`` steps."""
        self.previews[step] = names
        with disks.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def copy_to(self, folder: Path) -> None:
        """Copy LoRAs to ``checkpoints/`` in ``folder``, and previews."""
        names = [name for pictures in self.previews.values() for name in pictures]
        copies = {name: folder / name for name in names}
        for path in sorted(self.folder.glob("step-*.safetensors")):
            copies[path.name] = folder / "checkpoints" / path.name

        (folder / "checkpoints").mkdir()
        for name, copy in copies.items():
            with disks.writing(copy):
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(self.folder / name, copy)

    def _write(self) -> None:
        content = {
            "story": self.story,
            "previews": {str(step): names for step, names in self.previews.items()},
            "digests": self._digests,
        }
        artifacts.write_json(self.folder / LIST, sealed(content))

    def _read(self) -> None:
        """Take what an interrupted run kept; where a file is damaged training begins anew."""
        try:
            content = json.loads((self.folder / LIST).read_text(encoding="utf-8"))
            damaged = LIST if not is_sealed(content) else self._damaged(content["digests"])
        except FileNotFoundError:
            return
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            damaged = LIST
        if damaged:
            print(
                f"train: {self.folder / damaged}, kept to go on from, is damaged: "
                "training begins anew",
                flush=True,
            )
            forget(self.folder.parent)
            return
        self._digests = content["digests"]
        if content["story"] == self.story:
            self.previews = {int(step): names for step, names in content["previews"].items()}

    def _damaged(self, digests: dict[str, str]) -> str | None:
        """The name of a file that is not as it was written."""
        for name, digest in digests.items():
            path = self.folder / name
            if not OURS.fullmatch(name) or not path.is_file():
                return name
            if artifacts.digest_of_file(path) != digest:
                return name
        return None


def forget(root: Path) -> None:
    """Delete what trainings kept below ``root`` to go on from, and nothing else."""
    for folder in root.glob("*"):
        if not FINGERPRINT.fullmatch(folder.name) or folder.is_symlink():
            continue
        for path in folder.rglob("*"):
            if OURS.fullmatch(path.relative_to(folder).as_posix()):
                path.unlink()
        for emptied in (folder / "previews", folder):
            with suppress(OSError):  # other files are in there
                emptied.rmdir()
    with suppress(OSError):
        root.rmdir()
