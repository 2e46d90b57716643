"""Make the sample set: python -m tools.make_sample ART data/sample

ART is ``node tools/render_art.mjs ART 360 2024 512 lorelei``. 300 good pictures of one style, and further ones each
spoilt in a way that real sets are; ``flaws.json`` says which is which, for tests alone. Every third caption is English.
"""

import argparse
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

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
    "empty_caption": (
        4,
        ".jpg",
        "dropped",
        lambda image, path, rng: save(image.resize((320, 320), Image.LANCZOS), path),
    ),
    "missing_file": (4, ".png", "dropped", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("art", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    rng = random.Random(2024)
    pictures = json.loads((arguments.art / "meta.json").read_text())
    open_art = lambda row: Image.open(arguments.art / f"{row['id']}.png").convert("RGB")
    (arguments.target / "images").mkdir(parents=True, exist_ok=True)
    jobs = [("good", row) for row in pictures[:GOOD]]
    spare = iter(pictures[GOOD:])
    for flaw, (count, *_) in FLAWS.items():
        jobs += [
            (flaw, pictures[rng.randrange(GOOD)] if flaw == "near_duplicate" else next(spare))
            for _ in range(count)
        ]
    order = list(range(len(jobs)))
    rng.shuffle(order)
    original = {
        jobs[index][1]["id"]: place for place, index in enumerate(order) if jobs[index][0] == "good"
    }
    for place, index in enumerate(order):  # a repetition comes after what it repeats
        if jobs[index][0] == "near_duplicate" and (first := original[jobs[index][1]["id"]]) > place:
            order[place], order[first] = order[first], order[place]

    rows, flaws, name_of = [], {}, {}
    for place, index in enumerate(order):
        flaw, attributes = jobs[index]
        suffix = rng.choice((".jpg", ".jpg", ".png")) if flaw == "good" else FLAWS[flaw][1]
        name = f"images/{place:04d}{suffix}"
        path = arguments.target / name
        if flaw == "good":
            side = rng.choice(SIDES)
            save(open_art(attributes).resize((side, side), Image.LANCZOS), path)
            name_of[attributes["id"]] = name
        elif FLAWS[flaw][3]:
            FLAWS[flaw][3](open_art(attributes), path, rng)
        if flaw != "good":
            flaws[name] = {"flaw": flaw, "outcome": FLAWS[flaw][2], "art": attributes["id"]}
        rows.append(
            {
                "file_name": name,
                "text": ""
                if flaw == "empty_caption"
                else caption(attributes, "en" if place % 3 == 2 else "zh"),
            }
        )
    for entry in flaws.values():
        art = entry.pop("art")
        if entry["flaw"] == "near_duplicate":
            entry["of"] = name_of[art]
    (arguments.target / "metadata.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    (arguments.target / "flaws.json").write_text(
        json.dumps(flaws, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    print(
        f"{len(rows)} rows, {len(flaws)} flawed, {sum(p.stat().st_size for p in arguments.target.rglob('*') if p.is_file()) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
