"""An output folder that is worth keeping, made by hand, and folders to compare."""

import json
from pathlib import Path

from storyboard import Settings, artifacts

TRAINING = "0123456789abcdef"


def make(settings: Settings, number: int = 1) -> None:
    """Write what the stages write, in small; ``number`` tells one state from another."""
    folder = settings.folder
    state = folder / ".checkpoint" / TRAINING
    for name in (
        "state.safetensors",
        "step-000004.safetensors",
        "previews/step-000000-panel-1.png",
    ):
        write(state / name, f"{name} {number}")
    write(state / "milestones.json", json.dumps({"number": number}))
    with artifacts.building(folder / "lora") as lora:
        for name in ("lora.safetensors", "checkpoints/step-000004.safetensors"):
            write(lora / name, f"an earlier {name}")
        artifacts.write_manifest(lora, "train", "abc")
    for name in ("panel-1.png", "story.png", "story.json"):
        write(folder / "story" / name, f"{name} {number}")
    artifacts.write_manifest(folder / "story", "render", "abc")
    write(folder / "scores" / "story.json", "{}")
    write(folder / "edits.csv", f"file_name,keep,text\n{number}.png,no,\n")
    for stage in ("collected", "cleaned"):
        write(folder / stage / "metadata.jsonl", f"captions of {stage}")
        write(folder / stage / "images" / "0.jpg", "a picture")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def tree(folder: Path) -> dict[str, bytes]:
    """Content of the files in ``folder`` by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stored(place: Path, name: str, number: int = 1) -> Path:
    """What copy ``number`` wrote of the file ``name``; of ``kept.json`` its list."""
    path = place / name
    (found,) = path.parent.glob(f"{path.stem}-{number:04d}-*{path.suffix}")
    return found


def worth_keeping(folder: Path) -> dict[str, bytes]:
    """What ``keep`` promises of ``folder``."""
    left_out = ("collected/", "cleaned/", "cache/", "kept/run.json")
    return {name: data for name, data in tree(folder).items() if not name.startswith(left_out)}
