"""Train what finds text in a picture: python -m tools.train_text_detector ART FONTS [--steps 1500]

ART is a folder of drawings as SVG text in subfolders, such as ``render_styles.mjs`` and
``render_art.mjs ... svg`` write; lettering (``lettering.py``) is put over them while training.
FONTS is a folder, or several, of TrueType fonts. Pillow's built-in font, which the sample set's
spoilt pictures are lettered in, and the style of the sample set are never trained on. Needs
``resvg_py``. Writes ``models/mini-text-detector/model.safetensors``.
"""

import argparse
import io
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from storyboard.models.text_detector import CELL, SIDE, WEIGHTS, TextDetector, load
from tools.lettering import letter

LEAST = 0.08  # of a cell's pixels that are letters, from which on it counts as text


def rendered(folder: Path, count: int, rng: random.Random) -> list[Image.Image]:
    """``count`` of the drawings under ``folder``, as many of each subfolder."""
    import resvg_py

    groups: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*.svg")):
        groups.setdefault(path.parent, []).append(path)
    pictures: list[Image.Image] = []
    for paths in groups.values():
        for path in rng.sample(paths, min(len(paths), count // len(groups))):
            try:
                png = resvg_py.svg_to_bytes(svg_string=path.read_text(), width=320, height=320)
            except ValueError:  # some clip art is no SVG that resvg or UTF-8 can read
                continue
            drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
            paper = Image.new("RGBA", drawing.size, "white")
            pictures.append(Image.alpha_composite(paper, drawing).convert("RGB"))
    return pictures


def example(
    pictures: list[Image.Image], fonts: list[Path], rng: random.Random
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (256, 256, 3), and (32, 32): 1 text, 0 none, -1 in between, which does not count."""
    picture = rng.choice(pictures)
    zoom = rng.uniform(0.8, 1.4)
    side = max(SIDE, round(SIDE * zoom))
    picture = picture.resize((side, side), Image.BICUBIC)
    left, top = rng.randint(0, side - SIDE), rng.randint(0, side - SIDE)
    picture = picture.crop((left, top, left + SIDE, top + SIDE))
    picture, mask = letter(picture, fonts, rng)
    if rng.random() < 0.4:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=rng.randint(50, 95))
        picture = Image.open(file).convert("RGB")
    cells = (np.asarray(mask, np.float32) / 255).reshape(SIDE // CELL, CELL, SIDE // CELL, CELL)
    share = cells.mean((1, 3))
    target = np.where(share >= LEAST, 1, np.where(share > 0, -1, 0))
    return np.asarray(picture), target.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("art", type=Path)
    parser.add_argument("fonts", type=Path, nargs="+")
    parser.add_argument("--pictures", type=int, default=2400)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warm", action="store_true", help="go on from the weights that are there")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    rng = random.Random(0)
    fonts = sorted(path for folder in arguments.fonts for path in folder.rglob("*.tt[fc]"))
    pictures = rendered(arguments.art, arguments.pictures, rng)
    print(f"{len(pictures)} drawings, {len(fonts)} fonts", flush=True)
    model = load().train() if arguments.warm else TextDetector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: (
            min(1, (s + 1) / 50) * (0.5 * (1 + math.cos(math.pi * s / arguments.steps)) + 0.003)
        ),
    )
    began, seen = time.monotonic(), []
    for step in range(1, arguments.steps + 1):
        batch = [example(pictures, fonts, rng) for _ in range(arguments.batch)]
        inputs = torch.tensor(np.stack([picture for picture, _ in batch]))
        targets = torch.tensor(np.stack([target for _, target in batch]))
        inputs = inputs.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        logits = model(inputs)
        counts = targets >= 0
        loss = F.binary_cross_entropy_with_logits(logits[counts], targets[counts])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seen.append(loss.item())
        if step % 100 == 0:
            seconds = time.monotonic() - began
            print(f"step {step}  loss {np.mean(seen[-100:]):.4f}  {seconds:.0f} s", flush=True)

    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, WEIGHTS)


if __name__ == "__main__":
    main()
