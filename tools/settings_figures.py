"""Draw the figures of docs/*/settings.md: python -m tools.settings_figures [--only NAME ...]

A row shows one panel with too little, the default and too much of a setting, by ``mini``. What a
row needs trained is trained first, into ``outputs/figures``, 2,460 steps in all; a second
run trains and draws nothing twice, and an interrupted one goes on.
"""

import argparse
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from storyboard import Panel, Settings, Story, artifacts, clean, collect, render, resources, train
from storyboard.data.captions import Captions
from storyboard.data.writing import write
from storyboard.notebook import EXAMPLE_LORA

TARGET = Path(__file__).resolve().parents[1] / "docs" / "figures"
OUTPUTS = Path("outputs/figures")
SIDE, GAP, LABEL, TEXT = 256, 8, 22, 14  # pixels: of a picture, between two, of labels, of letters
QUALITY = 80  # of WebP
FEW = 12  # pictures of a set that is too small

BALLOON = Panel("二次元，紫色短发女孩，大笑，黄色衣服，拿着气球，海边", seed=1)
FLAT_BALLOON = Panel("扁平插画，紫色短发女孩，大笑，黄色衣服，拿着气球，海边", seed=1)
CLASSROOM = Panel("二次元，紫色短发女孩，微笑，白色衣服，教室", seed=2)
SOMEBODY = Panel("二次元，女孩，大笑，黄色衣服，海边", seed=5)


@dataclass(frozen=True)
class Training:
    """A LoRA that a figure needs: by the defaults but for ``settings``.

    Attributes:
        pictures: Of the sample set, the first so many; None is all.
    """

    settings: Mapping[str, object]
    pictures: int | None = None


@dataclass(frozen=True)
class Cell:
    """One picture of a row.

    Attributes:
        label: Below it.
        settings: Other than the defaults.
        training: Name of the LoRA; None is the one in the repository.
        story: Its last panel is shown.
    """

    label: str
    settings: Mapping[str, object] = field(default_factory=dict)
    training: str | None = None
    story: tuple[Panel, ...] = (BALLOON,)


TRAININGS = {
    "60 steps": Training({"train_steps": 60}),
    "slow": Training({"train_steps": 600, "learning_rate": 1e-4}),
    "fast": Training({"train_steps": 600, "learning_rate": 1e-2}),
    "few alone": Training({"train_steps": 600, "prior_loss_weight": 0.0}, FEW),
    "few with prior": Training({"train_steps": 600, "prior_loss_weight": 1.0}, FEW),
}


def values_of(name: str, *values: float, story: tuple[Panel, ...] = (BALLOON,)) -> list[Cell]:
    """A cell for each value of the setting ``name``, which is one of drawing."""
    return [Cell(f"{name}={value:g}", {name: value}, story=story) for value in values]


def shared(strength: float) -> Cell:
    """Panel 2 with so much of panel 1."""
    settings = {"character": "shared", "character_strength": strength}
    label = f"panel 2, character_strength={strength:g}"
    return Cell(label, settings, story=(CLASSROOM, SOMEBODY))


FIGURES: dict[str, Sequence[Cell]] = {
    "train_steps": (
        Cell("train_steps=60", training="60 steps"),
        Cell("train_steps=600"),
        Cell(f"train_steps=600, {FEW} pictures", training="few alone"),
    ),
    "learning_rate": (
        Cell("learning_rate=1e-4", training="slow"),
        Cell("learning_rate=4.5e-3"),
        Cell("learning_rate=1e-2", training="fast"),
    ),
    "prior_loss_weight": (
        Cell("prior_loss_weight=0", training="few alone"),
        Cell("prior_loss_weight=1", training="few with prior"),
        Cell("=0, a flat style asked for", training="few alone", story=(FLAT_BALLOON,)),
        Cell("=1, a flat style asked for", training="few with prior", story=(FLAT_BALLOON,)),
    ),
    "resolution": values_of("resolution", 128, 256, 512),
    "lora_strength": values_of("lora_strength", 0.3, 1, 2),
    "guidance_scale": values_of("guidance_scale", 1, 2, 15),
    "num_inference_steps": values_of("num_inference_steps", 3, 16, 50),
    "character_strength": (
        Cell("panel 1", story=(CLASSROOM,)),
        *(shared(strength) for strength in (0.3, 1, 10)),
    ),
}


def trained(name: str, outputs: Path) -> Path:
    """The file of the LoRA of a training, trained unless it is there."""
    training = TRAININGS[name]
    settings = Settings(base="mini", output=str(outputs / "data"))
    captions = clean(collect(settings), settings).captions
    if training.pictures:
        captions = _first(captions, training.pictures, outputs / "few")
    folder = outputs / name.replace(" ", "-")
    return train(captions, settings.but(output=str(folder), **training.settings)).path


def _first(captions: Captions, count: int, folder: Path) -> Captions:
    """The first ``count`` of ``captions``, in a folder of their own."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        write(captions, {row.id: row.text for row in captions.rows[:count]}, folder)
    return Captions.load(folder)


def picture(cell: Cell, folder: Path, outputs: Path) -> Image.Image:
    """What a cell shows, SIDE x SIDE."""
    if cell.training is None:
        lora = resources.path(EXAMPLE_LORA)
    else:
        lora = trained(cell.training, outputs)
    settings = Settings(base="mini", output=str(folder)).but(**cell.settings)
    drawn = render(Story(list(cell.story)), settings, lora)
    return Image.open(drawn.paths[-1]).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def row(pictures: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
    """Pictures side by side, each with its label below."""
    width = len(pictures) * (SIDE + GAP) - GAP
    whole = Image.new("RGB", (width, SIDE + LABEL), "white")
    draw = ImageDraw.Draw(whole)
    font = ImageFont.load_default(TEXT)
    for index, (image, label) in enumerate(zip(pictures, labels, strict=True)):
        left = index * (SIDE + GAP)
        whole.paste(image, (left, 0))
        draw.text((left + SIDE // 2, SIDE + LABEL // 2), label, "black", font, "mm")
    return whole


def figure(name: str, outputs: Path) -> Path:
    """Write ``docs/figures/<name>.webp``; returns its path."""
    cells = FIGURES[name]
    pictures = [
        picture(cell, outputs / "drawn" / name / str(index), outputs)
        for index, cell in enumerate(cells)
    ]
    content = io.BytesIO()
    row(pictures, [cell.label for cell in cells]).save(content, "WEBP", quality=QUALITY, method=6)
    path = TARGET / f"{name}.webp"
    artifacts.write_atomically(path, content.getvalue())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(FIGURES), default=sorted(FIGURES))
    parser.add_argument("--outputs", type=Path, default=OUTPUTS, help="where it works")
    arguments = parser.parse_args()
    for name in arguments.only:
        path = figure(name, arguments.outputs)
        print(f"{path}: {path.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
