"""Folders with odd names, captions and listings."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from benchmarks.bad_inputs import Wrong
from storyboard import Settings, collect

TEXTS = (
    "a girl, smiling",
    "紫色短发女孩，微笑",
    "二次元，红发少年，难过",
    "紫の髪の女の子、微笑み",
    "보라색 머리 소녀",
    "a cat called “Mimi”, the girl’s",
    "Mädchen mit großen Augen, müde",
    "a boy \U0001f600",
    "<__dj__image> a girl <|__dj__eoc|>",
    "=HYPERLINK(1)",
    'a "big" girl, red; hat',
    "a\tb\nc",
    "",
    "0" * 50_000 + "a",
    "girl, " * 300_000,
)
# fmt: off
ENCODINGS = (
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "gbk", "big5",
    "shift_jis", "euc_kr", "cp1252", "latin-1", "utf-7", "koi8-r", "cp437",
)
LISTINGS = (
    "metadata.jsonl", "metadata.csv", "METADATA.JSONL", "metadata.json", "metadata.tsv",
    "captions.csv", "train/metadata.jsonl", "train/metadata.csv", "meta_cap.json", "list.ndjson",
    "metadata.CSV",
)
# fmt: on
SECRET = "the secret words of another folder"
NAMES = (
    b"a",
    "紫发女孩".encode("gbk"),
    "紫发女孩".encode(),
    b"n" * 250,
    "é".encode() * 60,
    "e\u0301".encode(),
    b"two\nlines",
    b"\x1b[31mred",
    b"-rf",
    b"a.b.c",
    b"a.png",
    b"'quoted\"",
    b"..a",
    b"10_a b",
    b"<script>",
)
CAPTION_SUFFIXES = (".txt", ".TXT", ".caption", ".Caption", ".png.txt", ".json", ".tags", ".cap")
KEYS = ("file_name", "File Name", " image ", "images", "path", "text", "Caption", "prompt", "tags")


def make(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """One bad input below ``folder``: what it is in a few words, and the call for it."""
    data = folder / "set"
    data.mkdir()
    kinds = (_caption, _caption, _names, _jsonl, _jsonl, _table, _table, _strange, _kohya, _setting)
    title, settings = rng.choice(kinds)(rng, data)
    settings = {"dataset": str(data), "output": str(folder / "out")} | settings
    return title, lambda: _check(settings)


def _check(settings: dict) -> None:
    """Collect; raise Wrong where something was swallowed, or is trained that nobody wrote."""
    captions = collect(Settings(base="mini", **settings))
    for row in captions.rows:
        odd = [sign for sign in ("__dj__", "\0", "\ufffd", SECRET, "['") if sign in row.text]
        if odd or any("\ud800" <= sign <= "\udfff" for sign in row.text) or len(row.text) > 20_000:
            raise Wrong(f"{row.source} has the caption {row.text[:80]!r}")

    data = Path(settings["dataset"])
    if data.is_dir():
        paths = [path for path in data.rglob("*.png") if not path.name.startswith(".")]
        pictures = sum(path.is_symlink() or not path.is_dir() for path in paths)
        if pictures > len(captions) + len(captions.unreadable):
            raise Wrong(
                f"of {pictures} pictures {len(captions)} are there and "
                f"{len(captions.unreadable)} listed as left out"
            )


def _picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (seed * 40 % 256, 90, 200)).save(path)


def _mutated(rng: random.Random, content: bytes) -> bytes:
    """``content`` with bytes flipped, cut, zeroed or repeated, or as it is."""
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        place = rng.randrange(len(content) + 1)
        end = place + rng.randrange(1, 9)
        content = rng.choice(
            (
                content[:place] + rng.randbytes(rng.randrange(1, 5)) + content[end:],
                content[:place],
                content[:place] + bytes(end - place) + content[end:],
                content[:end] + content[place:],
                content[:place]
                + rng.choice((b'"', b",", b"\n", b"\r", b"\\", b"{"))
                + content[place:],
            )
        )
    return content


def _encoded(rng: random.Random, text: str) -> bytes:
    return _mutated(rng, text.encode(rng.choice(ENCODINGS), "ignore"))


def _caption(rng: random.Random, data: Path) -> tuple[str, dict]:
    """Caption files in any encoding, under the names of other tools, damaged."""
    for index in range(rng.randrange(1, 4)):
        _picture(data / f"{index}.png", index)
        for suffix in rng.sample(CAPTION_SUFFIXES, rng.randrange(1, 3)):
            text = rng.choice(TEXTS)
            if suffix == ".json":
                text = json.dumps(rng.choice((text, {"caption": text}, {"text": [text, 3]}, [])))
            (data / f"{index}{suffix}").write_bytes(_encoded(rng, text))
    template = rng.choice((None, None, "二次元，{folder}，{file}", "x" * 20_000))
    return "caption files", {"caption_template": template}


def _names(rng: random.Random, data: Path) -> tuple[str, dict]:
    """Names that are not UTF-8, very long, or hold odd signs."""
    for index, name in enumerate(rng.sample(NAMES, 3)):
        folder = data if rng.random() < 0.5 else Path(os.fsdecode(bytes(data) + b"/" + NAMES[1]))
        folder.mkdir(exist_ok=True)
        _picture(data / "temporary.png", index)
        (data / "temporary.png").rename(os.fsdecode(bytes(folder) + b"/" + name[:251] + b".png"))
        if rng.random() < 0.7:
            caption = Path(os.fsdecode(bytes(folder) + b"/" + name[:251] + b".txt"))
            caption.write_bytes(_encoded(rng, rng.choice(TEXTS)))
    return "file names", {"caption_template": rng.choice((None, "{file} in {folder}"))}


def _value(rng: random.Random, depth: int = 0) -> object:
    """Any JSON value."""
    plain = (None, True, 3, -1.5, float("nan"), float("inf"), 10**400, "", "\ud83d", "a\0b", "../x")
    if depth > 2 or rng.random() < 0.5:
        return rng.choice((*plain, *TEXTS))
    if rng.random() < 0.5:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): _value(rng, depth + 1) for _ in range(rng.randrange(4))}


def _path(rng: random.Random, data: Path, index: int) -> str:
    """How a listing may name the picture ``index``, or no picture."""
    name = f"{index}.png"
    return rng.choice(
        (
            name,
            f"./{name}",
            f"train/{name}",
            f"train\\{name}",
            f"C:\\data\\train\\{name}",
            f"/mnt/workspace/data/train/{name}",
            str(data / "train" / name),
            f"{index}.PNG",
            f"{index}",
            f"../{name}",
            "../../../../etc/passwd",
            "/etc/passwd",
            "a\0b.png",
            "\udcff.png",
            "x" * 5000,
            "a/" * 2000 + name,
        )
    )


def _row(rng: random.Random, data: Path, index: int) -> object:
    row = {
        rng.choice(KEYS[:5]): _path(rng, data, index),
        rng.choice(KEYS[5:]): rng.choice(TEXTS),
    }
    for _ in range(rng.choice((0, 0, 1, 2))):
        row[rng.choice(KEYS)] = _value(rng)
    return _value(rng) if rng.random() < 0.1 else row


def _pictures(rng: random.Random, data: Path) -> list[Path]:
    """A few pictures in the folder or its split."""
    paths = [data / rng.choice(("", "train")) / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        _picture(path, index)
    return paths


def _jsonl(rng: random.Random, data: Path) -> tuple[str, dict]:
    """A listing in JSON, its rows odd or damaged."""
    paths = _pictures(rng, data)
    rows = [_row(rng, data, rng.randrange(4)) for _ in range(rng.randrange(1, 6))]
    name = rng.choice([name for name in LISTINGS if "csv" not in name.lower()])
    if name.endswith(".json"):
        content = json.dumps(rng.choice((rows, {"rows": rows}, {path.stem: "a" for path in paths})))
    else:
        lines = [json.dumps(row, ensure_ascii=rng.random() < 0.9) for row in rows]
        deep = rng.choice(("[", '{"a":')) * rng.choice((0, 0, 900, 100_000))
        content = rng.choice(("\n", "\r\n", "\r", ",\n")).join([*lines, deep])
    return f"listing {name}", _write(rng, data / name, content)


def _write(rng: random.Random, path: Path, content: str) -> dict:
    path.parent.mkdir(exist_ok=True)
    content = content.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if rng.random() < 0.6:
        path.write_bytes(_mutated(rng, content.encode()))
    else:
        path.write_bytes(_encoded(rng, content))
    return {}


def _table(rng: random.Random, data: Path) -> tuple[str, dict]:
    """A listing in CSV, its cells quoted, half quoted or not."""
    _pictures(rng, data)
    delimiter = rng.choice((",", ",", ";", "\t", "|", ", "))
    header = rng.choice((("file_name", "text"), ("prompt", "Image"), ("image", "label", "caption")))
    lines = [delimiter.join(header)] if rng.random() < 0.9 else []
    for _ in range(rng.randrange(1, 6)):
        cells = [_path(rng, data, rng.randrange(4)), rng.choice(TEXTS)]
        cells = cells[:: rng.choice((1, 1, -1))] + rng.choice(([], [], ["x"], ["y" * 200_000]))
        quote = rng.choice((str, str, '"{}"'.format, '"{}'.format, '{}"'.format))
        lines.append(delimiter.join(quote(cell) for cell in cells))
    name = rng.choice([name for name in LISTINGS if "sv" in name.lower()])
    return f"listing {name}", _write(rng, data / name, rng.choice(("\n", "\r\n")).join(lines))


def _strange(rng: random.Random, data: Path) -> tuple[str, dict]:
    """Links, pipes and folders where files belong, also such that lead out of the folder."""
    outside = data.parent / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    _picture(outside / "secret.png")
    row = json.dumps({"file_name": "1.png", "text": SECRET})
    (outside / "secret.jsonl").write_text(row)
    _picture(data / "0.png")
    _picture(data / "1.png", 1)
    name = rng.choice(("0.txt", "0.caption", "2.png", "metadata.jsonl", "metadata.csv", "sub"))
    path = data / name
    suffix = path.suffix if (outside / f"secret{path.suffix}").is_file() else ".txt"
    kinds = (
        lambda: path.symlink_to(outside / f"secret{suffix}"),
        lambda: path.symlink_to(f"../outside/secret{suffix}"),
        lambda: path.symlink_to(outside),
        lambda: path.symlink_to("/etc/passwd"),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("nothing"),
        lambda: path.symlink_to(name),
        lambda: path.symlink_to("."),
        lambda: os.mkfifo(path),
        path.mkdir,
    )
    rng.choice(kinds)()
    return f"{name} that is no plain file", {}


def _kohya(rng: random.Random, data: Path) -> tuple[str, dict]:
    """A project of kohya's, its folders in any case."""
    for top in rng.sample(("img", "IMG", "reg", "model/sample", "log", "10_x", "sample"), 4):
        folder = data / top / rng.choice(("10_girl name", "0_a", "99999999999_b", "10_", "plain"))
        _picture(folder / "0.png")
        if rng.random() < 0.5:
            (folder / "0.txt").write_bytes(_encoded(rng, rng.choice(TEXTS)))
    return "kohya's project", {}


def _setting(rng: random.Random, data: Path) -> tuple[str, dict]:
    """A data set that is no folder of pictures."""
    _picture(data / "0.png")
    (data / "list.txt").write_text("a")
    empty = data / "empty"
    empty.mkdir()
    dataset = rng.choice(
        (
            str(data / "0.png"),
            str(data / "list.txt"),
            str(empty),
            str(data / "nothing"),
            "~nobody/pictures",
            "a\0b",
            "x" * 5000,
            f"{data}/" * 40,
            " ",
            ".../...",
            "\udcff",
        )
    )
    return "a data set that is none", {"dataset": dataset}
