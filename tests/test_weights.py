import errno
import os
import shutil
from pathlib import Path

import pytest

from storyboard.errors import BaseError, ResourceError
from storyboard.models import bases, download, weights
from storyboard.models.download import HubModel
from tests import hub_server, huggingface_server, tiny


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
    monkeypatch.setenv(weights.CACHE, str(tmp_path / "cache"))
    yield running
    running.server.shutdown()
    running.server.server_close()


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


def test_no_network_at_all_is_one_sentence(server):
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(
        BaseError, match="Kolors.* could not be fetched .ModelScope: .*; Hugging Face: ConnectError"
    ) as error:
        weights.fetch(bases.get("kolors"))
    assert "\n" not in str(error.value)


def test_a_disk_that_is_too_small_is_said_before_the_download(server, monkeypatch):
    monkeypatch.setattr(weights.artifacts, "free_space_needed", lambda folder, needed: 5 * 10**9)
    with pytest.raises(ResourceError, match="5.0 GB more than the disk"):
        weights.fetch(bases.get("sd15"))


@pytest.fixture
def both(tmp_path, monkeypatch):
    """(ModelScope, Hugging Face): two hubs over HTTP that serve what ``put`` writes below their roots."""
    modelscope, huggingface = (
        hub_server.Hub(tmp_path / "ms"),
        huggingface_server.HuggingFace(tmp_path / "hf"),
    )
    monkeypatch.delenv("STORYBOARD_HUB", raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", modelscope.url)
    monkeypatch.setenv("HF_ENDPOINT", huggingface.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv(weights.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_DISABLE_XET", True
    )  # the stand-in has no such store
    yield modelscope, huggingface
    for each in (modelscope, huggingface):
        each.server.shutdown()
        each.server.server_close()


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


def test_a_missing_shard_is_a_missing_file():
    files = dict.fromkeys(
        ("config.json", "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"), 1
    )
    with pytest.raises(BaseError, match="does not list model-00002-of-00003.safetensors"):
        weights.chosen_module(files)


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
        weights.artifacts,
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


def test_caches_are_where_the_variables_say(monkeypatch, tmp_path):
    for name in (
        "MODELSCOPE_CACHE",
        "MS_CACHE_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HOME",
        "XDG_CACHE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    assert download.modelscope_cache() == Path.home() / ".cache" / "modelscope"
    assert download.huggingface_cache() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", "~/hf")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    assert (download.modelscope_cache(), download.huggingface_cache()) == (
        tmp_path,
        Path.home() / "hf" / "hub",
    )
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert download.huggingface_cache() == tmp_path / "hub"


def test_a_users_id_is_one_at_both_hubs_and_with_a_revision_one_at_hugging_face():
    assert HubModel.of("a/b") == HubModel("a/b", "a/b") and HubModel.of("a/b@main") == HubModel(
        None, "a/b", "main"
    )
    assert str(HubModel("m/b", "h/b")) == "m/b" and str(HubModel.of("a/b@main")) == "a/b@main"


def test_every_side_model_names_its_hubs():
    from storyboard.rendering.annotators import ANNOTATORS

    models = [
        model
        for name in ("kolors", "sdxl", "sd15")
        for model in (*bases.get(name).controlnets.values(), bases.get(name).ip_adapter[0])
    ]
    assert all(
        isinstance(model, HubModel) and model.huggingface
        for model in (*models, *ANNOTATORS.values())
    )
    assert all(model.modelscope is None for model in models if model.revision)
    for name in ("README.md", "README.zh.md"):
        text = (Path(__file__).resolve().parents[1] / name).read_text(encoding="utf-8")
        assert all(
            f"`{known}`" in text for model in (*models, *ANNOTATORS.values()) for known in model.ids
        )


def test_the_smaller_of_two_precisions_is_chosen():
    files = dict.fromkeys(
        (
            "model_index.json",
            "README.md",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "v1-5-pruned.safetensors",
            "text_encoder/config.json",
            "text_encoder/model.safetensors.index.fp16.json",
            "text_encoder/model.fp16-00001-of-00002.safetensors",
            "text_encoder/model.fp16-00002-of-00002.safetensors",
            "text_encoder/pytorch_model.bin",
            "tokenizer/vocab.json",
            "safety_checker/model.safetensors",
        ),
        1,
    )
    chosen = weights.chosen(files, ("text_encoder", "unet", "vae"))
    assert set(files) - set(chosen) == {
        "README.md",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "v1-5-pruned.safetensors",
        "text_encoder/pytorch_model.bin",
        "safety_checker/model.safetensors",
    }
    with pytest.raises(BaseError, match="no safetensors weights for vae"):
        weights.chosen({name: 1 for name in files if not name.startswith("vae/")}, ("unet", "vae"))


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


def test_of_a_controlnets_repository_the_smaller_precision_at_its_top_is_chosen():
    files = dict.fromkeys(
        (
            "config.json",
            "README.md",
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.bin",
            "other/config.json",
        ),
        1,
    )
    assert weights.chosen_module(files) == [
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    ]
    with pytest.raises(BaseError, match="no safetensors weights"):
        weights.chosen_module({"config.json": 1, "diffusion_pytorch_model.bin": 1})
