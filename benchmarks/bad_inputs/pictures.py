"""Picture files: damaged, odd, huge, of other formats, and things that are no files."""

import io
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.bad_inputs import Wrong
from benchmarks.bad_inputs.picture_files import (
    SIDE,
    SUFFIXES,
    bomb,
    drawing,
    encoded,
    foreign,
    kept,
    must_be_refused,
    no_file,
    odd_name,
    same_as,
)
from storyboard import Settings, collect
from storyboard.data.captions import Captions
from storyboard.errors import SettingsError
from storyboard.rendering import references

LOSSLESS = ("PNG", "BMP", "TIFF", "PPM", "QOI")
LOSSY = ("JPEG", "WEBP", "AVIF", "JPEG2000", "GIF", "TGA")


def make(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """One picture file; the call collects it beside a good one, or takes it as a reference."""
    kind = rng.choice(
        [damaged, damaged_png, cut, metadata, shades, foreign, bomb, no_file, odd_name, odd_mode]
    )
    data = folder / "pictures"
    data.mkdir()
    drawing(rng).save(data / "good.png")
    title, path, check = kind(rng, data)
    if rng.random() < 0.3:
        return f"{title}, as a reference", lambda: as_reference(path, check)
    return f"{title}, collected", lambda: collected(data, path, folder / "out", check)


# what the calls check ----------------------------------------------------------------------------


def collected(data: Path, path: Path, output: Path, check: Callable | None) -> Captions:
    """Collect the folder: both files are in the account, and the good one is kept."""
    captions = collect(Settings(base="mini", dataset=str(data), output=str(output)))
    names = [row.source for row in captions.rows] + [each.source for each in captions.unreadable]
    if len(names) != 2 or "good.png" not in [row.source for row in captions.rows]:
        raise Wrong(f"the account has {names}")
    if any(len(each.reason.splitlines()) != 1 for each in captions.unreadable):
        raise Wrong("a reason of several lines, or none")
    if check:
        kept = next((row for row in captions.rows if row.source != "good.png"), None)
        check(None if kept is None else np.asarray(Image.open(captions.path(kept)), int))
    return captions


def as_reference(path: Path, check: Callable | None) -> None:
    try:
        references.check_picture(path, "The reference of panel 1")
    except SettingsError:
        if check:
            check(None)
        raise
    pixels = np.asarray(references.square(path, SIDE), int)
    if check:
        check(pixels)


# kinds -------------------------------------------------------------------------------------------


def damaged(rng: random.Random, data: Path) -> tuple[str, Path, None]:
    form = rng.choice([*LOSSLESS, *LOSSY])
    path = data / f"bad{rng.choice(SUFFIXES)}"
    how, content = mutated(rng, encoded(drawing(rng), form))
    path.write_bytes(content)
    return f"{form} with {how}", path, None


def damaged_png(rng: random.Random, data: Path) -> tuple[str, Path, Callable]:
    image = drawing(rng)
    how, content = mutated(rng, encoded(image, "PNG", optimize=rng.random() < 0.5))
    path = data / "bad.png"
    path.write_bytes(content)
    return f"PNG with {how}, by its pixels", path, same_as(image, or_refused=True)


def mutated(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """What was done to ``content``, and the result."""
    place, length = rng.randrange(len(content)), rng.randrange(1, 1 + len(content) // 2)
    part = content[place : place + length]
    how, inside = rng.choice(
        [
            ("a flipped bit", bytes([part[0] ^ 1 << rng.randrange(8)]) + part[1:]),
            ("another byte", rng.randbytes(1) + part[1:]),
            ("zeros", bytes(len(part))),
            ("bytes twice", part + part),
            ("bytes left out", b""),
            ("random bytes", rng.randbytes(len(part))),
            ("bytes of ones", b"\xff" * min(4, len(part)) + part[4:]),
        ]
    )
    return how, content[:place] + inside + content[place + length :]


def cut(rng: random.Random, data: Path) -> tuple[str, Path, Callable]:
    form = rng.choice(["PNG", "JPEG", "BMP", "QOI", "WEBP"])
    content = encoded(drawing(rng), form)
    end = rng.randrange(len(content) - 20)
    zeros = bytes(rng.choice([0, 0, len(content) - end]))
    path = data / f"bad.{form.lower()[:3]}"
    path = path.with_suffix({"JPEG": ".jpg", "WEBP": ".webp"}.get(form, f".{form.lower()}"))
    path.write_bytes(content[:end] + (zeros if form in ("PNG", "JPEG") else b""))
    return f"{form} cut at {end}", path, must_be_refused


def metadata(rng: random.Random, data: Path) -> tuple[str, Path, Callable]:
    """Damaged EXIF, XMP, texts or profiles: the picture is kept."""
    image, form = drawing(rng), rng.choice(["PNG", "JPEG", "WEBP", "TIFF"])
    noise = rng.randbytes(rng.randrange(1, 300))
    exif = (
        rng.choice([b"", b"Exif\0\0", b"Exif\0\0Exif\0\0II*\0\x08\0\0\0", b"Exif\0\0MM\0*"]) + noise
    )
    options: dict[str, object] = {}
    if form == "TIFF":
        options["icc_profile"] = noise
    else:
        options[rng.choice(["exif", "icc_profile"])] = exif
    if form == "PNG" and rng.random() < 0.5:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text("parameters", "x" * rng.randrange(3_000_000), zip=True)
        options["pnginfo"].add(b"tEXt", noise)
        options["pnginfo"].add(rng.choice([b"iTXt", b"zTXt", b"iCCP", b"eXIf", b"pHYs"]), noise)
    if form == "WEBP":
        options["lossless"] = True
    content = encoded(image, form, **options)
    if form == "JPEG":
        xmp = b"http://ns.adobe.com/xap/1.0/\0" + noise
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + content[2:]
        with Image.open(io.BytesIO(encoded(image, form))) as opened:
            image = opened.convert("RGB")
    path = data / f"bad.{form.lower()}"
    path = path.with_suffix(".jpg") if form == "JPEG" else path
    path.write_bytes(content)
    turned = (image.size[0] == image.size[1] and b"\x12\x01" in noise) or b"\x01\x12" in noise
    return f"{form} with damaged metadata", path, kept if turned else same_as(image)


def shades(rng: random.Random, data: Path) -> tuple[str, Path, Callable | None]:
    """Greys of 16 or 32 bits or in floating point."""
    grey = drawing(rng).convert("L")
    values = np.asarray(grey, np.float64) / 255
    kind = rng.choice(["16", "16 and a transparent one", "32", "0 to 1", "0 to 65535", "odd"])
    path = data / ("bad.png" if kind.startswith("16") else "bad.tif")
    if kind.startswith("16"):
        transparent = {"transparency": 1} if "transparent" in kind else {}
        Image.fromarray((values * 65535).round().astype(np.uint16)).save(path, **transparent)
    elif kind == "32":
        Image.fromarray((values * 65535).round().astype(np.int32)).save(path)
    elif kind == "odd":
        odd = rng.choice([np.nan, np.inf, -np.inf, -1, 1e30])
        values[rng.randrange(SIDE), rng.randrange(SIDE)] = odd
        Image.fromarray(values.astype(np.float32)).save(path)
        return f"a grey of {odd}", path, None
    else:
        top = 1 if kind == "0 to 1" else 65535
        values[0, 0] = 1.0
        grey.putpixel((0, 0), 255)
        Image.fromarray((values * top).astype(np.float32)).save(path)
    is_dark = kind == "32" and values.max() * 65535 <= 255
    return f"greys of {kind}", path, None if is_dark else same_as(grey)


def odd_mode(rng: random.Random, data: Path) -> tuple[str, Path, Callable]:
    """Palettes, alpha, CMYK, one transparent colour: kept, and laid on white."""
    image = drawing(rng)
    mode = rng.choice(["1", "L", "P", "LA", "RGBA", "transparent colour", "CMYK"])
    path = data / "bad.png"
    expected = image
    if mode == "transparent colour":
        key = image.getpixel((0, 0))
        image.save(path, transparency=key)
        pixels = np.array(image)
        pixels[(pixels == key).all(-1)] = 255
        expected = Image.fromarray(pixels)
    elif mode == "CMYK":
        path = data / "bad.tif"
        image.convert("CMYK").save(path)
    elif mode == "RGBA":
        alpha = Image.linear_gradient("L").resize(image.size)
        clear = image.copy()
        clear.putalpha(alpha)
        clear.save(path)
        expected = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    else:
        expected = image.convert(mode)
        expected.save(path)
    return f"a picture of mode {mode}", path, same_as(expected)
