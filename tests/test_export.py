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


def comfy_names(config):
    """Every UNet key that ComfyUI's LoRA loader knows: comfy/lora.py, model_lora_keys_unet, over comfy/utils.py, unet_to_diffusers."""
    resnet = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
    attention = ("norm", "proj_in", "proj_out")
    block = (
        "norm1",
        "norm2",
        "norm3",
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
        "ff.net.0.proj",
        "ff.net.2",
    )
    names = ["conv_in", "conv_norm_out", "conv_out"] + [
        f"{part}.linear_{n}"
        for part in ("time_embedding", "add_embedding", "class_embedding")
        for n in (1, 2)
    ]
    kinds, layers, depths = (
        config["down_block_types"],
        config["layers_per_block"],
        config["transformer_layers_per_block"],
    )
    depths = [depths] * len(kinds) if isinstance(depths, int) else depths

    def attentions(place, depth):
        return [f"{place}.{part}" for part in attention] + [
            f"{place}.transformer_blocks.{number}.{part}"
            for number in range(depth)
            for part in block
        ]

    for number, (kind, depth) in enumerate(zip(kinds, depths)):
        for side, at, count in (
            ("down", number, layers),
            ("up", len(kinds) - 1 - number, layers + 1),
        ):
            names += [
                f"{side}_blocks.{at}.resnets.{layer}.{part}"
                for layer in range(count)
                for part in resnet
            ]
            names += [
                name
                for layer in range(count)
                if kind.startswith("CrossAttn")
                for name in attentions(f"{side}_blocks.{at}.attentions.{layer}", depth)
            ]
            names += [f"{side}_blocks.{at}.{side}samplers.0.conv"]
    names += [
        f"mid_block.resnets.{layer}.{part}" for layer in (0, 1) for part in resnet
    ] + attentions("mid_block.attentions.0", depths[-1])
    return {"lora_unet_" + name.replace(".", "_") for name in names}


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


@pytest.mark.parametrize("name", BASES)
def test_export_merged_into_its_base(made, name, tmp_path):
    """The folder has the sums in the base's own precision, draws what base and LoRA draw, and takes no LoRA of another base."""
    settings, base, trained = made(name)
    settings = settings.but(num_inference_steps=2)
    folder = merge(trained, settings)
    assert folder == settings.folder / "merged" and str(tmp_path) not in "".join(
        path.read_text(encoding="utf-8") for path in folder.rglob("*.json")
    )
    merged = bases.get(str(folder))
    merged.check()
    plain, found = (
        load_file(base.weight_files("unet")[0]),
        load_file(merged.weight_files("unet")[0]),
    )
    assert found.keys() == plain.keys() and all(
        found[key].dtype == plain[key].dtype for key in plain
    )
    changed = {
        key.removesuffix(".weight") for key in plain if not torch.equal(plain[key], found[key])
    }
    assert changed == {module_name(key) for key in lora.modules(trained.path)}
    pictures = [
        render(
            Story(["a girl"]), settings.but(base=where, output=str(tmp_path / str(number))), what
        ).paths[0]
        for number, (where, what) in enumerate(((name, trained), (str(folder), None)))
    ]
    one, other = (np.asarray(Image.open(path), int) for path in pictures)
    assert np.abs(one - other).max() <= 2
    with pytest.raises(LoraError, match=f"was trained on the base '{name}'"):
        merge(trained, settings.but(base="mini"), tmp_path / "other")
    with pytest.raises(LoraError, match="There is no LoRA at"):
        merge(tmp_path / "none.safetensors", settings)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_export_merged_with_text_encoders(hub, make_settings, tmp_path, name):
    base, settings, path = (
        hub(name),
        make_settings(base=name, num_inference_steps=2),
        tmp_path / "lora.safetensors",
    )
    tiny.whole_lora(base, path, alphas=(3.0, 0.7), ranks=(4, 2))
    folder = merge(path, settings)
    merged = bases.get(str(folder))
    merged.check()
    for component in base.components:
        plain, found = (
            {
                key: tensor
                for file in each.weight_files(component)
                for key, tensor in load_file(file).items()
            }
            for each in (base, merged)
        )
        assert found.keys() >= {key for key in plain if not key.endswith("position_ids")} and all(
            found[key].dtype == plain[key].dtype for key in found
        )
        changed = {
            lora.module_key(component, key.removesuffix(".weight"))
            for key in found
            if not torch.equal(plain[key], found[key])
        }
        assert changed == {
            place for place in map(lora.module_key_of, lora.modules(path)) if place[0] == component
        }
    pictures = [
        render(
            Story(["a (girl:1.3)"]),
            settings.but(base=where, output=str(tmp_path / str(number))),
            what,
        ).paths[0]
        for number, (where, what) in enumerate(((name, path), (str(folder), None), (name, None)))
    ]
    one, other, without = (np.asarray(Image.open(path), int) for path in pictures)
    assert np.abs(one - other).max() <= 2 < np.abs(one - without).max()
