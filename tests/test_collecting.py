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
    def full(source, stem, real=pictures.normalise):
        if source.name == "5.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, stem)

    settings = make_settings(dataset=str(folder))
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "normalise", full)
        with pytest.raises(ResourceError, match="became full while 10 pictures were") as error:
            collect(settings)
    assert "\n" not in str(error.value) and not list(settings.folder.iterdir())
    assert len(collect(settings)) == 10


def test_pillows_pixel_limit_holds(folder, make_settings, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DatasetError, match="could be read"):
        collect(make_settings(dataset=str(folder)))
