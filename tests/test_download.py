"""Downloads from two hubs that answer on this machine."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from storyboard import artifacts
from storyboard.errors import BaseError, ResourceError
from storyboard.models import weights
from storyboard.models.download import CACHE
from storyboard.models.hubs import HubModel
from tests import hub_server, huggingface_server


@pytest.fixture
def both(tmp_path, monkeypatch):
    """(ModelScope, Hugging Face): two hubs that serve what ``put`` writes below their roots."""
    modelscope, huggingface = (
        hub_server.Hub(tmp_path / "ms"),
        huggingface_server.HuggingFace(tmp_path / "hf"),
    )
    monkeypatch.delenv("STORYBOARD_HUB", raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", modelscope.url)
    monkeypatch.setenv("HF_ENDPOINT", huggingface.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_DISABLE_XET", True
    )  # the stand-in has no such store
    yield modelscope, huggingface
    for each in (modelscope, huggingface):
        each.close()


def put(root: Path, *names: str, content: bytes = b"x" * 100) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


ADAPTER = (
    "models/ip.safetensors",
    "models/image_encoder/config.json",
    "models/image_encoder/model.safetensors",
)


def brought(tmp_path: Path) -> list[str]:
    """Names of the files in ModelScope's cache."""
    return sorted(
        path.name
        for path in (tmp_path / "modelscope").rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def test_a_hub_that_lacks_a_wanted_file_gives_nothing_and_the_next_is_asked(both, tmp_path, capsys):
    modelscope, huggingface = both
    put(modelscope.root / "mirror" / "adapter", "README.md", "models/ip.bin", *ADAPTER[:2])
    put(huggingface.root / "someone" / "adapter", *ADAPTER)
    folder = weights.fetch_module(
        HubModel("mirror/adapter", "someone/adapter"), "the IP-Adapter", ADAPTER
    )
    assert all((folder / name).is_file() for name in ADAPTER) and brought(tmp_path) == []
    assert (
        capsys.readouterr().out
        == "weights: the IP-Adapter from Hugging Face (someone/adapter), 3 files, 0.0 GB\n"
    )
    modelscope.refusing = True
    huggingface.close()
    assert (
        weights.fetch_module(
            HubModel("mirror/adapter", "someone/adapter"), "the IP-Adapter", ADAPTER
        )
        == folder
    )


@pytest.mark.parametrize(
    "fetch",
    [
        lambda: weights.fetch_module("someone/scores", "it", ("CLIP/model.safetensors",)),
        lambda: weights.fetch_part("someone/scores", "CLIP", "it"),
        lambda: weights.fetch_module("someone/scores", "it"),
    ],
)
def test_an_empty_choice_never_means_every_file(both, tmp_path, fetch, capsys):
    for hub in both:
        put(
            hub.root / "someone" / "scores",
            "Other/model.safetensors",
            "big.bin",
            content=b"b" * 9000,
        )
    with pytest.raises(
        BaseError,
        match="it could not be fetched .ModelScope: .*; Hugging Face: .*check the network",
    ) as error:
        fetch()
    assert (
        "\n" not in str(error.value)
        and brought(tmp_path) == []
        and "0 files" not in capsys.readouterr().out
    )


def test_names_with_signs_of_patterns_bring_themselves_alone(both, tmp_path):
    names = ("a[1]/model.safetensors", "a[1]/config.json")
    others = ("a1/model.safetensors", "a1/config.json")
    put(both[0].root / "someone" / "signs", *names, *others)
    put(both[1].root / "someone" / "more", *names, *others)
    for model in (HubModel("someone/signs"), HubModel(huggingface="someone/more")):
        folder = weights.fetch_part(model, "a[1]", "it").parent
        assert sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()
        ) == sorted(names)


def test_a_revision_is_asked_of_hugging_face_alone(both):
    modelscope, huggingface = both
    put(modelscope.root / "someone" / "adapter", *ADAPTER, content=b"old")
    put(huggingface.root / "someone" / "adapter@refs-pr-4", *ADAPTER, content=b"new")
    for model in (
        "someone/adapter@refs/pr/4",
        HubModel(huggingface="someone/adapter", revision="refs/pr/4"),
    ):
        assert (weights.fetch_module(model, "it", ADAPTER) / ADAPTER[0]).read_bytes() == b"new"
    assert any("refs/pr/4" in path for _, path in huggingface.asked)
    assert (
        weights.fetch_module("someone/adapter", "it", ADAPTER) / ADAPTER[0]
    ).read_bytes() == b"old"


def test_where_hugging_face_alone_has_a_model_a_mirror_is_named(both):
    with pytest.raises(
        BaseError,
        match="set HF_ENDPOINT to a mirror of Hugging Face, which alone is known to have it",
    ):
        weights.fetch_module(HubModel(huggingface="someone/nothing"), "it")


def test_a_size_that_is_not_listed_is_not_compared(both, capsys):
    both[1].sized = False
    put(both[1].root / "someone" / "adapter", *ADAPTER)
    assert (
        weights.fetch_module(HubModel(huggingface="someone/adapter"), "it", ADAPTER) / ADAPTER[0]
    ).read_bytes() == b"x" * 100
    assert "at least 0.0 GB" in capsys.readouterr().out


def test_the_disk_that_is_looked_at_is_the_one_of_the_cache(both, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        artifacts,
        "free_space_needed",
        lambda folder, needed: asked.append((folder, needed)),
    )
    for hub in both:
        put(hub.root / "someone" / "adapter", *ADAPTER)
    for model in (HubModel("someone/adapter"), HubModel(huggingface="someone/adapter")):
        weights.fetch_module(model, "it", ADAPTER)
        shutil.rmtree(tmp_path / "cache")
        weights.fetch_module(model, "it", ADAPTER)  # what a broken download left counts no more
        shutil.rmtree(tmp_path / "cache")
    assert asked == [
        (tmp_path / "modelscope", 300),
        (tmp_path / "modelscope", 0),
        (tmp_path / "hf_home" / "hub", 300),
        (tmp_path / "hf_home" / "hub", 0),
    ]
    assert sorted(
        path.name
        for path in (tmp_path / "hf_home" / "hub").iterdir()
        if path.name.startswith("models--")
    ) == ["models--someone--adapter"]


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_a_disk_that_becomes_full_is_no_reason_to_ask_the_next_hub(both, monkeypatch, several):
    from modelscope_hub.errors import FileDownloadError

    def full(*_, **__):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if several:
            raise FileDownloadError("1 of 3 files failed", failed_files={ADAPTER[0]: error})
        raise ValueError("cannot write") from error

    for hub in both:
        put(hub.root / "someone" / "adapter", *ADAPTER)
    monkeypatch.setattr("modelscope.snapshot_download", full)
    with pytest.raises(ResourceError, match="became full while it was fetched"):
        weights.fetch_module("someone/adapter", "it", ADAPTER)
