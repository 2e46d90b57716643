"""``convert``: every form there and back, and each in the program that it is for."""

import base64
import getpass
import io
import re
from pathlib import Path

import pytest
import torch
from diffsynth.utils.lora.general import GeneralLoRALoader
from diffsynth.utils.lora.sdxl import SdxlLoRALoader
from PIL import Image
from safetensors.torch import load_file, save_file

from storyboard import convert, train
from storyboard.errors import LoraError
from storyboard.lora import attaching
from storyboard.lora import file as lora
from storyboard.lora.names import dotted_name, module_path, path_of
from storyboard.models import bases
from storyboard.models import loading as models
from storyboard.rendering import sampling
from storyboard.training.pipeline import TrainingPipeline
from tests import comfy_lora_names, tiny
from tests.parity import of_diffusers

BASES = ("sdxl", "sd15", "kolors")
TOKEN = "hf_abcdefghijklmnop"


def names_by_kohya(base, path):
    """kohya's name of each module in a file -> its name in the UNet."""
    return {name: dotted_name(path_of(name), base.family) for name in lora.modules(path)}


class Changes:
    """What a trained LoRA adds to the weights of a UNet."""

    def __init__(self, base, path):
        tensors = load_file(path)
        unet = models.load(base, "unet", torch.float32)
        self.before = {key: value.clone() for key, value in unet.named_parameters()}
        self.expected = {}
        for key, name in names_by_kohya(base, path).items():
            up, down = tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
            scale = tensors[f"{key}.alpha"] / len(down)
            self.expected[f"{name}.weight"] = up @ down * scale
        assert all(value.any() for value in self.expected.values())

    def are_in(self, unet):
        """Whether ``unet`` differs from the base's by them, and by nothing else."""
        changed = {
            key: value.detach() - self.before[key]
            for key, value in unet.named_parameters()
            if not torch.equal(value, self.before[key])
        }
        return changed.keys() == self.expected.keys() and all(
            torch.allclose(change, self.expected[key].view_as(change), rtol=1e-3, atol=1e-6)
            for key, change in changed.items()
        )


def fused_by_diffusers(base, path):
    """The UNet into which diffusers' own loader has put a file."""
    unet = models.load(base, "unet", torch.float32)
    pipe = models.pipeline(base, vae=None, unet=unet, scheduler=sampling.scheduler(base))
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    return pipe.unet


def fused_by_diffsynth(base, path):
    """The same by DiffSynth's."""
    pipe = TrainingPipeline.load(base, ("unet",), "cpu", torch.float32)
    two_encoders = base.pipeline == "StableDiffusionXLPipeline"
    pipe.lora_loader = SdxlLoRALoader if two_encoders else GeneralLoRALoader
    pipe.load_lora(pipe.unet, str(path))
    return pipe.unet


def header(path):
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")].decode()


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_a_trained_lora_attaches_whole_everywhere(
    hub, make_settings, captions, name, tmp_path, monkeypatch
):
    """In ComfyUI (by its names), diffusers and DiffSynth; and nothing private is in any form."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    settings = make_settings(base=name, rank=4, alpha=3.0, train_steps=2, train_batch_size=2)
    base, trained = hub(name), train(captions, settings)

    known = comfy_lora_names.unet_names(base.config("unet"))
    attention = ("_to_q", "_to_k", "_to_v", "_to_out_0")
    wanted = {key for key in known if key.endswith(attention)}
    parts = ("lora_up.weight", "lora_down.weight", "alpha")  # comfy/weight_adapter/lora.py
    assert lora.modules(trained.path) == wanted
    assert load_file(trained.path).keys() == {f"{key}.{part}" for key in wanted for part in parts}

    changes = Changes(base, trained.path)
    in_diffusers, in_diffsynth = convert(trained, "diffusers"), convert(trained, "diffsynth")
    assert changes.are_in(fused_by_diffusers(base, trained.path))
    assert changes.are_in(fused_by_diffusers(base, in_diffusers))
    assert changes.are_in(fused_by_diffsynth(base, in_diffsynth))

    secrets = (str(tmp_path), settings.output, str(Path.home()), getpass.getuser(), TOKEN)
    for path in (in_diffusers, in_diffsynth):
        back = convert(path, "kohya", tmp_path / "back.safetensors")
        assert back.read_bytes() == trained.path.read_bytes()
        for secret in secrets:
            word = rf"(?<![a-z]){re.escape(secret)}(?![a-z])"
            assert not re.search(word, header(path) + header(trained.path))


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
def test_there_and_back_is_the_same_file(way, mixed, tmp_path):
    path = mixed
    for number, form in enumerate((*way, "kohya")):
        path = convert(path, form, tmp_path / f"{number}.safetensors")
    assert path.read_bytes() == mixed.read_bytes()


def test_a_converted_file_has_the_form_in_its_name_and_a_readable_alpha(mixed):
    diffsynth = convert(mixed, "diffsynth")
    assert diffsynth.name == "lora.diffsynth.safetensors"
    assert convert(diffsynth, "diffusers").name == "lora.diffusers.safetensors"
    assert load_file(diffsynth)["up_blocks.1.resnets.0.conv1.alpha"] == torch.tensor(0.7)
    assert '"unet.r": 8' in lora.metadata(convert(mixed, "diffusers"))["lora_adapter_metadata"]


@pytest.mark.parametrize("name", [*BASES, "mini"])
def test_every_module_of_a_unet_is_found_by_its_kohya_name(hub, name):
    base = bases.get("mini") if name == "mini" else hub(name)
    named = [
        key
        for key, module in models.skeleton(base, "unet").named_modules()
        if getattr(module, "weight", None) is not None
    ]
    assert len(named) > 50
    assert [dotted_name(module_path("unet", key), base.family) for key in named] == named


def test_what_is_not_known_is_refused(mixed, tmp_path):
    with pytest.raises(
        LoraError, match="form='a1111' must be one of 'diffsynth', 'diffusers', 'kohya'"
    ):
        convert(mixed, "a1111")
    with pytest.raises(LoraError, match="There is no LoRA at"):
        convert(tmp_path / "none.safetensors", "kohya")
    others = {
        "double_blocks_0_x": "is a LoRA for Flux",
        "other_0_x": "1 of the 1 modules in .* are not those of a UNet",
    }
    for name, message in others.items():
        halves = {
            f"lora_unet_{name}.lora_{side}.weight": torch.ones(2, 2) for side in ("down", "up")
        }
        save_file(halves, tmp_path / "other.safetensors")
        with pytest.raises(LoraError, match=message):
            convert(tmp_path / "other.safetensors", "diffusers")


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_text_encoders_there_and_back_is_the_same_file(hub, tmp_path, name, dtype):
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
        match=r"changes \d+ modules of a text encoder, for which DiffSynth-Studio's form has no",
    ):
        convert(path, "diffsynth")


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_text_encoders_are_named_as_comfyui_looks_for_them(hub, tmp_path, name):
    """It passes over a key that it does not know."""
    tiny.whole_lora(hub(name), tmp_path / "lora.safetensors")
    prefixes = {"sd15": ("lora_te_",), "sdxl": ("lora_te1_", "lora_te2_")}[name]
    names = lora.modules(tmp_path / "lora.safetensors")
    text = {key for key in names if key.startswith("lora_te")}
    assert text <= comfy_lora_names.text_names(prefixes)
    assert len(text) == 3 * 6 * len(prefixes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_text_encoders_in_diffusers_form_draw_the_same_there(hub, tmp_path, name):
    base, path = hub(name), tmp_path / "lora.safetensors"
    tiny.whole_lora(base, path, alphas=(3.0, 0.7), ranks=(4, 2, 8))
    converted = convert(path, "diffusers")
    theirs = of_diffusers(name, base.folder)
    theirs.load_lora_weights(str(converted.parent), weight_name=converted.name)
    components = set(base.components) - {"vae"}
    ours = models.pipeline(
        base, **{part: models.load(base, part, torch.float32) for part in components}
    )
    count = attaching.attach(ours, base, path)

    compared = 0
    for component in components:
        their_layers = layers_with_lora(theirs, component)
        for key, layer in layers_with_lora(ours, component).items():
            delta = their_layers[key].get_delta_weight("default_0")
            assert torch.equal(delta, layer.get_delta_weight("story"))
            compared += 1
    assert compared == count == len(lora.modules(path))


def layers_with_lora(pipe, component):
    return {
        module_path(component, name): layer
        for name, layer in getattr(pipe, component).named_modules()
        if hasattr(layer, "merge")
    }


def test_a_thumbnail_is_in_the_metadata(mixed, tmp_path):
    Image.new("RGB", (600, 400), "red").save(tmp_path / "picture.png")
    target = tmp_path / "with-picture.safetensors"
    metadata = lora.metadata(convert(mixed, "kohya", target, thumbnail=tmp_path / "picture.png"))
    uri = metadata.pop("modelspec.thumbnail")
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (256, 171)
    assert metadata == lora.metadata(mixed)
