"""Checkpoints in one file become diffusers folders."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard.errors import BaseError
from storyboard.models import bases, download, loading, weights


def plain(name):
    return name.removeprefix("text_model.")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_single_file_is_the_folder_it_was_made_from_parity(single, name, capsys):
    path, folder = single(name)
    base = weights.fetch(bases.get(str(path)))
    assert (
        base.name == "anime"
        and base.kohya_name == bases.get(name).kohya_name
        and "base: reading" in capsys.readouterr().out
    )
    for component in base.components:
        ours = loading.load(base, component, torch.float32).state_dict()
        theirs = {
            key: tensor
            for file in sorted((folder / component).glob("*.safetensors"))
            for key, tensor in load_file(file).items()
        }
        theirs = {plain(key): tensor for key, tensor in theirs.items()}
        assert all(
            torch.equal(tensor, theirs[plain(key)])
            for key, tensor in ours.items()
            if "position_ids" not in key
        )
    weights.fetch(bases.get(str(path)))
    assert capsys.readouterr().out == ""  # converted once


def test_a_cut_off_file_is_named(single):
    path, _ = single("sd15")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        BaseError, match=r"anime.safetensors is \d+ bytes long where its header asks for \d+"
    ):
        weights.fetch(bases.get(str(path)))


def test_another_width_than_the_config_is_named(single):
    path, _ = single("sd15")
    tensors = load_file(path)
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file(tensors | {name: torch.zeros(32, 48)}, path)
    with pytest.raises(BaseError, match="anime") as error:
        loading.load(weights.fetch(bases.get(str(path))), "unet", torch.float32)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_an_old_merge_without_text_model_in_its_names(single):
    path, _ = single("sd15")
    old = {
        name.replace("transformer.text_model.", "transformer."): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(old, path)
    base = weights.fetch(bases.get(str(path)))
    assert loading.load(base, "text_encoder", torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part"), [("sd15", "text_encoder"), ("sdxl", "text_encoder_2"), ("sdxl", "unet")]
)
def test_a_tensor_that_is_missing_is_an_error(single, name, part):
    path, _ = single(name)
    tensors = load_file(path)
    start = {
        "text_encoder": "cond_stage_model",
        "text_encoder_2": "conditioner.embedders.1",
        "unet": "model.diffusion_model.middle",
    }[part]
    gone = next(key for key in sorted(tensors) if key.startswith(start) and key.endswith("bias"))
    save_file({key: tensor for key, tensor in tensors.items() if key != gone}, path)
    with pytest.raises(BaseError, match=f"does not hold the {part} of"):
        weights.fetch(bases.get(str(path)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_single_file_without_a_vae_takes_that_of_its_base(single, name, capsys):
    path, folder = single(name)
    save_file(
        {
            key: tensor
            for key, tensor in load_file(path).items()
            if not key.startswith("first_stage_model.")
        },
        path,
    )
    base = weights.fetch(bases.get(str(path)))
    assert (
        f"anime.safetensors holds no VAE, it takes that of {bases.get(name).huggingface}"
        in capsys.readouterr().out
    )
    theirs = load_file(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    ours = loading.load(base, "vae", torch.float32).state_dict()
    assert ours.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[key]) for key, tensor in ours.items()
    )
    capsys.readouterr()
    weights.fetch(bases.get(str(path)))
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_vae_that_a_single_file_lacks_is_asked_of_the_hub(single, monkeypatch):
    path, folder = single("sd15")
    save_file(
        {
            key: tensor
            for key, tensor in load_file(path).items()
            if not key.startswith("first_stage_model.")
        },
        path,
    )
    listed = {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file()
    }
    asked = {}
    monkeypatch.setattr(
        download,
        "from_hubs",
        lambda title, model, choose, *rest, **named: asked.update(files=choose(listed)) or folder,
    )
    weights.fetch(bases.get(str(path)))
    assert [name for name in asked["files"] if name.endswith(".safetensors")] == [
        "vae/diffusion_pytorch_model.fp16.safetensors"
    ]
    assert "unet/config.json" in asked["files"] and "tokenizer/vocab.json" in asked["files"]


@pytest.mark.slow
def test_a_vae_that_is_there_in_part_is_an_error(single):
    path, _ = single("sd15")
    save_file(
        {
            key: tensor
            for key, tensor in load_file(path).items()
            if "first_stage_model.decoder" not in key
        },
        path,
    )
    with pytest.raises(BaseError, match="does not hold the vae"):
        weights.fetch(bases.get(str(path)))
