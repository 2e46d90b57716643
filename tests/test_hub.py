"""The hub is a local folder laid out like one; everything else is real, ModelScope's client included."""

import json

import pytest
from conftest import picture

from storyboard import clean, collect, hub
from storyboard.errors import DatasetError


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "someone" / "anime"
    (repository / "train").mkdir(parents=True)
    rows = []
    for seed in range(5):
        picture(seed).save(repository / "train" / f"{seed}.png")
        rows.append({"file_name": f"{seed}.png", "text": f"二次元 {seed}"})
    (repository / "train" / "metadata.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setenv(hub.LOCAL_ROOT, str(tmp_path / "hub"))
    return repository


def test_a_data_set_is_streamed_sized_and_collected(local_hub, make_settings, capsys):
    captions = collect(make_settings(dataset="someone/anime"))
    assert [row["text"] for row in captions.rows] == [f"二次元 {seed}" for seed in range(5)]
    assert "MB" in capsys.readouterr().out


def test_a_broken_stream_goes_on_where_it_stopped(local_hub, tmp_path, monkeypatch):
    real = hub._save

    def breaks_at_the_third(row, folder, place, dataset_id):
        if place == 2:
            raise KeyboardInterrupt
        return real(row, folder, place, dataset_id)

    monkeypatch.setattr(hub, "_save", breaks_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        hub.fetch("someone/anime", tmp_path / "cache")
    folder = tmp_path / "cache" / "someone--anime"
    with open(folder / "metadata.jsonl", "a", encoding="utf-8") as lines:
        lines.write('{"file_name": "0000')  # the break came in the middle of a line
    written = (folder / "000000.png").stat().st_mtime_ns
    monkeypatch.setattr(hub, "_save", real)
    assert hub.fetch("someone/anime", tmp_path / "cache") == folder
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == [f"二次元 {seed}" for seed in range(5)]
    assert (folder / "000000.png").stat().st_mtime_ns == written


def test_the_hub_can_be_asked_after_cleaning_in_the_same_kernel(local_hub, folder, make_settings):
    import datasets
    import huggingface_hub.constants

    settings = make_settings(dataset=str(folder))
    clean(collect(settings), settings)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_a_missing_data_set_is_one_sentence(local_hub, make_settings):
    with pytest.raises(DatasetError, match="holds no someone/else"):
        collect(make_settings(dataset="someone/else"))


@pytest.mark.parametrize("text, is_id", [("AI-ModelScope/lowres_anime", True), ("/tmp/x", False), ("a/b/c", False), ("one", False)])
def test_ids_are_told_from_paths(text, is_id):
    assert hub.looks_like_id(text) is is_id
