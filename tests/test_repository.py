"""Which files of a repository are chosen."""

import pytest

from storyboard.errors import BaseError
from storyboard.models import repository


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
    chosen = repository.files_of_base(files, ("text_encoder", "unet", "vae"))
    assert set(files) - set(chosen) == {
        "README.md",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "v1-5-pruned.safetensors",
        "text_encoder/pytorch_model.bin",
        "safety_checker/model.safetensors",
    }
    with pytest.raises(BaseError, match="no safetensors weights for vae"):
        repository.files_of_base(
            {name: 1 for name in files if not name.startswith("vae/")}, ("unet", "vae")
        )


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
    assert repository.files_of_module(files) == [
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    ]
    with pytest.raises(BaseError, match="no safetensors weights"):
        repository.files_of_module({"config.json": 1, "diffusion_pytorch_model.bin": 1})


def test_a_missing_shard_is_a_missing_file():
    files = dict.fromkeys(
        ("config.json", "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"), 1
    )
    with pytest.raises(BaseError, match="does not list model-00002-of-00003.safetensors"):
        repository.files_of_module(files)
