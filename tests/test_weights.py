"""Weights of bases and further models, fetched once."""

import shutil
from pathlib import Path

import pytest

from storyboard import artifacts
from storyboard.errors import BaseError, ResourceError
from storyboard.models import bases, weights
from storyboard.models.download import CACHE
from tests import hub_server, tiny


@pytest.fixture
def server(hub_root, tmp_path, monkeypatch):
    """A hub over HTTP with the tiny bases, and further files that nobody wants."""
    shutil.copytree(hub_root, tmp_path / "root")
    for name in tiny.HUB.values():
        (tmp_path / "root" / name / "unet" / "diffusion_pytorch_model.bin").write_bytes(
            b"not wanted"
        )
    running = hub_server.Hub(tmp_path / "root")
    monkeypatch.delenv("STORYBOARD_HUB", raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
    monkeypatch.setenv("HF_ENDPOINT", running.url)  # where nothing answers as Hugging Face does
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    yield running
    running.close()


@pytest.mark.parametrize("name", sorted(tiny.HUB))
def test_only_what_is_used_is_fetched_once_and_its_size_printed_before(server, name, capsys):
    base = bases.get(name)
    assert not weights.present(base)
    found = weights.fetch(base)
    assert f"base: {base.title} from ModelScope ({base.modelscope})" in capsys.readouterr().out
    here = {
        path.relative_to(found.folder).as_posix()
        for path in found.folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    assert "model_index.json" in here and not any(path.endswith(".bin") for path in here)
    server.refusing = True
    assert weights.fetch(base) == found and weights.present(base) and capsys.readouterr().out == ""


def test_a_download_cut_in_half_goes_on_where_it_stopped(server):
    base, file = bases.get("sdxl"), "diffusion_pytorch_model.fp16.safetensors"
    original = server.root / base.modelscope / "unet" / file
    (server.root / base.modelscope / "vae" / file).rename(
        server.root / base.modelscope / "vae" / "diffusion_pytorch_model.safetensors"
    )
    server.cut = file
    with pytest.raises(
        BaseError, match="could not be fetched .*it goes on where it broke off"
    ) as error:
        weights.fetch(base)
    assert "\n" not in str(error.value)
    server.refusing = False
    found = weights.fetch(base)
    assert (
        server.ranges
        and server.ranges[-1][0] == file
        and server.ranges[-1][1].startswith("bytes=")
        and not server.ranges[-1][1].startswith("bytes=0-")
    )
    assert (found.folder / "unet" / file).read_bytes() == original.read_bytes()


def test_no_hub_at_all_is_one_sentence(server):
    server.refusing = True
    with pytest.raises(
        BaseError, match="Kolors.* could not be fetched .ModelScope: .*; Hugging Face: "
    ) as error:
        weights.fetch(bases.get("kolors"))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_no_network_at_all_is_one_sentence(server):
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(
        BaseError, match="Kolors.* could not be fetched .ModelScope: .*; Hugging Face: ConnectError"
    ) as error:
        weights.fetch(bases.get("kolors"))
    assert "\n" not in str(error.value)


def test_a_disk_that_is_too_small_is_said_before_the_download(server, monkeypatch):
    monkeypatch.setattr(artifacts, "free_space_needed", lambda folder, needed: 5 * 10**9)
    with pytest.raises(ResourceError, match="5.0 GB more than the disk"):
        weights.fetch(bases.get("sd15"))


def test_a_controlnet_is_fetched_once_by_its_id_or_found_in_its_folder(server, capsys):
    original = Path(bases.get("mini").controlnets["edges"])
    assert weights.fetch_module(original, "the ControlNet") == original
    shutil.copytree(original, server.root / "someone" / "canny")
    (server.root / "someone" / "canny" / "diffusion_pytorch_model.bin").write_bytes(b"not wanted")
    found = weights.fetch_module("someone/canny", "the ControlNet")
    assert (
        "weights: the ControlNet from ModelScope (someone/canny), 2 files"
        in capsys.readouterr().out
    )
    assert (found / "diffusion_pytorch_model.safetensors").read_bytes() == (
        original / "diffusion_pytorch_model.safetensors"
    ).read_bytes()
    assert not (found / "diffusion_pytorch_model.bin").exists()
    server.refusing = True
    assert weights.fetch_module("someone/canny", "the ControlNet") == found
    with pytest.raises(BaseError, match="the ControlNet could not be fetched") as error:
        weights.fetch_module("someone/else", "the ControlNet")
    assert "\n" not in str(error.value)
    with pytest.raises(BaseError, match="of the ControlNet lacks other.json"):
        weights.fetch_module(original, "the ControlNet", ("other.json",))
