"""Make the sample set: python -m tools.make_sample ART data/sample

ART is ``node tools/render_art.mjs ART 360 2024 512 lorelei``. 300 good pictures of one style, and
further ones each spoilt in a way that real sets are; ``flaws.json`` says which is which, for tests
alone. Every third caption is English.
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("art", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    rng, target = random.Random(2024), arguments.target
    pictures = json.loads((arguments.art / "meta.json").read_text())
    (target / "images").mkdir(parents=True, exist_ok=True)
    rows, flaws, name_of, repeated = [], {}, {}, {}
    for index, (flaw, row) in enumerate(shuffled_jobs(pictures, rng)):
        path = write_picture(flaw, row, target / "images" / f"{index:04d}", arguments.art, rng)
        name = path.relative_to(target).as_posix()
        if flaw == "good":
            name_of[row["id"]] = name
        else:
            flaws[name] = {"flaw": flaw, "outcome": FLAWS[flaw][2]}
            if flaw == "near_duplicate":
                repeated[name] = row["id"]
        text = caption(row, "en" if index % 3 == 2 else "zh")
        rows.append({"file_name": name, "text": "" if flaw == "empty_caption" else text})

    for name, identity in repeated.items():
        flaws[name]["of"] = name_of[identity]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (target / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    listing = json.dumps(flaws, ensure_ascii=False, indent=1) + "\n"
    (target / "flaws.json").write_text(listing, encoding="utf-8")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 1e6
    print(f"{len(rows)} rows, {len(flaws)} flawed, {size:.1f} MB")


if __name__ == "__main__":
    main()
