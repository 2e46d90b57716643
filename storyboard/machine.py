"""Before the expensive work: will this run here, and how long will it take?"""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from storyboard import artifacts, show
from storyboard.data import recipes
from storyboard.errors import ResourceError
from storyboard.models import bases, memory, run, weights
from storyboard.settings import Settings

PACKAGES = ("torch", "diffsynth", "diffusers", "transformers", "peft", "py-data-juicer", "pillow")
MODULES = {"pillow": "PIL", "py-data-juicer": "data_juicer"}  # where the name to import is another
MINUTES = {
    "cpu": 0.001,
    "cuda": 0.0002,
}  # a training picture of mini at 256 x 256: measured on two cores, guessed for a card
DISK_NEEDED = 2 * 10**9  # bytes for pictures, cache, LoRA and story


@dataclass(frozen=True)
class Facts:
    """What a cell shows in two columns: ``rows`` of (what, found)."""

    rows: list[tuple[str, str]]
    title: str = "This machine"

    def __str__(self) -> str:
        return "\n".join(f"  {name:<12} {value}" for name, value in self.rows)

    def _repr_html_(self) -> str:
        return show.table(self.title, ["what", "found"], self.rows)


def check(settings: Settings) -> Facts:
    """Look at device, memory, disk, weights and recipe.

    Raises:
        ResourceError, BaseError, SettingsError: The run cannot succeed; one sentence says why.
    """
    base = run.check(settings)
    at_hand = weights.present(base)
    if at_hand and base.folder:
        base.check()
    recipes.read(settings.recipe)
    room = _room(settings, base)
    _check_disks(room)
    plan = memory.plan(base, settings)
    memory.check(base, settings)
    found = Facts(
        [
            (
                "Python",
                f"{platform.python_version()} on {platform.system()}, {os.cpu_count()} cores, {_memory()} of memory",
            ),
            (
                "packages",
                ", ".join(
                    f"{name} {number}" for name, number in artifacts.versions(*PACKAGES).items()
                ),
            ),
            ("device", _device()),
            ("memory", str(plan)),
            (
                "disk",
                "; ".join(
                    f"{artifacts.free_space(folder) / 1e9:.0f} GB free for {what}"
                    for what, folder, *_ in room
                ),
            ),
            ("base", f"{base.title}, {_weights(base, at_hand)}"),
            ("time", _time(base, run.filled(settings, base), MINUTES[plan.device])),
        ]
    )
    show.tell(found)
    return found


def _room(settings: Settings, base: bases.Base) -> list[tuple[str, Path, int, str]]:
    """What a run writes besides: what it is, its folder, bytes, and what names another folder for it."""
    outputs = ("outputs", settings.folder, DISK_NEEDED, "output")
    cached = weights.disk(base)
    return [outputs, ("weights", *cached)] if cached else [outputs]


def _check_disks(room: list[tuple[str, Path, int, str]]) -> None:
    """Raise ResourceError unless each disk has room for all that goes onto it."""
    disks: dict[int, list[tuple[str, Path, int, str]]] = {}
    for part in room:
        disks.setdefault(artifacts.disk_of(part[1]), []).append(part)

    for parts in disks.values():
        needed, folder = sum(size for *_, size, _ in parts), parts[0][1]
        if missing := artifacts.free_space_needed(folder, needed):
            named = " or ".join(name for *_, name in parts)
            said = f"The disk of {folder} lacks {missing / 1e9:.1f} GB of the {needed / 1e9:.0f} GB a run needs there"
            raise ResourceError(f"{said}: free some space or set {named} to another disk.")


def _weights(base: bases.Base, at_hand: bool) -> str:
    if base.folder:
        return f"{sum(path.stat().st_size for path in base.folder.rglob('*') if path.is_file()) / 1e6:,.0f} MB of weights present"
    if at_hand:
        return "weights present"
    if base.checkpoint:
        return (
            f"{base.checkpoint.stat().st_size / 1e9:.1f} GB to be read once into {weights.cache()}"
        )
    hubs = " or ".join(
        filter(
            None,
            (
                base.modelscope and f"ModelScope ({base.modelscope})",
                base.huggingface and "Hugging Face",
            ),
        )
    )
    return f"about {base.download / 1e9:.1f} GB to be fetched from {hubs}"


def _time(base: bases.Base, values: dict, minutes: float) -> str:
    if not base.embedded:
        return f"training {values['train_steps']} steps of {values['train_batch_size']}: the remaining time is shown as soon as it runs"
    pictures = (
        values["train_steps"] * values["train_batch_size"] * (values["resolution"] / 256) ** 2
    )
    return f"cleaning under a minute, training about {max(1, round(pictures * minutes))} min ({values['train_steps']} steps of {values['train_batch_size']}), rendering under a minute"


def installed() -> Facts:
    """Versions of what the notebook stands on, and whether the kernel still holds older ones."""
    found = artifacts.versions(*PACKAGES)
    stale = [
        name
        for name, number in found.items()
        if getattr(sys.modules.get(MODULES.get(name, name)), "__version__", number).split("+")[0]
        != number.split("+")[0]
    ]
    advice = (
        f"restart the kernel, it still holds an older {', '.join(stale)}"
        if stale
        else "no restart needed"
    )
    return Facts([*found.items(), ("kernel", advice)], "Packages")


def _device() -> str:
    """What will compute."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, CUDA {torch.version.cuda}"
    driver = _driver()
    if driver and torch.version.cuda:
        return f"CPU: torch is built for CUDA {torch.version.cuda}, which the NVIDIA driver {driver} is too old for (update it, or install a torch for an older CUDA)"
    return (
        "CPU (no NVIDIA driver)"
        if not driver
        else f"CPU: this torch has no CUDA, though there is an NVIDIA driver {driver}"
    )


def _driver() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout.split("\n")[0].strip() or None if answer.returncode == 0 else None


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError, AttributeError):
        return "an unknown amount"  # not on Windows


def files(settings: Settings) -> Facts:
    """What the run left behind, with sizes: the last cell's table."""
    wanted = (
        "lora/lora.safetensors",
        "lora/loss.csv",
        "story/story.png",
        "story/story.json",
        "cleaned/metadata.csv",
        "cleaned/metadata.jsonl",
    )
    paths = [settings.folder / name for name in wanted] + sorted(
        (settings.folder / "story").glob("panel-*.png"), key=lambda p: int(p.stem.split("-")[1])
    )
    return Facts([(_size(path), str(path)) for path in paths if path.is_file()], "Yours to take")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 10**6 else f"{size / 1e3:.1f} kB"
