"""Families: what recognises them, and one that this file alone adds to the package."""

import dataclasses
import json

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import storyboard
from storyboard import Story
from storyboard.errors import BaseError
from storyboard.models import bases, families, memory, run
from storyboard.models.base import Base
from storyboard.models.families import Family, Lookalike, MemoryNeeds, sd15
from tests import tiny

WIDTHS = [32, 64]
PREFIXES = {"unet": "lora_toyunet_", "text_encoder": "lora_toytext_"}


def toy_family() -> Family:
    """SD 1.5's classes with a UNet of two levels, and names of its own in a LoRA."""
    return dataclasses.replace(
        sd15.FAMILY,
        name="toy",
        title="Toy Diffusion",
        configs={
            "model_index.json": {"_class_name": "StableDiffusionPipeline"},
            "unet/config.json": {"block_out_channels": WIDTHS},
        },
        single_file=None,
        lookalikes=(
            Lookalike("Toy Diffusion 0", configs={"unet/config.json": {"toy_version": 0}}),
        ),
        kohya_prefixes=PREFIXES,
        memory=MemoryNeeds(unet=1.0, text=0.5, drawing=1.0),
    )


def toy_base(family: Family) -> Base:
    return Base(
        name="toy",
        title="Toy Diffusion",
        family=family,
        architecture="toy-diffusion",
        kohya_name="toy_v1",
        modelscope="someone/toy",
        huggingface="someone/toy",
        resolution=64,
        resolution_step=16,
        unet={"block_out_channels": WIDTHS},
        lora_targets=("attn2.to_q", "attn2.to_v"),
        learning_rate=2e-3,
        train_steps=3,
        train_batch_size=2,
        num_inference_steps=3,
        guidance_scale=2.0,
        licence={"license": "cc0-1.0"},
    )


@pytest.fixture
def toy():
    """The base of the made-up family, known while a test runs."""
    base = bases.register(toy_base(families.register(toy_family())))
    yield base
    bases.forget(base.name)
    families.forget(base.family.name)


@pytest.fixture
def toy_folder(hub, tmp_path):
    """A diffusers folder of the made-up family: tiny SD 1.5 with another UNet."""
    folder = tiny.copied(hub("sd15"), tmp_path / "any name").folder
    for file in (folder / "unet").iterdir():
        file.unlink()
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=32,
    )
    unet.save_pretrained(folder / "unet")
    return folder


@pytest.mark.slow
def test_a_family_that_a_test_adds_trains_and_draws(toy, toy_folder, folder, make_settings):
    settings = make_settings(
        base=str(toy_folder),
        dataset=str(folder),
        resolution=None,
        train_steps=None,
        train_batch_size=None,
        num_inference_steps=None,
    )
    story = Story(["a girl with short hair", "the same girl, smiling"], "blurry")

    captions = storyboard.clean(storyboard.collect(settings), settings).captions
    lora = storyboard.train(captions, settings, story)
    pictures = storyboard.render(story, settings, lora)

    assert len(lora.losses) == toy.train_steps and np.isfinite(lora.losses).all()
    with safe_open(lora.path, "pt") as file:
        modules = {name.split(".")[0] for name in file.keys()}
        assert file.metadata()["ss_base_model_version"] == "toy_v1"
    assert all(name.startswith(PREFIXES["unet"]) for name in modules)
    assert all(name.endswith(("attn2_to_q", "attn2_to_v")) for name in modules)

    drawn = [np.asarray(Image.open(path).convert("RGB")) for path in pictures.paths]
    assert [picture.shape for picture in drawn] == [(64, 64, 3)] * 2
    plain = storyboard.render(story, settings.but(output=f"{settings.output}-plain"), None)
    assert any(
        (np.asarray(Image.open(path).convert("RGB")) != picture).any()
        for path, picture in zip(plain.paths, drawn, strict=True)
    )


def test_the_last_family_registered_is_asked_first(toy, toy_folder, hub):
    base = bases.get(str(toy_folder))
    assert base.family == toy.family and base.lora_targets == toy.lora_targets
    assert bases.get(str(hub("sd15").folder)).family is sd15.FAMILY
    assert families.by_name("toy") is toy.family
    assert families.by_pipeline("StableDiffusionPipeline") is sd15.FAMILY
    assert "Toy Diffusion" in families.titles()


def test_what_a_family_calls_another_model_is_refused_by_name(toy, toy_folder):
    path = toy_folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"toy_version": 0}))
    with pytest.raises(BaseError, match="is Toy Diffusion 0: only .* can be fine-tuned here"):
        bases.get(str(toy_folder))


def test_a_family_brings_its_needs(toy):
    large = dataclasses.replace(toy, download=10**10)
    needs = [memory.drawing_need(each, None, 1024) for each in (large, bases.get("sd15"))]
    assert needs == pytest.approx([1.5 + 1.0 + 5.4, 1.5 + 1.8 + 5.4])
    assert run.check(storyboard.Settings(base="toy", resolution=48)) == toy


def test_without_its_family_the_folder_is_no_longer_one_of_it(toy_folder):
    assert bases.get(str(toy_folder)).family is sd15.FAMILY
    assert "toy" not in bases.names() + tuple(family.name for family in families.known())


@pytest.mark.parametrize("name", ["kolors", "mini", "sd15", "sdxl"])
def test_every_base_names_what_its_components_need(name):
    family = bases.get(name).family
    encoders = {component for component in family.classes if component.startswith("text_encoder")}
    assert family.tokenizers.keys() == encoders
    assert family.kohya_prefixes.keys() <= family.classes.keys()
    assert {"unet", "vae"} | encoders == set(family.components)
    assert len(set(family.kohya_prefixes.values())) == len(family.kohya_prefixes)
