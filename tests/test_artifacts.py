import json
from contextlib import suppress

from storyboard import artifacts


def test_fingerprint_depends_on_values_not_on_order():
    assert (
        artifacts.fingerprint(a=1, b="二")
        == artifacts.fingerprint(b="二", a=1)
        != artifacts.fingerprint(a=1, b="三")
    )


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "made"
    with artifacts.building(target) as folder:
        (folder / "one.txt").write_text("1")
        artifacts.write_manifest(folder, "test", "abc")
        assert not target.exists()
    with suppress(RuntimeError), artifacts.building(target) as folder:
        (folder / "two.txt").write_text("2")
        raise RuntimeError("broken off")
    assert (target / "one.txt").is_file() and not (target / "two.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["made"], (
        "nothing temporary is left behind"
    )


def test_finished_needs_the_same_fingerprint_and_every_file(tmp_path):
    with artifacts.building(tmp_path / "made") as folder:
        (folder / "one.txt").write_text("1")
        artifacts.write_manifest(folder, "test", "abc", extra=3)
    made = tmp_path / "made"
    assert artifacts.finished(made, "abc")["extra"] == 3
    assert artifacts.finished(made, "other") is None
    (made / "one.txt").write_text("cut short or changed")
    assert artifacts.finished(made, "abc") is None
    (made / "one.txt").unlink()
    assert artifacts.finished(made, "abc") is None


def test_a_damaged_manifest_means_not_made(tmp_path):
    (tmp_path / artifacts.MANIFEST).write_text("{half")
    assert artifacts.read_manifest(tmp_path) is None


def test_json_is_readable_utf8(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"提示": "词"})
    written = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "提示" in written and json.loads(written) == {"提示": "词"}


def test_missing_space_is_counted(tmp_path):
    assert artifacts.free_space_needed(tmp_path / "not" / "yet", 1) is None
    assert artifacts.free_space_needed(tmp_path, 10**18) > 10**17


def test_a_disk_that_lacks_one_byte_lacks_a_megabyte(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "free_space", lambda folder: 100)
    assert artifacts.free_space_needed(tmp_path, 101) == 10**6
    assert artifacts.free_space_needed(tmp_path, 100) is None


def test_folders_of_one_disk_have_its_number(tmp_path):
    assert artifacts.disk_of(tmp_path / "not" / "yet") == artifacts.disk_of(tmp_path)
