"""Gather the drawings for a training on a card: python -m tools.card.make_pack PACK --art ART ...

ART and PEEPS are folders of ``render_art.mjs`` with ``svg`` for its SIDE, the others of
``render_styles.mjs``, of clip art (``openclipart-svg``'s, any depth) and of emoji: SVG files, or
``icons.json`` of an Iconify package. What is large, slow to render, or nearly empty is left out.
"""

import argparse
import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tools.card import drawings
from tools.card.drawings import Pack

NOISE = re.compile(  # what no renderer reads
    r"<\?xml.*?\?>|<!DOCTYPE[^\[>]*>|<!--.*?-->|<metadata.*?</metadata>|<metadata[^>]*/>"
    r"|<sodipodi:namedview.*?</sodipodi:namedview>|<sodipodi:namedview[^>]*/>"
    r"|\s(?:sodipodi|inkscape):[\w-]+=\"[^\"]*\"",
    re.DOTALL,
)
SLOW = 0.05  # seconds of a core to render at SIDE
SIDE = 256
RATIO = 2.5  # of the longer side to the shorter, at most
SEED = 7


def cleaned(svg: str) -> str:
    return re.sub(r"\s+", " ", NOISE.sub("", svg)).strip()


def numbered(folder: Path) -> list[str]:
    """The drawings of one folder by number."""
    paths = sorted(folder.glob("*.svg"), key=lambda path: int(path.stem))
    return [cleaned(path.read_text()) for path in paths]


def found(paths: list[Path], most_bytes: int) -> Iterator[str]:
    for path in sorted(paths):
        content = path.read_bytes()
        if b"<!ENTITY" in content or b"<image" in content:
            continue
        text = cleaned(content.decode("utf-8", "ignore"))
        if 400 < len(text) <= most_bytes:
            yield text


def icons(path: Path, most_bytes: int) -> Iterator[str]:
    """Drawings of an Iconify ``icons.json``, without other skins of the same."""
    collection = json.loads(path.read_text())
    for name, icon in collection["icons"].items():
        width = icon.get("width", collection.get("width", 16))
        height = icon.get("height", collection.get("height", 16))
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        if "skin-tone" not in name and len(icon["body"]) <= most_bytes:
            yield f"{head}{icon['body']}</svg>"


def sound(svg: str) -> bool:
    """It renders soon, is nearly square, and there is something to see."""
    began = time.process_time()
    try:
        pixels = drawings.rasterise(svg, SIDE)
    except BaseException:  # resvg's panics are no Exceptions
        return False
    if time.process_time() - began > SLOW or not 1 / RATIO < len(pixels) / SIDE < RATIO:
        return False
    flat = drawings.flatten(pixels, (255, 255, 255))
    return float(flat.std()) > 8


def chosen(texts: Iterator[str], count: int) -> list[str]:
    """So many of them at random, all sound."""
    every = sorted(set(texts))
    random.Random(SEED).shuffle(every)
    kept = []
    for text in every:
        if len(kept) == count:
            break
        if sound(text):
            kept.append(text)
    return kept


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pack", type=Path)
    parser.add_argument("--art", type=Path, required=True)
    parser.add_argument("--peeps", type=Path, required=True)
    parser.add_argument("--styles", type=Path, required=True)
    parser.add_argument("--held", type=Path, required=True, help="styles to measure with alone")
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--clip-count", type=int, default=5000)
    parser.add_argument("--emoji", type=Path, nargs="+", required=True)
    parser.add_argument("--emoji-count", type=int, default=1300, help="of each set")
    parser.add_argument("--pictures", type=Path, help="a folder of PNGs to measure with alone")
    parser.add_argument("--bytes", type=int, default=14000, help="of a drawing at most")
    return parser.parse_args()


def main() -> None:
    arguments = command_line()
    pack = Pack()
    for name, folder in (("art", arguments.art), ("art-peeps", arguments.peeps)):
        pack.drawings[name] = numbered(folder)
        pack.rows[name] = json.loads((folder / "meta.json").read_text())

    styles = [text for folder in arguments.styles.iterdir() for text in numbered(folder)]
    random.Random(SEED).shuffle(styles)
    pack.drawings["style"] = styles
    for folder in arguments.held.iterdir():
        pack.drawings[f"held-{folder.name}"] = numbered(folder)

    clip = found(list(arguments.clip.rglob("*.svg")), arguments.bytes)
    pack.drawings["clip"] = chosen(clip, arguments.clip_count)
    emoji = []
    for source in arguments.emoji:
        if source.is_dir():
            texts = found(list(source.glob("*.svg")), arguments.bytes)
        else:
            texts = icons(source, arguments.bytes)
        emoji += chosen(texts, arguments.emoji_count)
    random.Random(SEED).shuffle(emoji)
    pack.drawings["emoji"] = emoji

    if arguments.pictures:
        pixels = []
        for path in sorted(arguments.pictures.glob("*.png")):
            with Image.open(path) as image:
                rgba = image.convert("RGBA").resize((SIDE, SIDE), Image.LANCZOS)
            pixels.append(drawings.flatten(np.asarray(rgba), (255, 255, 255)))
        pack.pictures["own"] = np.stack(pixels)

    for name, texts in pack.drawings.items():
        print(f"{len(texts):6d} drawings, {sum(map(len, texts)) / 1e6:6.1f} MB of text  {name}")
    pack.write(arguments.pack)
    print(f"{arguments.pack.stat().st_size / 1e6:.1f} MB  {arguments.pack}")


if __name__ == "__main__":
    main()
