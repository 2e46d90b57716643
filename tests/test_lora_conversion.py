import base64
import getpass
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffsynth.utils.lora.general import GeneralLoRALoader
from diffsynth.utils.lora.sdxl import SdxlLoRALoader
from PIL import Image
from safetensors.torch import load_file, save_file

from storyboard import Story, convert, merge, render, train
from storyboard.errors import LoraError
from storyboard.lora import attaching
from storyboard.lora import file as lora
from storyboard.lora.conversion import module_name
from storyboard.models import bases
from storyboard.models import loading as models
from storyboard.rendering import sampling
from storyboard.training.pipeline import TrainingPipeline
from tests import tiny
from tests.test_parity import of_diffusers

BASES = ("sdxl", "sd15", "kolors")


@pytest.fixture
def made(hub, make_settings, captions):
    """(name) -> settings, base and LoRA of a short training, with another alpha than its rank."""

    def make(name):
        settings = make_settings(base=name, rank=4, alpha=3.0, train_steps=2, train_batch_size=2)
        return settings, hub(name), train(captions, settings)

    return make


@pytest.mark.parametrize("name", BASES)
def test_export_attaches_whole_everywhere(made, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    settings, base, trained = made(name)
    tensors = load_file(trained.path)
    modules = lora.modules(trained.path)

    # ComfyUI
    wanted = {
        key
        for key in comfy_names(base.config("unet"))
        if key.endswith(("_to_q", "_to_k", "_to_v", "_to_out_0"))
    }
    assert modules == wanted
    assert tensors.keys() == {
        f"{key}.{part}"
        for key in wanted
        for part in ("lora_up.weight", "lora_down.weight", "alpha")
    }  # comfy/weight_adapter/lora.py

    before = {
        key: value.clone()
        for key, value in models.load(base, "unet", torch.float32).named_parameters()
    }
    expected = {}
    for key in modules:
        up, down, alpha = (
            tensors[f"{key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha")
        )
        expected[f"{module_name(key)}.weight"] = up @ down * (alpha / len(down))
    assert all(value.any() for value in expected.values())

    def added_whole(unet):
        found = {
            key: value.detach() - before[key]
            for key, value in unet.named_parameters()
            if not torch.equal(value, before[key])
        }
        assert found.keys() == expected.keys()
        assert all(
            torch.allclose(found[key], expected[key].view_as(found[key]), rtol=1e-3, atol=1e-6)
            for key in found
        )

    # diffusers, in both forms that it reads
    for path in (trained.path, convert(trained, "diffusers")):
        pipe = models.pipeline(
            base,
            vae=None,
            unet=models.load(base, "unet", torch.float32),
            scheduler=sampling.scheduler(base),
        )
        pipe.load_lora_weights(str(path.parent), weight_name=path.name)
        pipe.fuse_lora(components=["unet"])
        pipe.unload_lora_weights()
        added_whole(pipe.unet)

    # DiffSynth
    pipe = TrainingPipeline.load(base, ("unet",), "cpu", torch.float32)
    pipe.lora_loader = (
        SdxlLoRALoader if base.pipeline == "StableDiffusionXLPipeline" else GeneralLoRALoader
    )
    pipe.load_lora(pipe.unet, str(convert(trained, "diffsynth")))
    added_whole(pipe.unet)

    # there and back, and nothing private
    for form in ("diffusers", "diffsynth"):
        path = convert(trained, form)
        assert (
            convert(path, "kohya", tmp_path / "back.safetensors").read_bytes()
            == trained.path.read_bytes()
        )
        for content in (trained.path.read_bytes(), path.read_bytes()):
            text = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
            for secret in (
                str(tmp_path),
                settings.output,
                str(Path.home()),
                getpass.getuser(),
                "hf_abcdefghijklmnop",
            ):
                assert not re.search(rf"(?<![a-z]){re.escape(secret)}(?![a-z])", text)


@pytest.fixture
def mixed(tmp_path):
    """A kohya file with metadata, several ranks and alphas, convolutions among its modules."""
    tensors = {}
    for place, (name, rank, alpha, shape) in enumerate(
        (
            ("mid_block_attentions_0_proj_in", 4, 3.0, ()),
            ("up_blocks_1_resnets_0_conv1", 8, 0.7, (3, 3)),
            ("conv_in", 4, 4.0, (3, 3)),
        )
    ):
        generator = torch.Generator().manual_seed(place)
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(
            rank, 6, *shape, generator=generator
        )
        tensors[f"lora_unet_{name}.lora_up.weight"] = torch.randn(
            5, rank, *(1 for _ in shape), generator=generator
        )
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(alpha)
    path = tmp_path / "lora.safetensors"
    path.write_bytes(
        lora.serialised(tensors, {"ss_tag_frequency": "二次元", "modelspec.title": "a"})
    )
    return path


@pytest.mark.parametrize(
    "way",
    [
        ("diffusers",),
        ("diffsynth",),
        ("diffusers", "diffsynth"),
        ("diffsynth", "diffusers"),
        ("kohya",),
    ],
)
def test_export_and_back_is_the_same_file(way, mixed, tmp_path):
    found = mixed
    for number, form in enumerate((*way, "kohya")):
        found = convert(found, form, tmp_path / f"{number}.safetensors")
    assert found.read_bytes() == mixed.read_bytes()


def test_export_names_its_files_and_keeps_alpha_readable(mixed):
    diffsynth = convert(mixed, "diffsynth")
    assert (
        diffsynth.name == "lora.diffsynth.safetensors"
        and convert(diffsynth, "diffusers").name == "lora.diffusers.safetensors"
    )
    assert load_file(diffsynth)["up_blocks.1.resnets.0.conv1.alpha"] == torch.tensor(0.7)
    assert '"unet.r": 8' in lora.metadata(convert(mixed, "diffusers"))["lora_adapter_metadata"]


@pytest.mark.parametrize("name", [*BASES, "mini"])
def test_export_finds_every_module_of_a_unet_by_its_kohya_name(hub, name):
    base = bases.get("mini") if name == "mini" else hub(name)
    named = [
        key
        for key, module in models.skeleton(base, "unet").named_modules()
        if getattr(module, "weight", None) is not None
    ]
    assert (
        len(named) > 50
        and [module_name("lora_unet_" + key.replace(".", "_")) for key in named] == named
    )


def test_export_refuses_what_it_does_not_know(mixed, tmp_path):
    with pytest.raises(
        LoraError, match="form='a1111' must be one of 'diffusers', 'diffsynth', 'kohya'"
    ):
        convert(mixed, "a1111")
    with pytest.raises(LoraError, match="There is no LoRA at"):
        convert(tmp_path / "none.safetensors", "kohya")
    others = {
        "double_blocks_0_x": "is a LoRA for Flux",
        "other_0_x": "1 of the 1 modules in .* are not those of a UNet",
    }
    for name, said in others.items():
        halves = {
            f"lora_unet_{name}.lora_{side}.weight": torch.ones(2, 2) for side in ("down", "up")
        }
        save_file(halves, tmp_path / "other.safetensors")
        with pytest.raises(LoraError, match=said):
            convert(tmp_path / "other.safetensors", "diffusers")


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_export_of_text_encoders_and_back_is_the_same_file(hub, tmp_path, name, dtype):
    """With ranks and alphas that differ from module to module, in either precision."""
    base, path = hub(name), tmp_path / "lora.safetensors"
    tiny.whole_lora(base, path, alphas=(3.0, 0.7), ranks=(4, 2, 8))
    path.write_bytes(
        lora.serialised(
            {key: tensor.to(dtype) for key, tensor in load_file(path).items()}, lora.metadata(path)
        )
    )
    there = convert(path, "diffusers")
    assert {key.split(".")[0] for key in load_file(there)} == set(base.components) - {"vae"}
    assert convert(there, "kohya", tmp_path / "back.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(
        LoraError,
        match=r"changes \d+ modules of a text encoder, for which DiffSynth-Studio's form has no names",
    ):
        convert(path, "diffsynth")


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_export_names_text_encoders_as_comfyui_looks_for_them(hub, tmp_path, name):
    """comfy/lora.py, model_lora_keys_clip with LORA_CLIP_MAP; it passes over a key that it does not know."""
    tiny.whole_lora(hub(name), tmp_path / "lora.safetensors")
    parts = (
        "mlp_fc1",
        "mlp_fc2",
        "self_attn_k_proj",
        "self_attn_q_proj",
        "self_attn_v_proj",
        "self_attn_out_proj",
    )
    prefixes = {"sd15": ("lora_te",), "sdxl": ("lora_te1", "lora_te2")}[name]
    known = {
        f"{prefix}_text_model_encoder_layers_{layer}_{part}"
        for prefix in prefixes
        for layer in range(32)
        for part in parts
    }
    found = {
        key for key in lora.modules(tmp_path / "lora.safetensors") if key.startswith("lora_te")
    }
    assert found <= known and len(found) == 3 * 6 * len(prefixes)


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_export_of_text_encoders_in_diffusers_form_draws_the_same_there(hub, tmp_path, name):
    base, path = hub(name), tmp_path / "lora.safetensors"
    tiny.whole_lora(base, path, alphas=(3.0, 0.7), ranks=(4, 2, 8))
    there = convert(path, "diffusers")
    pipe = of_diffusers(name, base.folder)
    pipe.load_lora_weights(str(there.parent), weight_name=there.name)
    mine = models.pipeline(
        base,
        **{
            part: models.load(base, part, torch.float32)
            for part in base.components
            if part != "vae"
        },
    )
    count = attaching.attach(mine, base, path)
    found = 0
    for component in set(base.components) - {"vae"}:
        theirs = {
            lora.module_key(component, key): layer
            for key, layer in getattr(pipe, component).named_modules()
            if hasattr(layer, "merge")
        }
        for key, layer in getattr(mine, component).named_modules():
            if hasattr(layer, "merge"):
                other, found = theirs[lora.module_key(component, key)], found + 1
                assert torch.equal(
                    other.get_delta_weight("default_0"), layer.get_delta_weight("story")
                )
    assert found == count == len(lora.modules(path))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("dora_scale", "is a DoRA"),
        ("lora_mid.weight", "is a LoCon with a Tucker core"),
        ("hada_w1_a", "is a LoHa"),
        ("diff", "is a file of whole weight differences"),
    ],
)
@pytest.mark.parametrize("form", ["diffusers", "diffsynth", "kohya"])
def test_export_drops_no_tensor_of_another_kind(mixed, tmp_path, key, said, form):
    save_file(
        load_file(mixed) | {f"lora_unet_conv_in.{key}": torch.ones(1)}, tmp_path / "odd.safetensors"
    )
    with pytest.raises(LoraError, match=said):
        convert(tmp_path / "odd.safetensors", form)
    assert [path.name for path in tmp_path.glob("odd.*")] == ["odd.safetensors"]


def test_export_with_a_thumbnail(mixed, tmp_path):
    Image.new("RGB", (600, 400), "red").save(tmp_path / "picture.png")
    facts = lora.metadata(
        convert(mixed, "kohya", tmp_path / "shown.safetensors", thumbnail=tmp_path / "picture.png")
    )
    with Image.open(
        io.BytesIO(
            base64.b64decode(
                facts.pop("modelspec.thumbnail").removeprefix("data:image/jpeg;base64,")
            )
        )
    ) as image:
        assert image.size == (256, 171)
    assert facts == lora.metadata(mixed)


