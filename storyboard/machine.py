"""Before the expensive work: will this run here, and how long will it take?"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from storyboard import artifacts, drivers, show
from storyboard.data import listing, recipes
from storyboard.errors import ResourceError
from storyboard.facts import Facts
from storyboard.keeping.along import Along
from storyboard.models import devices, memory, run, weights
from storyboard.models.base import Base
from storyboard.settings import Settings
from storyboard.training import defaults

PACKAGES = ("torch", "diffsynth", "diffusers", "transformers", "peft", "py-data-juicer", "pillow")
# minutes for a training picture of mini at 256 x 256: measured on two cores, guessed for a card
MINUTES = {"cpu": 0.001, "mps": 0.001, "cuda": 0.0002}
DISK_NEEDED = 2 * 10**9  # bytes for pictures, cache, LoRA and story
OUTPUTS = (
    "lora/lora.safetensors",
    "lora/loss.csv",
    "story/story.png",
    "story/story.json",
    "cleaned/metadata.csv",
    "cleaned/metadata.jsonl",
)


@dataclass(frozen=True)
class DiskUse:
    """What a run writes into one folder.

    Attributes:
        what: What it is, for messages.
        folder: Where it is written.
        size: Bytes.
        variable: Setting or environment variable that names another folder.
    """

    what: str
    folder: Path
    size: int
    variable: str


def check(settings: Settings) -> Facts:
    """Look at device, memory, disk, weights and recipe.

    Raises:
        ResourceError, BaseError, SettingsError, KeepingError: The run cannot succeed, or what it
            makes cannot be kept; one sentence says why.
    """
    base = run.check(settings)
    Along(settings, "check").check()
    present = weights.present(base)
    if present and base.folder:
        base.check()
    recipes.check_safe(recipes.read(settings.recipe), settings.allow_operators)
    uses = _disk_uses(settings, base)
    _check_disks(uses)
    plan = memory.plan(base, settings)
    memory.check(base, settings)
    paths = _pictures(settings)
    values = run.filled(settings, base)
    if paths:
        values |= defaults.by_size(base, settings, len(paths))

    facts = Facts(
        [
            ("Python", _python()),
            ("packages", _packages()),
            ("device", _device(plan.device)),
            ("memory", str(plan)),
            ("disk", _free_disk(uses)),
            *([("kept in", settings.keep_in)] if settings.keep_in else []),
            ("base", f"{base.title}, {_weights(base, present)}"),
            *([("pictures", _suitable(base, paths))] if paths else []),
            ("time", _time(base, values, MINUTES[plan.device])),
        ]
    )
    show.tell(facts)
    return facts


def files(settings: Settings) -> Facts:
    """What the run left behind, with sizes: the last cell's table."""
    panels = (settings.folder / "story").glob("panel-*.png")
    paths = [settings.folder / name for name in OUTPUTS]
    paths += sorted(panels, key=lambda path: int(path.stem.split("-")[1]))
    rows = [(_size(path), str(path)) for path in paths if path.is_file()]
    return Facts(rows, "Yours to take")


def _pictures(settings: Settings) -> list[Path]:
    """The pictures of a folder of the user's own; none where ``dataset`` is something else."""
    folder = Path(settings.dataset)
    if settings.dataset == "sample" or not folder.is_dir():
        return []
    listed = listing.read_folder(folder, settings.folder)
    return [picture.file.path for picture in listed.pictures if picture.file]


def _suitable(base: Base, paths: list[Path]) -> str:
    """How many pictures there are, and what speaks against them."""
    from storyboard.training import suitability

    return "; ".join([f"{len(paths)}", *suitability.concerns(base, len(paths), paths)])


def _disk_uses(settings: Settings, base: Base) -> list[DiskUse]:
    uses = [DiskUse("outputs", settings.folder, DISK_NEEDED, "output")]
    if cached := weights.disk(base):
        uses.append(DiskUse("weights", *cached))
    return uses


def _check_disks(uses: list[DiskUse]) -> None:
    """Raise ResourceError unless each disk has room for all that goes onto it."""
    disks: dict[int, list[DiskUse]] = {}
    for use in uses:
        disks.setdefault(artifacts.disk_of(use.folder), []).append(use)

    for on_disk in disks.values():
        needed, folder = sum(use.size for use in on_disk), on_disk[0].folder
        if missing := artifacts.free_space_needed(folder, needed):
            variables = " or ".join(use.variable for use in on_disk)
            raise ResourceError(
                f"The disk of {folder} lacks {missing / 1e9:.1f} GB of the {needed / 1e9:.0f} GB "
                f"a run needs there: free some space or set {variables} to another disk."
            )


def _python() -> str:
    system = f"{platform.python_version()} on {platform.system()}"
    return f"{system}, {os.cpu_count()} cores, {_memory()} of memory"


def _packages() -> str:
    versions = artifacts.versions(*PACKAGES)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _free_disk(uses: list[DiskUse]) -> str:
    return "; ".join(
        f"{artifacts.free_space(use.folder) / 1e9:.0f} GB free for {use.what}" for use in uses
    )


def _weights(base: Base, present: bool) -> str:
    """Where the weights are, and how large."""
    if base.folder:
        paths = [path for path in base.folder.rglob("*") if path.is_file()]
        return f"{sum(path.stat().st_size for path in paths) / 1e6:,.0f} MB of weights present"
    if present:
        return "weights present"
    if base.checkpoint:
        size = base.checkpoint.stat().st_size
        return f"{size / 1e9:.1f} GB to be read once into {weights.cache()}"

    hubs = []
    if base.modelscope:
        hubs.append(f"ModelScope ({base.modelscope})")
    if base.huggingface:
        hubs.append("Hugging Face")
    return f"about {base.download / 1e9:.1f} GB to be fetched from {' or '.join(hubs)}"


def _time(base: Base, values: dict, minutes: float) -> str:
    """How long a run takes; ``minutes`` are those of a training picture of mini."""
    steps, batch_size = values["train_steps"], values["train_batch_size"]
    if not base.embedded:
        return (
            f"training {steps} steps of {batch_size}: "
            "the remaining time is shown as soon as it runs"
        )
    pictures = steps * batch_size * (values["resolution"] / 256) ** 2
    return (
        f"cleaning under a minute, training about {max(1, round(pictures * minutes))} min "
        f"({steps} steps of {batch_size}), rendering under a minute"
    )


def _device(device: str) -> str:
    """What will compute."""
    import torch

    if device == devices.MPS:
        free = devices.free_memory(device) / 2**30
        return (
            f"Apple silicon, {free:.1f} GiB for its GPU, which was not tried: "
            'set device="cpu" where it fails'
        )
    if device == devices.CPU and torch.backends.mps.is_available():
        return 'CPU (device="mps" takes Apple\'s GPU)'
    if device == devices.CPU and torch.cuda.is_available():
        return 'CPU (device="cuda" takes the card)'
    if torch.cuda.is_available():
        left, total = torch.cuda.mem_get_info()
        memory = f"{left / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        return f"{torch.cuda.get_device_name()}, {memory}, CUDA {torch.version.cuda}"

    card = drivers.card()
    if not card:
        return "CPU (no NVIDIA driver)"
    fit = card.fit()
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
    if fit.index == "cpu":
        return f"CPU: {fit.reason}"
    if card.runs(torch.version.cuda):
        return f"CPU: torch {torch.__version__} {drivers.HIDDEN}"
    why = f", and {fit.reason}" if fit.reason else f", though there is a driver {card.driver}"
    return (
        f"CPU: torch {torch.__version__} {built}{why} (for {fit.torch} that uses the card, run "
        "`pip uninstall -y torch torchvision` and the install cell again)"
    )


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError, AttributeError):
        return "an unknown amount"  # not on Windows


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 10**6 else f"{size / 1e3:.1f} kB"
