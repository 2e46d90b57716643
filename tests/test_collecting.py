import errno
import os

import pytest
from PIL import Image

from storyboard import artifacts, collect
from storyboard.data import pictures
from storyboard.data.captions import Captions
from storyboard.errors import DatasetError, ResourceError


def test_what_collect_writes_can_be_collected_again(folder, make_settings, tmp_path):
    first = collect(make_settings(dataset=str(folder)))
    again = collect(make_settings(dataset=str(first.folder), output=str(tmp_path / "again")))
    assert [row.text for row in again.rows] == [
        row.text for row in first.rows
    ] and again.digest == first.digest


def test_a_foreign_caption_folder_has_a_digest_of_its_content(folder, make_settings):
    captions = collect(make_settings(dataset=str(folder)))
    (captions.folder / artifacts.MANIFEST).unlink()
    assert Captions.load(captions.folder).digest == captions.digest


@pytest.mark.parametrize("content", [b"", b"<html>not a picture</html>", None])
def test_a_broken_file_costs_only_itself(folder, make_settings, content):
    whole = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    captions = collect(make_settings(dataset=str(folder)))
    assert (
        len(captions) == 9
        and [item.source for item in captions.unreadable] == ["4.png"]
        and captions.unreadable[0].reason
    )


def test_nothing_is_done_twice_and_a_changed_caption_is_seen(folder, make_settings, capsys):
    settings = make_settings(dataset=str(folder))
    first = collect(settings)
    written = (first.folder / "metadata.jsonl").stat().st_mtime_ns
    assert collect(settings).digest == first.digest and "nothing to do" in capsys.readouterr().out
    assert (first.folder / "metadata.jsonl").stat().st_mtime_ns == written
    (folder / "3.txt").write_text("别的")
    assert collect(settings).rows[3].text == "别的"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere", "There is no folder"),
        (lambda folder: (folder / "empty").mkdir() or folder / "empty", "No picture in"),
    ],
)
def test_no_pictures_is_one_sentence(folder, make_settings, make, said):
    with pytest.raises(DatasetError, match=said) as error:
        collect(make_settings(dataset=str(make(folder))))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: "{half" + line[5:],
        lambda line: line.replace('"id"', '"ib"'),
        lambda line: line.replace("images/0000.png", "/mages/0000.png"),
    ],
)
def test_a_damaged_collection_is_made_anew(folder, make_settings, capsys, damage):
    settings = make_settings(dataset=str(folder))
    first = collect(settings)
    listing = first.folder / "metadata.jsonl"
    line, rest = listing.read_text(encoding="utf-8").split("\n", 1)
    listing.write_text(f"{damage(line)}\n{rest}", encoding="utf-8")
    with pytest.raises(DatasetError, match="metadata.jsonl is damaged near line 1") as error:
        Captions.load(first.folder)
    assert "\n" not in str(error.value)
    assert collect(settings) == first and Captions.load(first.folder) == first


@pytest.mark.parametrize("image", ["../secret.png", "/etc/passwd", "a/../../b.png", "a\\u0000b"])
def test_another_programs_folder_names_no_file_outside(tmp_path, image):
    row = f'{{"id": "0", "text": "a", "images": ["{image}"]}}'
    (tmp_path / "metadata.jsonl").write_text(row)
    with pytest.raises(DatasetError, match="is not in the folder"):
        Captions.load(tmp_path)


def test_what_was_left_out_and_noted_is_printed_and_kept(folder, make_settings, capsys):
    (folder / "0.txt").write_bytes("紫发女孩".encode("gbk"))
    (folder / "1.txt").write_bytes(b"\xff\xff\xff")
    settings = make_settings(dataset=str(folder))
    first = collect(settings)
    printed = capsys.readouterr().out
    assert "noted: 0.png: its text was read as GB18030, a guess: '紫发女孩'" in printed
    assert "left out: 1.png: its caption 1.txt is in no encoding" in printed
    again = collect(settings)
    assert again == first and len(again.notes) == len(again.unreadable) == 1
    assert "1 left out" in str(again) and "紫发女孩" in again._repr_html_()


def test_only_broken_pictures_is_an_error(folder, make_settings):
    for path in folder.glob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(DatasetError, match="None of the 10 pictures could be read"):
        collect(make_settings(dataset=str(folder)))


def test_a_full_disk_is_found_before_anything_is_written(folder, make_settings, monkeypatch):
    monkeypatch.setattr(
        artifacts.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})()
    )
    settings = make_settings(dataset=str(folder))
    with pytest.raises(ResourceError, match="lacks .* MB for 10 pictures"):
        collect(settings)
    assert not (settings.folder / "collected").exists()


def test_a_disk_that_becomes_full_leaves_nothing_and_the_next_run_does_all(
    folder, make_settings, monkeypatch
):
    def full(source, *arguments, real=pictures.normalise):
        if source.name == "5.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, *arguments)

    settings = make_settings(dataset=str(folder))
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "normalise", full)
        with pytest.raises(ResourceError, match="became full") as error:
            collect(settings)
    assert "\n" not in str(error.value) and not settings.folder.exists()
    assert len(collect(settings)) == 10


def test_pillows_pixel_limit_holds(folder, make_settings, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DatasetError, match="could be read"):
        collect(make_settings(dataset=str(folder)))
