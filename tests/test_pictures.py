"""Pictures that are collected, and those that panels follow."""

import os

import numpy as np
import pytest
from PIL import Image

from storyboard import collect, render, show
from storyboard.data import pictures
from storyboard.errors import SettingsError
from storyboard.rendering import references
from tests.conftest import picture
from tests.picture_files import (
    GPS,
    LONG,
    TURNED,
    encoded,
    exchanged,
    exif,
    short,
)

DRAWING = picture(3, 64)
AS_SRGB = "taken as sRGB"


def test_bytes_are_copied_where_nothing_changes(tmp_path):
    picture(0).save(tmp_path / "0.png")
    written = pictures.normalise(tmp_path / "0.png", tmp_path / "same")
    assert written.path.read_bytes() == (tmp_path / "0.png").read_bytes() and not written.notes


def test_collect_lists_what_was_repaired_and_what_was_left_out(make_settings, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    DRAWING.save(data / "good.PNG")
    picture(7, 64).save(data / "profile.jpg", icc_profile=b"none")
    picture(8, 64).save(data / "film.gif", save_all=True, append_images=[DRAWING])
    damaged = bytearray(encoded(DRAWING, "PNG"))
    damaged[60] ^= 1
    (data / "damaged.png").write_bytes(damaged)
    (data / "page.jfif").write_text("<html>")
    (data / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (data / "folder.webp").mkdir()
    os.mkfifo(data / "pipe.png")
    (data / "dangling.png").symlink_to("nothing")
    (data / "notes.md").write_text("no picture")

    captions = collect(make_settings(dataset=str(data)))
    assert [row.source for row in captions.rows] == ["film.gif", "good.PNG", "profile.jpg"]
    assert [(note.source, note.text.split(":")[0]) for note in captions.notes] == [
        ("film.gif", "it holds several pictures"),
        ("profile.jpg", "its colour profile cannot be read, so that it is taken as sRGB"),
    ]
    reasons = {each.source: each.reason for each in captions.unreadable}
    assert reasons == {
        "damaged.png": "its chunk IDAT is damaged (wrong checksum): get it again",
        "dangling.png": "is a link to nothing",
        "folder.webp": "is a folder, whose files are looked at",
        "page.jfif": "it is a web page that was saved as a picture: download it again",
        "phone.HEIC": reasons["phone.HEIC"],
        "pipe.png": "is no regular file",
    }
    assert "pip install pillow-heif" in reasons["phone.HEIC"]
    again = collect(make_settings(dataset=str(data)))
    assert again.notes == captions.notes and again.unreadable == captions.unreadable


def test_a_reference_is_read_as_any_picture_and_its_notes_are_printed(tmp_path, capsys):
    red = Image.new("RGB", (64, 32), (250, 10, 10))
    red.putalpha(128)
    red.save(
        tmp_path / "red.png", icc_profile=exchanged(), exif=exif(TURNED, (GPS, LONG, 1, short(0)))
    )
    references.check_picture(tmp_path / "red.png", "The reference of panel 2")
    assert capsys.readouterr().out == ""
    red, green, _ = np.asarray(references.square(tmp_path / "red.png", 16), int)[8, 8]
    assert green > 240 and 127 <= red < 187
    (tmp_path / "red.png").write_bytes(encoded(DRAWING, "PNG", icc_profile=b"none"))
    references.check_picture(tmp_path / "red.png", "The reference of panel 2")
    assert "The reference of panel 2, " in (told := capsys.readouterr().out) and AS_SRGB in told


@pytest.mark.parametrize("kind", ["pipe", "PostScript", "folder", "nothing"])
def test_a_reference_that_is_no_picture_is_one_sentence(kind, tmp_path):
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "PostScript":
        path.write_bytes(b"%!PS-Adobe\n{} loop\n")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(SettingsError, match="panel 2, .*a.png, cannot be read as a pict") as error:
        references.check_picture(path, "The reference of panel 2")
    assert "\n" not in str(error.value)


def test_the_display_shows_a_panel_as_soon_as_it_is_written(trained, tmp_path, monkeypatch):
    shown = []

    def picture(_, title, paths):
        shown.extend((title, path.name, path.is_file()) for path in paths)

    monkeypatch.setattr(show.Live, "picture", picture)
    settings, story, _, lora = trained
    render(story, settings.but(output=str(tmp_path), render_batch_size=2), lora)
    assert shown == [(f"panel {n}", f"panel-{n}.png", True) for n in (1, 2, 3)]
