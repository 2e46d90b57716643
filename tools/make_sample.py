"""Make the sample set: python -m tools.make_sample ART OTHERS data/sample

ART is ``node tools/render_art.mjs ART 420 2024 512 lorelei``, OTHERS ``node tools/render_art.mjs
OTHERS 20 61 512 avataaars personas toonHead micah peeps``, both with ``--framings half,close
--facings right``. 300 good pictures of one style, further ones each spoilt as single files are, and
a quarter of the set as wrong as what people bring (``dirt.py``). ``sample_labels.json``, beside the
folder and not in it, says which is which, for tests and benchmarks alone; names of files do not.
Every third caption is English.
"""

import argparse
import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from tools import dirt
from tools.captions import caption

GOOD = 300
SIDES = (256, 256, 256, 288, 320, 384)


def save(image: Image.Image, path: Path, **options: object) -> None:
    if path.suffix == ".jpg":
        options = {"quality": 90, "subsampling": 0} | options
    image.save(path, optimize=True, **options)


def too_small(image, path, rng):
    save(image.resize((rng.choice((96, 128, 160)),) * 2, Image.LANCZOS), path)


def extreme_ratio(image, path, rng):
    save(
        image.resize((640, 640), Image.LANCZOS).crop((0, 200, 640, 440))
        if rng.random() < 0.5
        else image.resize((640, 640), Image.LANCZOS).crop((200, 0, 440, 640)),
        path,
    )


def near_duplicate(image, path, rng):
    bright = ImageEnhance.Brightness(image).enhance(rng.uniform(0.98, 1.02))
    save(bright.resize((rng.choice((300, 340, 400)),) * 2, Image.LANCZOS), path, quality=70)


def blurred(image, path, rng):
    save(
        image.resize((384, 384), Image.LANCZOS).filter(ImageFilter.GaussianBlur(rng.uniform(6, 9))),
        path,
    )


def truncated(image, path, rng):
    save(image.resize((320, 320), Image.LANCZOS), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * rng.uniform(0.3, 0.7))])


def exif_rotated(image, path, rng):
    upright = image.resize((384, 384), Image.LANCZOS).crop((32, 0, 352, 384))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise for display
    save(upright.transpose(Image.ROTATE_90), path, exif=exif)


def rgba(image, path, rng):
    small = image.resize((320, 320), Image.LANCZOS).convert("RGBA")
    mask = Image.new("L", (1280, 1280))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 1279, 1279), 160, 255)
    small.putalpha(mask.resize((320, 320), Image.LANCZOS))
    save(small, path)


def palette(image, path, rng):
    save(image.resize((320, 320), Image.LANCZOS).quantize(64), path)


def unspoilt(image, path, rng):
    save(image.resize((320, 320), Image.LANCZOS), path)


FLAWS = {  # name: (how many, file type, what becomes of it, how it is made)
    "too_small": (6, ".png", "dropped", too_small),
    "extreme_ratio": (6, ".png", "dropped", extreme_ratio),
    "near_duplicate": (8, ".jpg", "dropped", near_duplicate),
    "blurred": (6, ".png", "dropped", blurred),
    "truncated_jpeg": (3, ".jpg", "dropped", truncated),
    "truncated_png": (3, ".png", "dropped", truncated),
    "exif_rotated": (5, ".jpg", "mended", exif_rotated),
    "rgba": (4, ".png", "mended", rgba),
    "palette": (4, ".png", "mended", palette),
    "empty_caption": (4, ".jpg", "dropped", unspoilt),
    "missing_file": (4, ".png", "dropped", None),
}
DIRT = {  # kind of dirt.KINDS: how many
    "other_style": 12,
    "wrong_caption": 12,
    "watermark": 10,
    "screenshot": 10,
    "blurred": 6,
    "blown_up": 10,
    "mostly_empty": 8,
    "near_duplicate": 6,
}


@dataclass(frozen=True)
class Entry:
    """A picture of the set.

    Attributes:
        file: Where it was written; missing where the flaw is that it is missing.
        text: Its caption.
        flaw: What is wrong with it; "good" where nothing is.
        outcome: "kept", "mended" or "dropped".
        drawing: Id of the drawing in ART; -1 for one of OTHERS.
    """

    file: Path
    text: str
    flaw: str
    outcome: str
    drawing: int


def shuffled_jobs(pictures: list[dict], rng: random.Random) -> list[tuple[str, dict]]:
    """("good" or a flaw, attributes of the picture), in the order of the set."""
    jobs = [("good", row) for row in pictures[:GOOD]]
    spare = iter(pictures[GOOD:])
    for flaw, (count, *_) in FLAWS.items():
        for _ in range(count):
            repeated = flaw == "near_duplicate"
            jobs.append((flaw, pictures[rng.randrange(GOOD)] if repeated else next(spare)))
    rng.shuffle(jobs)

    first = {row["id"]: index for index, (flaw, row) in enumerate(jobs) if flaw == "good"}
    for index, (flaw, row) in enumerate(jobs):
        original = first[row["id"]] if flaw == "near_duplicate" else index
        if original > index:  # a repetition comes after what it repeats
            jobs[index], jobs[original] = jobs[original], jobs[index]
    return jobs


def write_picture(flaw: str, row: dict, stem: Path, art: Path, rng: random.Random) -> Path:
    """Write one picture, if the flaw leaves any; its path."""
    suffix = rng.choice((".jpg", ".jpg", ".png")) if flaw == "good" else FLAWS[flaw][1]
    path = stem.with_suffix(suffix)
    make = None if flaw == "good" else FLAWS[flaw][3]
    if flaw == "good" or make:
        image = Image.open(art / f"{row['id']}.png").convert("RGB")
        if flaw == "good":
            side = rng.choice(SIDES)
            save(image.resize((side, side), Image.LANCZOS), path)
        else:
            make(image, path, rng)
    return path


def files(pictures: list[dict], art: Path, folder: Path) -> list[Entry]:
    """The good pictures, and those spoilt as single files are."""
    rng, entries = random.Random(2024), []
    for index, (flaw, row) in enumerate(shuffled_jobs(pictures, rng)):
        path = write_picture(flaw, row, folder / f"{index:04d}", art, rng)
        text = "" if flaw == "empty_caption" else caption(row, "en" if index % 3 == 2 else "zh")
        outcome = FLAWS[flaw][2] if flaw in FLAWS else "kept"
        entries.append(Entry(path, text, flaw, outcome, row["id"]))
    return entries


def dirty(
    pictures: list[dict],
    others: list[dict],
    art: Path,
    other_art: Path,
    folder: Path,
    seed: int,
) -> list[Entry]:
    """What is as wrong as in sets that people bring."""
    used = sum(count for flaw, (count, *_) in FLAWS.items() if flaw != "near_duplicate")
    good, spare = pictures[:GOOD], iter(pictures[GOOD + used :])
    entries = []
    for kind, count in DIRT.items():
        for number in range(count):
            rng = random.Random(f"{seed}-{kind}-{number}")
            language = "en" if rng.random() < 1 / 3 else "zh"
            source = art
            if kind == "other_style":
                source, row = other_art, others[number]
            else:
                row = rng.choice(good) if kind == "near_duplicate" else next(spare)
            # people write the same word for the style before every caption
            text = caption(row | {"style": "lorelei"}, language)
            if kind == "wrong_caption":
                text = caption(rng.choice(good), language)
            elif kind == "near_duplicate":
                text = caption(row, language, rng, drop=0.3)

            image = Image.open(source / f"{row['id']}.png").convert("RGB")
            path = folder / f"{kind}-{number}{rng.choice(('.jpg', '.jpg', '.png'))}"
            if kind == "near_duplicate":
                path = path.with_suffix(".jpg")
            quality = rng.randint(60, 85) if kind == "near_duplicate" else rng.randint(80, 92)
            options = {"quality": quality} if path.suffix == ".jpg" else {}
            save(dirt.KINDS[kind](image, rng), path, **options)
            drawing = -1 if kind == "other_style" else row["id"]
            entries.append(Entry(path, text, kind, "dropped", drawing))
    return entries


def mixed(entries: list[Entry], additions: list[Entry], seed: int) -> list[Entry]:
    """``additions`` anywhere among ``entries``, a copy after what it repeats."""
    rng, whole = random.Random(seed), list(entries)
    for entry in additions:
        first = 0
        if entry.flaw == "near_duplicate":
            drawings = [each.drawing if each.flaw == "good" else None for each in whole]
            first = drawings.index(entry.drawing) + 1
        whole.insert(rng.randint(first, len(whole)), entry)
    return whole


def write(entries: list[Entry], target: Path) -> None:
    """Write the set into ``target``, and what is wrong with its pictures beside it."""
    (target / "images").mkdir(parents=True, exist_ok=True)
    rows, labels, name_of = [], {}, {}
    for index, entry in enumerate(entries):
        name = f"images/{index:04d}{entry.file.suffix}"
        if entry.file.exists():
            (target / name).write_bytes(entry.file.read_bytes())
        rows.append({"file_name": name, "text": entry.text})
        if entry.flaw == "good":
            name_of[entry.drawing] = name
            continue
        labels[name] = {"flaw": entry.flaw, "outcome": entry.outcome}
        if entry.flaw == "near_duplicate":
            labels[name]["of"] = name_of[entry.drawing]

    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (target / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    listing = json.dumps(labels, ensure_ascii=False, indent=1) + "\n"
    target.with_name(f"{target.name}_labels.json").write_text(listing, encoding="utf-8")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 1e6
    print(f"{len(rows)} rows, {len(labels)} labelled, {size:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("art", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=2026, help="of the dirt; another for a test")
    arguments = parser.parse_args()
    art, others = arguments.art, arguments.others
    pictures, other_pictures = (
        json.loads((folder / "meta.json").read_text()) for folder in (art, others)
    )
    with tempfile.TemporaryDirectory() as work:
        entries = files(pictures, art, Path(work))
        additions = dirty(pictures, other_pictures, art, others, Path(work), arguments.seed)
        write(mixed(entries, additions, arguments.seed), arguments.target)


if __name__ == "__main__":
    main()
