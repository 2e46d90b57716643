"""Somebody else's pictures on mini: python -m benchmarks.foreign_sets --folder DIR

Trains on a folder of pictures with captions by the defaults that its set gets, draws eight prompts
that ask for places, things, hair, clothes and expressions, and saves ``foreign.png``: eight of the
training pictures, the base, the LoRA. The prompts begin with what nearly all captions say, unless
``--common`` says it. ``-p NAME VALUE`` changes a setting. The last line is JSON.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.side_by_side import ROOT
from storyboard import (
    Panel,
    Settings,
    Story,
    clean,
    collect,
    images,
    render,
    score,
    train,
    vocabulary,
)
from storyboard.data.captions import Captions
from storyboard.story import join

# expression, clothes, place, thing; hair where it is another than the character's
ASKED = (
    ("smiling", "blue", "seaside", "", ""),
    ("laughing", "green", "garden", "ice_cream", ""),
    ("surprised", "red", "city", "", ""),
    ("smiling", "white", "forest", "", "purple short"),
    ("asleep", "black", "night", "", ""),
    ("smiling", "yellow", "", "balloon", ""),
    ("sad", "blue", "rain", "umbrella", "blonde long"),
    ("smiling", "green", "home", "book", ""),
)
SHARE = 0.8  # of the captions, that say what all prompts begin with
SIDE = 192  # pixels of a picture in the grid


def prompts(captions: Captions, common: str | None) -> list[str]:
    """A prompt for each of ASKED, in the language of the captions."""
    texts = [row.text for row in captions.rows]
    language = 0 if any(re.search(r"[\u4e00-\u9fff]", text) for text in texts) else 1
    said = _common(texts) if common is None else re.split("[,，]", common)
    return [_prompt(said, asked, language) for asked in ASKED]


def _common(texts: Sequence[str]) -> list[str]:
    """Phrases that nearly all captions have, but for backgrounds, clothes and expressions."""
    phrases = [[part.strip() for part in re.split("[,，]", text)] for text in texts]
    counts = Counter(part for parts in phrases for part in dict.fromkeys(parts) if part)
    frequent = [part for part, count in counts.items() if count >= SHARE * len(texts)]
    varied = {"background", "clothes_color", "expression", "prop"}
    return [part for part in frequent if not varied & vocabulary.named_attributes(part).keys()]


def _prompt(common: Sequence[str], asked: Sequence[str], language: int) -> str:
    expression, clothes, place, thing, hair = asked
    said = list(common)
    if hair:
        color, length = hair.split()
        words = vocabulary.HAIR[color][language], vocabulary.LENGTH[length][language]
        described = f"{words[0]}{words[1]}女孩" if language == 0 else f"a girl with {words[1]} "
        described += "" if language == 0 else f"{words[0]} hair"
        named = vocabulary.named_attributes
        said = [part for part in said if not {"hair_color", "hair_length"} & named(part).keys()]
        said.append(described)
    color = vocabulary.COLORS[clothes][language]
    said.append(vocabulary.EXPRESSION[expression][language][0])
    said.append(f"{color}衣服" if language == 0 else f"{color} clothes")
    said += [vocabulary.PROP[thing][language][0]] if thing else []
    said += [vocabulary.SCENE[place][language][0]] if place else []
    return join(said)


def grid(rows: Sequence[Sequence[Path]], path: Path) -> None:
    """Rows of eight pictures in one."""
    sheet = Image.new("RGB", (SIDE * len(ASKED), SIDE * len(rows)), "white")
    for top, paths in enumerate(rows):
        for left, each in enumerate(paths):
            image = images.read(each).image
            image.thumbnail((SIDE, SIDE))
            sheet.paste(image, (SIDE * left, SIDE * top))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--common", help="what all prompts begin with, such as 动漫，棕色长发女孩")
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "benchmark-foreign")
    arguments = parser.parse_args()
    changes = {name: json.loads(value) for name, value in arguments.parameter}
    settings = Settings(
        base="mini", dataset=str(arguments.folder), output=str(arguments.output)
    ).but(**changes)

    captions = clean(collect(settings), settings).captions
    began = time.perf_counter()
    lora = train(captions, settings)
    seconds = time.perf_counter() - began

    texts = prompts(captions, arguments.common)
    print("\n".join(texts), flush=True)
    story = Story([Panel(text) for text in texts], "模糊，低质量")
    base, drawn = render(story, settings, None), render(story, settings, lora)
    print(score(drawn, settings, captions, base))
    count = min(len(ASKED), len(captions))
    chosen = [captions.rows[index * len(captions) // count] for index in range(count)]
    path = arguments.output / "foreign.png"
    grid([[captions.path(row) for row in chosen], base.paths, drawn.paths], path)
    print(json.dumps({"grid": str(path), "pictures": len(captions), "training_s": round(seconds)}))


if __name__ == "__main__":
    main()
