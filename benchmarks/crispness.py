"""How crisp are the pictures?  python -m benchmarks.crispness [--output DIR] [--prompts 40]

``DIR`` is that of a notebook run (``outputs``, where none is named): its cleaned set, the story
with its LoRA and the same by the base. All are measured against half of the cleaned set: the other
half and 24 pictures of that (the floor), both through the base's VAE alone (its share), the panels.
``--prompts 40`` also draws so many held-out prompts with the LoRA; ``--pictures FOLDER`` measures
others. Two measures, smaller is crisper:

- smudged, percent of the area: the row of the notebook's table. Of single pictures it says what
  the eye says (``storyboard/scoring/crispness.py``).
- patch distance: the sliced Wasserstein distance of 7 x 7 patches in the two finest levels of a
  Laplacian pyramid, times 1,000 (https://arxiv.org/abs/1710.10196, section 5), at the pictures' own
  size and at half of it. It also depends on what is drawn: compare it between sets of pictures of
  the same prompts, or of many (``RESULTS.md``).

The last line is JSON.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import torch

from benchmarks import prompt_following
from storyboard import Settings, Story, images, render
from storyboard.data.captions import Captions
from storyboard.models import bases, loading, weights
from storyboard.scoring import crispness
from tools.card import patches

FEW = 24  # pictures that are also drawn through the VAE


def through_vae(pictures: torch.Tensor, name: str) -> torch.Tensor:
    """(n, 3, h, w) in [0, 1] as the VAE of the base ``name`` gives them back, in 8 bits."""
    vae = loading.load(weights.fetch(bases.get(name)), "vae", torch.float32)
    decoded = []
    with torch.no_grad():
        for picture in pictures:
            latents = vae.encode(picture[None] * 2 - 1).latent_dist.mean
            decoded.append(vae.decode(latents).sample[0])
    return (torch.stack(decoded).clamp(-1, 1) + 1).mul(127.5).round() / 255


def drawn(number: int, output: Path, lora: Path) -> list[Path]:
    """Pictures of ``number`` held-out prompts, evenly spread, in Chinese, drawn with ``lora``."""
    rows = prompt_following.prompts()
    rows = [rows[index * len(rows) // number] | {"style": "lorelei"} for index in range(number)]
    panels = prompt_following.panels_of(rows, "zh")
    story = Story(panels, prompt_following.NEGATIVE["zh"])
    settings = Settings(base="mini", output=str(output / "benchmark" / "crispness"))
    return render(story, settings, lora).paths


def pictures_in(folder: Path) -> list[Path]:
    """The panels in ``folder``, or all pictures of a folder that is no story's."""
    panels = sorted(path for path in folder.glob("panel-*.png") if "reference" not in path.name)
    found = panels or sorted(filter(images.is_named_as_picture, folder.glob("*")))
    if not found:
        raise SystemExit(f"{folder} holds no pictures: name another, or run python -m storyboard.")
    return found


def measure(sets: dict[str, Sequence[Path]], captions: Captions, base: str) -> dict[str, dict]:
    """title -> what was measured, of parts of the training set and of ``sets``."""
    paths = [captions.path(row) for row in captions.rows]
    size = images.read(next(iter(sets.values()))[0]).image.size
    load = partial(crispness.pixels, size=size)
    reference = torch.stack([load(path) for path in paths[::2]])
    other_half = torch.stack([load(path) for path in paths[1::2]])
    back = through_vae(other_half, base)
    stride = max(1, len(other_half) // FEW)
    few = slice(0, FEW * stride, stride)
    number = len(other_half[few])

    compared = {
        "the other half of the training set": other_half,
        f"{number} of it": other_half[few],
        "the other half through the VAE": back,
        f"the same {number} through the VAE": back[few],
    }
    compared |= {title: torch.stack([load(path) for path in each]) for title, each in sets.items()}
    widest = crispness.training_edges(paths[::2], size).widest
    return {title: _measured(each, reference, widest) for title, each in compared.items()}


def _measured(pictures: torch.Tensor, reference: torch.Tensor, widest: float) -> dict:
    smudged = [crispness.edges(picture).smudged(widest) for picture in pictures]
    return {
        "pictures": len(pictures),
        "patches": [round(distance, 1) for distance in patches.distance(pictures, reference)],
        "smudged": round(mean(smudged), 2),
    }


def table(rows: dict[str, dict], side: int) -> str:
    """What was measured, a set of pictures a line."""
    width = max(map(len, rows))
    header = (
        f"{'':<{width}}{'pictures':>10}{f'{side} px':>9}{f'{side // 2} px':>9}{'smudged %':>12}"
    )
    lines = [header]
    for title, row in rows.items():
        distances = "".join(f"{distance:>9.1f}" for distance in row["patches"])
        lines.append(f"{title:<{width}}{row['pictures']:>10}{distances}{row['smudged']:>12.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="of a notebook run")
    parser.add_argument("--prompts", type=int, default=0, help="so many are drawn, at most 60")
    parser.add_argument("--lora", type=Path, help="draws them, instead of the run's own")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[], help="folders of others")
    parser.add_argument("--base", default="mini", help="whose VAE is measured")
    arguments = parser.parse_args()

    output = arguments.output
    captions = Captions.load(output / "cleaned")
    sets = {
        "the story with the LoRA": pictures_in(output / "story"),
        "the same by the base": pictures_in(output / "base"),
    }
    for folder in arguments.pictures:
        sets[str(folder)] = pictures_in(folder)
    if arguments.prompts:
        lora = arguments.lora or output / "lora" / "lora.safetensors"
        sets[f"{arguments.prompts} prompts with the LoRA"] = drawn(arguments.prompts, output, lora)

    rows = measure(sets, captions, arguments.base)
    side = images.read(sets["the story with the LoRA"][0]).image.width
    print(f"\n{table(rows, side)}\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
