"""Zips that are damaged, bombs, or hold what no bundle holds: refused before anything is drawn."""

import copy
import io
import json
import os
import random
import zipfile

import pytest
from PIL import Image, ImageFile

from storyboard import publish, reproduce
from storyboard.errors import BundleError
from storyboard.exporting import opened
from storyboard.exporting.bundle import zipped
from storyboard.records import BaseRecord, DrawnRecord, LoraRecord, PanelRecord

SIDE = 64  # pixels
BASE = BaseRecord(name="mini", family="kolors", pipeline="KolorsPipeline", fingerprint="f" * 64)


def record(number):
    return PanelRecord(
        prompt=f"猫 {number}",
        negative_prompt="",
        seed=number,
        width=SIDE,
        height=SIDE,
        steps=2,
        guidance_scale=5,
        precision="fp32",
        base=BASE,
        lora=LoraRecord(digest="a" * 64),
        drawn=DrawnRecord(
            batch=2, row=number - 1, text_length=77, vae_tiling=False, file=f"panel-{number}.png"
        ),
    ).to_json()


def picture(number):
    content = io.BytesIO()
    noise = random.Random(number).randbytes(3 * SIDE * SIDE)
    Image.frombytes("RGB", (SIDE, SIDE), noise).save(content, "PNG")
    return content.getvalue()


FILES = {
    "README.md": "# 猫".encode(),
    "lora.safetensors": random.Random(3).randbytes(5000),
    "panel-1.png": picture(1),
    "panel-2.png": picture(2),
    "story.json": json.dumps({"format": 2, "panels": [record(1), record(2)]}).encode(),
}


def rewritten(path, name="README.md", content=FILES["README.md"]):
    """The bundle with another file."""
    path.write_bytes(zipped(FILES | {name: content}))
    return path


def test_a_bundle_that_was_packed_again_is_read(tmp_path):
    path = tmp_path / "again.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    assert opened.read(path).pictures == {
        name: FILES[name] for name in ("panel-1.png", "panel-2.png")
    }
    assert publish(path, "me/story").files.keys() == FILES.keys() | {"story.zip"}


def packed(path, name="extra.bin", content=b"x", method=zipfile.ZIP_STORED, mode=0o100644):
    """One more file in the zip at ``path``."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = method
    entry.create_system, entry.external_attr = 3, mode << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, content)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"mode": 0o120777, "content": b"/etc/passwd"}, "points outside"),
        ({"method": zipfile.ZIP_BZIP2}, "packed in a way"),
        ({"method": zipfile.ZIP_LZMA}, "packed in a way"),
        ({"name": "panel-1.png"}, "one of them twice"),
    ],
)
def test_reproduce_refuses_what_no_bundle_holds(tmp_path, more, reason):
    path = packed(rewritten(tmp_path / "odd.zip"), **more)
    for call in (reproduce, lambda path: publish(path, "me/story")):
        with pytest.raises(BundleError, match=rf"odd.zip holds .*{reason}"):
            call(path)


@pytest.mark.parametrize("name", ["story.json", "lora.safetensors"])
def test_reproduce_refuses_a_bomb(tmp_path, name):
    files = {each: content for each, content in FILES.items() if each != name}
    (tmp_path / "bomb.zip").write_bytes(zipped(files))
    path = packed(tmp_path / "bomb.zip", name, b"0" * 7_000_000, zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match=rf"bomb.zip holds a '{name}' that unpacks to more than"):
        reproduce(path)


def test_reproduce_refuses_files_that_share_their_bytes(tmp_path):
    path = tmp_path / "overlap.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("story.json", random.Random(0).randbytes(5000))
        first = archive.infolist()[0]
        for number in range(20):
            again = copy.copy(first)
            again.filename = again.orig_filename = f"{number}.bin"
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    with pytest.raises(BundleError, match="lie one in another"):
        reproduce(path)


@pytest.mark.parametrize("change", [lambda png: png[:-40], lambda png: b"GIF89a" + png[6:]])
def test_reproduce_sees_a_damaged_picture_before_it_draws(tmp_path, monkeypatch, change):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as importing Data-Juicer does
    path = rewritten(tmp_path / "a.zip", "panel-2.png", change(FILES["panel-2.png"]))
    with pytest.raises(BundleError, match=r"panel-2.png of .*a.zip is no whole PNG"):
        reproduce(path)


def test_reproduce_sees_a_picture_of_another_size(tmp_path):
    other = io.BytesIO()
    Image.new("RGB", (8, 8)).save(other, "PNG")
    path = rewritten(tmp_path / "a.zip", "panel-2.png", other.getvalue())
    with pytest.raises(BundleError, match=r"panel-2.png of .*a.zip has 8 x 8 pixels"):
        reproduce(path)


@pytest.mark.parametrize(
    "story", [b'{"a":' * 300_000, b'{"format": ' + b"9" * 5000 + b"}", b"\xff\xfe\xff", b""]
)
def test_reproduce_refuses_a_story_json_that_is_no_json(tmp_path, story):
    with pytest.raises(BundleError, match=r"bad.zip is no whole story bundle .*: get it again"):
        reproduce(rewritten(tmp_path / "bad.zip", "story.json", story))


@pytest.mark.parametrize("where", range(5))
def test_reproduce_refuses_a_damaged_zip(tmp_path, where):
    rng = random.Random(where)
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    changed = bytearray(path.read_bytes())
    for _ in range(60):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    path.write_bytes(changed)
    with pytest.raises(BundleError, match="bad.zip"):
        reproduce(path)


def test_reproduce_opens_no_pipe_and_no_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    for path in (tmp_path / "pipe.zip", tmp_path, tmp_path / "none.zip"):
        with pytest.raises(BundleError, match=f"{path.name} is no file"):
            reproduce(path)
