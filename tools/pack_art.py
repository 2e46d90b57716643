"""Pack rendered art into one uint8 array per resolution: python -m tools.pack_art ART 128 192

Writes ``ART/pixels-<resolution>.npy`` of shape (n, resolution, resolution, 3).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image


def pack(art: Path, resolution: int) -> Path:
    """Resize every picture of ``art/meta.json`` once, so that training never decodes a PNG."""
    ids = [row["id"] for row in json.loads((art / "meta.json").read_text())]
    target = art / f"pixels-{resolution}.npy"
    pixels = np.lib.format.open_memmap(
        target, "w+", np.uint8, (len(ids), resolution, resolution, 3)
    )
    for row, picture in enumerate(ids):
        with Image.open(art / f"{picture}.png") as image:
            pixels[row] = np.asarray(
                image.convert("RGB").resize((resolution, resolution), Image.LANCZOS)
            )
    pixels.flush()
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("art", type=Path)
    parser.add_argument("resolutions", type=int, nargs="+")
    arguments = parser.parse_args()
    for side in arguments.resolutions:
        print(pack(arguments.art, side))
