"""Bases that are paths: known by configs and tensor names, or refused by name."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import Settings
from storyboard.errors import BaseError
from storyboard.exporting import licences
from storyboard.models import bases, run, weights
from storyboard.rendering.panels import base_record
from tests import tiny


def test_a_diffusers_folder_by_its_path(hub):
    folder = hub("sdxl").folder
    base = weights.fetch(bases.get(str(folder)))
    assert (
        base.pipeline == "StableDiffusionXLPipeline"
        and base.resolution == 64
        and base.folder == folder
    )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_x.lora_down.weight": (4, 4)}, "is a LoRA, not a base"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "is Flux"),
        ({"conditioner.embedders.0.model.ln_final.weight": (4,)}, "is an SDXL refiner"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)},
            "is no whole checkpoint of Stable Diffusion 1.5 or Stable Diffusion XL: UNet or",
        ),
        (
            {
                "model.diffusion_model.input_blocks.0.0.weight": (4, 9, 3, 3),
                "cond_stage_model.transformer.a": (1,),
                "first_stage_model.b": (1,),
            },
            "takes 9 channels",
        ),
    ],
)
def test_what_is_no_checkpoint_of_ours_is_said_at_once(tmp_path, tensors, message):
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    with pytest.raises(BaseError, match=message) as error:
        bases.get(str(path))
    assert "\n" not in str(error.value) and "other.safetensors" in str(error.value)


def test_eight_bit_numbers_are_refused_at_once(single):
    path, _ = single("sd15")
    save_file(
        {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(path).items()}, path
    )
    with pytest.raises(BaseError, match="numbers of the type F8_E4M3: get the checkpoint in fp16"):
        bases.get(str(path))


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"cos\nsystem\n")
    with pytest.raises(BaseError, match="convert it first"):
        bases.get(str(tmp_path / "model.ckpt"))


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        (
            "sdxl",
            "vae/config.json",
            {
                "latents_mean": [-1.6, 1.5, 0.4, -0.3],
                "latents_std": [8.4, 5.8, 4.2, 4.0],
                "scaling_factor": 0.5,
            },
            "a VAE with latents_mean",
        ),
        ("sdxl", "vae/config.json", {"shift_factor": 0.1159}, "a VAE with shift_factor"),
        ("sd15", "unet/config.json", {"cross_attention_dim": 1024}, "is Stable Diffusion 2"),
        ("sd15", "unet/config.json", {"in_channels": 9}, "takes 9 channels"),
        (
            "kolors",
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            r'original layout.*set base="kolors", which fetches Kwai-Kolors/Kolors-diffusers',
        ),
    ],
)
def test_a_folder_that_would_be_read_wrongly_is_refused_by_name(
    hub, tmp_path, name, file, changes, message
):
    folder = tiny.edited(hub(name), tmp_path / "edited", file, changes)
    with pytest.raises(BaseError, match=message) as error:
        bases.get(str(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_the_id_of_kolors_in_its_original_layout_is_refused_with_a_pointer():
    with pytest.raises(BaseError, match="Kwai-Kolors/Kolors-diffusers"):
        run.check(Settings(base="Kwai-Kolors/Kolors"))


def test_kolors_in_its_original_layout_has_no_index_of_its_own(hub, tmp_path):
    folder = tiny.copied(hub("kolors"), tmp_path / "original").folder
    (folder / "model_index.json").unlink()
    with pytest.raises(BaseError, match="is Kolors in its original layout"):
        bases.get(str(folder))


def test_keys_of_a_vae_that_are_null_are_no_keys(hub, tmp_path):
    nothing = {"latents_mean": None, "latents_std": None, "shift_factor": None}
    folder = tiny.edited(hub("sdxl"), tmp_path / "edited", "vae/config.json", nothing)
    assert weights.fetch(bases.get(str(folder))).prediction_type == "epsilon"


def test_a_folder_that_lacks_a_config_or_holds_another_pipeline_is_refused(hub, tmp_path):
    base = tiny.copied(hub("sd15"), tmp_path / "copy")
    index = base.folder / "model_index.json"
    index.write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(BaseError, match="holds a FluxPipeline: only .*KolorsPipeline"):
        bases.get(str(base.folder))
    (base.folder / "vae" / "config.json").unlink()
    with pytest.raises(BaseError, match="is no diffusers folder .*vae/config.json is missing"):
        bases.get(str(base.folder))
    index.write_text("{")
    with pytest.raises(BaseError, match="model_index.json is damaged .it is no JSON"):
        bases.get(str(base.folder))


KEPT = (
    "family",
    "architecture",
    "kohya_name",
    "resolution",
    "resolution_step",
    "lora_targets",
    "learning_rate",
    "train_steps",
    "train_batch_size",
    "num_inference_steps",
    "guidance_scale",
    "high_noise_weight",
    "controlnets",
    "judge",
)


def test_a_copy_of_mini_under_any_name_is_built_on_mini(tmp_path):
    mini = bases.get("mini")
    copy = bases.get(str(tiny.copied(mini, tmp_path / "merged").folder))
    assert copy.name == "merged" and not copy.embedded
    for name in KEPT:
        assert getattr(copy, name) == getattr(mini, name)
    assert copy.fingerprint() == mini.fingerprint()


def test_a_folder_called_mini_is_not_mini(hub, tmp_path):
    kolors = tiny.copied(hub("kolors"), tmp_path / "mini")
    base = bases.get(str(kolors.folder))
    assert base.judge == "clip" and base.learning_rate == bases.get("kolors").learning_rate
    base.weight_files("unet")[0].unlink()
    with pytest.raises(BaseError, match="lacks safetensors weights in .*: get it again"):
        base.check()


def test_a_base_of_ones_own_never_bears_the_name_of_ours(hub, tmp_path):
    """By its name a bundle, a card, a graph and ``reproduce`` tell a base."""
    folder = tiny.copied(hub("kolors"), tmp_path / "mini").folder
    base, settings = bases.get(str(folder)), Settings(base=str(folder))
    assert base.name == "mini-own"
    assert base_record(base, base.fingerprint()).layout == "diffusers"
    assert licences.of_base(settings) == licences.OTHER


def test_a_base_without_a_licence_is_given_away_as_its_base_is(hub):
    bases.register(replace(hub("sd15"), name="unlicensed", licence={}))
    try:
        assert licences.of_base(Settings(base="unlicensed")) == licences.OTHER
    finally:
        bases.forget("unlicensed")


def test_a_small_kolors_of_unknown_size_has_the_resolution_of_its_unet(hub):
    base = bases.get(str(hub("kolors").folder))
    assert (base.resolution, base.resolution_step) == (64, 32)
    filled = run.run_on(base, Settings(base=str(base.folder)))
    assert filled.resolution == 64 and filled.train_steps == bases.get("kolors").train_steps
