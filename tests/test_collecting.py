import csv
import errno
import json
import os

import numpy as np
import pytest
from PIL import Image, ImageCms

from storyboard import artifacts, collect
from storyboard.data import pictures
from storyboard.data.captions import Captions
from storyboard.errors import DatasetError, ResourceError, SettingsError
from tests.conftest import picture


def load(captions, place=0):
    with Image.open(captions.path(captions.rows[place])) as image:
        return image.copy()


def test_txt_files_beside_pictures(folder, make_settings):
    captions = collect(make_settings(dataset=str(folder)))
    assert [row.text for row in captions.rows] == [f"画 {seed}" for seed in range(10)]
    assert all(
        captions.path(row).is_file() and not os.path.isabs(row.image) for row in captions.rows
    )


@pytest.mark.parametrize("listing", ["metadata.jsonl", "metadata.csv"])
def test_metadata_files(folder, make_settings, listing):
    rows = [{"file_name": f"{seed}.png", "text": f"图 {seed}，好"} for seed in (3, 1)]
    with open(folder / listing, "w", encoding="utf-8", newline="") as lines:
        if listing.endswith("jsonl"):
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            table = csv.DictWriter(lines, ["file_name", "text"])
            table.writeheader(), table.writerows(rows)
    captions = collect(make_settings(dataset=str(folder)))
    assert [row.text for row in captions.rows] == ["图 3，好", "图 1，好"]


def test_what_collect_writes_can_be_collected_again(folder, make_settings, tmp_path):
    first = collect(make_settings(dataset=str(folder)))
    again = collect(make_settings(dataset=str(first.folder), output=str(tmp_path / "again")))
    assert [row.text for row in again.rows] == [
        row.text for row in first.rows
    ] and again.digest == first.digest


def test_exif_rotation_is_applied(folder, make_settings):
    upright = picture(50).crop((0, 0, 200, 256))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "0.png").unlink()
    upright.transpose(Image.ROTATE_90).save(folder / "0.jpg", exif=exif, quality=95)
    seen = load(collect(make_settings(dataset=str(folder))))
    assert seen.size == (200, 256) and seen.getexif().get(0x0112, 1) == 1
    assert np.abs(np.asarray(seen, int) - np.asarray(upright, int)).mean() < 6


def test_transparency_is_laid_on_white(folder, make_settings):
    clear = picture(51).convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    clear.save(folder / "0.png")
    assert np.asarray(load(collect(make_settings(dataset=str(folder))))).min() == 255


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb(folder, make_settings, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    (folder / "0.png").unlink()
    picture(52).convert(mode).save(folder / f"0{suffix}")
    assert load(collect(make_settings(dataset=str(folder)))).mode == "RGB"


def test_a_colour_profile_becomes_srgb(folder, make_settings):
    """A profile whose red and green primaries are exchanged: what is stored as red shows as green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = (
        profile.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")
    )
    Image.new("RGB", (64, 64), (250, 10, 10)).save(folder / "0.png", icc_profile=exchanged)
    seen = load(collect(make_settings(dataset=str(folder))))
    red, green, blue = np.asarray(seen)[32, 32].tolist()
    assert "icc_profile" not in seen.info and green > 240 and red < 60 and blue < 60


def test_sixteen_bit_grey_keeps_its_shades(folder, make_settings):
    Image.fromarray(np.full((64, 64), 10000, np.uint16)).save(folder / "0.png")
    assert np.asarray(load(collect(make_settings(dataset=str(folder)))))[0, 0].tolist() == [
        38,
        38,
        38,
    ]


def test_what_was_made_is_not_collected_again(folder, make_settings):
    settings = make_settings(dataset=str(folder), output=str(folder / "outputs"))
    (folder / ".hidden").mkdir()
    picture(70).save(folder / ".hidden" / "x.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    assert [len(collect(settings)) for _ in range(2)] == [10, 10]


def test_kohyas_caption_files_and_unusual_line_ends(folder, make_settings):
    (folder / "0.txt").rename(folder / "0.caption")
    assert collect(make_settings(dataset=str(folder))).rows[0].text == "画 0"
    (folder / "metadata.jsonl").write_text(
        json.dumps({"file_name": "1.png", "text": "a\u2028b"}, ensure_ascii=False), encoding="utf-8"
    )
    assert collect(make_settings(dataset=str(folder))).rows[0].text == "a\u2028b"


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


def test_paths_stay_inside_the_folder(folder, make_settings, tmp_path):
    picture(60).save(tmp_path / "secret.png")
    rows = [
        {"file_name": "../secret.png", "text": "out"},
        {"file_name": str(tmp_path / "secret.png"), "text": "out"},
        {"file_name": "1.png", "text": "in"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    captions = collect(make_settings(dataset=str(folder)))
    assert (
        len(captions) == 1
        and [item.reason for item in captions.unreadable] == ["lies outside the folder"] * 2
    )


def test_captions_saved_by_a_chinese_windows_editor(folder, make_settings):
    (folder / "0.txt").write_bytes("二次元，女孩".encode("gb18030"))
    (folder / "1.txt").write_bytes("二次元".encode("utf-8-sig"))
    assert [row.text for row in collect(make_settings(dataset=str(folder))).rows[:2]] == [
        "二次元，女孩",
        "二次元",
    ]
    (folder / "2.txt").write_bytes(b"\xff\xff\xff")
    with pytest.raises(DatasetError, match="2.txt is neither UTF-8 nor GB 18030"):
        collect(make_settings(dataset=str(folder)))


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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{half", "Line 1 of .* is not JSON"),
        ("[1]", "is not an object"),
        ('{"text": "a"}', "names no picture"),
    ],
)
def test_a_wrong_metadata_line_is_named(folder, make_settings, line, said):
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(DatasetError, match=said):
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
    with (
        monkeypatch.context() as patch,
        pytest.raises(
            ResourceError, match="became full while 10 pictures were brought in"
        ) as error,
    ):
        patch.setattr(pictures, "normalise", full)
        collect(settings)
    assert "\n" not in str(error.value) and not list(settings.folder.iterdir())
    assert len(collect(settings)) == 10


def test_pillows_pixel_limit_holds(folder, make_settings, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DatasetError, match="could be read"):
        collect(make_settings(dataset=str(folder)))


def test_bytes_are_copied_where_nothing_changes(folder, tmp_path):
    written = pictures.normalise(folder / "0.png", tmp_path / "same")
    assert written.read_bytes() == (folder / "0.png").read_bytes()


def concepts(folder):
    """The pictures of ``folder`` in kohya's folders: two of each without a caption, one of them with an empty file."""
    for name, seeds in {"10_purple hair": (0, 1, 2), "3_雨天": (3, 4), "plain": (5, 6)}.items():
        (folder / name).mkdir()
        for seed in seeds:
            (folder / f"{seed}.png").rename(folder / name / f"{seed}.png")
            (folder / f"{seed}.txt").rename(folder / name / f"{seed}.txt")
    for name in ("10_purple hair/1", "3_雨天/4", "plain/6"):
        (folder / f"{name}.txt").unlink()
    (folder / "10_purple hair" / "2.txt").write_text("  ")


def captioned(settings):
    return {row.source: row.text for row in collect(settings).rows}


def test_kohyas_folders_name_the_concept_of_pictures_without_a_caption(
    folder, make_settings, capsys
):
    concepts(folder)
    settings = make_settings(dataset=str(folder))
    said, told = captioned(settings), capsys.readouterr().out
    assert [said[f"10_purple hair/{seed}.png"] for seed in range(3)] == [
        "画 0",
        "purple hair",
        "purple hair",
    ]
    assert said["3_雨天/4.png"] == "雨天" and said["plain/6.png"] == "" and said["7.png"] == "画 7"
    assert (
        "folders (3, 10) are not used as repeats" in told
        and "1 of 10 pictures have no caption that says anything" in told
        and "caption_template" in told
    )


def test_a_template_captions_what_has_no_caption(folder, make_settings, capsys):
    concepts(folder)
    settings = make_settings(dataset=str(folder))
    captioned(settings)
    capsys.readouterr()
    said = captioned(settings.but(caption_template="二次元，{folder}，{file}"))
    assert (
        "have no caption" not in capsys.readouterr().out
    )  # and what was collected without it is made anew
    assert [said[name] for name in ("10_purple hair/1.png", "plain/6.png", "7.png")] == [
        "二次元，purple hair，1",
        "二次元，plain，6",
        "画 7",
    ]


def test_one_of_kohyas_folders_can_be_the_data_set(folder, make_settings):
    concepts(folder)
    assert (
        captioned(make_settings(dataset=str(folder / "10_purple hair")))["1.png"] == "purple hair"
    )


@pytest.mark.parametrize("template", ["{name}", "{folder", "a}", 3])
def test_a_template_with_unknown_fields_is_an_error(make_settings, template):
    with pytest.raises(SettingsError, match="caption_template="):
        make_settings(caption_template=template)
