"""What hubs really have: names by their published rules, in small through all of Storyboard."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from storyboard import Panel, Reference, Story, render, train
from storyboard.models import bases, weights
from storyboard.models import loading as models
from storyboard.rendering import controlnet
from storyboard.scoring import metric_models
from tests import layouts, published, published_configs, published_encoders
from tests.conftest import picture

NAMES = ("kolors", "sdxl", "sd15")
FULL_VAE = published_configs.VAE | {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}
FULL_15 = published_configs.UNET_15 | {
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
}
FULL_XL = published_configs.UNET_XL | {
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
}
FULL_KOLORS = FULL_XL | {"encoder_hid_dim": 4096, "projection_class_embeddings_input_dim": 5632}
FULL_CHATGLM = {
    "num_layers": 28,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "multi_query_group_num": 2,
    "padded_vocab_size": 65024,
}
WORDS = {"vocab_size": 49408, "max_position_embeddings": 77}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12} | WORDS
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
} | WORDS
CLIP_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "projection_dim": 1024,
} | WORDS
VISION_H = CLIP_G | {"image_size": 224, "patch_size": 14, "projection_dim": 1024}
VISION_L = CLIP_H | {"image_size": 224, "patch_size": 14, "projection_dim": 768}


def of_open_clip(shapes):
    """Names and shapes by OpenCLIP's rule."""
    there = published_encoders.open_clip(
        {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    )
    return {name: tuple(tensor.shape) for name, tensor in there.items()}


HASHES = {  # of names and shapes in the real files, as DiffSynth's registry has them
    "unet of sd15": (published.unet(FULL_15), "025a4b86a84829399d89f613e580757b"),
    "unet of sdxl": (published.unet(FULL_XL), "142b114f67f5ab3a6d83fb5788f12ded"),
    "unet of kolors": (
        published.unet(FULL_KOLORS),
        "52817e4fdd89df154f02749ca6f692ac",
    ),  # there until December 2025
    "vae of sd15": (published.vae(FULL_VAE, old=True), "f86d5683ed32433be8ca69969c67ba69"),
    "vae of sdxl": (published.vae(FULL_VAE), "13115dd45a6e1c39860f91ab073b8a78"),
    "clip of sd15": (
        published_encoders.clip_text(CLIP_L, position_ids=True),
        "ffd1737ae9df7fd43f5fbed653bdad67",
    ),
    "clip of sdxl": (published_encoders.clip_text(CLIP_L), "94eefa3dac9cec93cb1ebaf1747d7b78"),
    "second clip of sdxl": (
        published_encoders.clip_text(CLIP_G, projection=True),
        "98cc34ccc5b54ae0e56bdea8688dcd5a",
    ),
    "clip h": (published_encoders.clip(CLIP_H, VISION_H), "b5e2c0bfcbf4085ccdb2feb8f0ba408a"),
    "hps v2": (
        of_open_clip(published_encoders.clip(CLIP_H, VISION_H)),
        "f79e72cec8ae5a540cff0304bfb21b00",
    ),
    "aesthetic": (published_encoders.aesthetic(VISION_L), "306981222ec94302794e07cf676c84cc"),
}


@pytest.mark.parametrize("what", HASHES)
def test_real_layouts_have_the_names_of_the_real_files_by_hash(what):
    from diffsynth.configs import MODEL_CONFIGS
    from diffsynth.core.loader.file import hash_state_dict_keys

    shapes, known = HASHES[what]
    assert (
        hash_state_dict_keys(
            {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        )
        == known
    )
    assert known in {entry["model_hash"] for entry in MODEL_CONFIGS} or what == "unet of kolors"


def test_real_layouts_of_kolors_are_as_large_as_the_hub_says():
    """The index of its text encoder says 12,487,168,064 bytes; its ControlNets are of 2.53 GB."""

    def size(shapes):
        return 2 * sum(map(math.prod, shapes.values()))

    text = published_encoders.chatglm(FULL_CHATGLM)
    assert len(text) == 200 and size(text) == 12_487_168_064
    beside = published.controlnet(
        FULL_KOLORS | {"conditioning_embedding_out_channels": [16, 32, 96, 256]}
    )
    assert round(size(beside) / 1e9, 2) == 2.53


@pytest.fixture(scope="module")
def real_root(tmp_path_factory):
    """A folder laid out as the hubs are: bases, ControlNets for edges, IP-Adapters."""
    root = tmp_path_factory.mktemp("real")
    for name in NAMES:
        layouts.build(name, root)
        layouts.controlnet(name, root / bases.get(name).controlnets["edges"].ids[0])
        layouts.ip_adapter(name, root)
    return root


@pytest.fixture
def real(real_root, monkeypatch):
    """name -> that base as it is published."""
    monkeypatch.setenv("STORYBOARD_HUB", str(real_root))
    return lambda name: weights.fetch(bases.get(name))


@pytest.mark.parametrize("name", NAMES)
def test_real_layouts_are_read_as_their_libraries_read_them_parity(real, name):
    base = real(name)
    for component in base.components:
        kind, variant = models.class_of(base, component), base.variant(component)
        theirs = kind.from_pretrained(base.folder / component, variant=variant, dtype=torch.float32)
        ours, expected = (
            models.load(base, component, torch.float32).state_dict(),
            theirs.state_dict(),
        )
        assert ours.keys() == expected.keys() and all(
            torch.equal(ours[key], expected[key].float()) for key in ours
        )


def test_real_layout_of_the_old_vae_is_read_by_its_old_names(real):
    """Not by what diffusers makes of it: ``proj_attn`` projects the output."""
    base = real("sd15")
    (file,) = base.weight_files("vae")
    old, ours = load_file(file), models.load(base, "vae", torch.float32).state_dict()
    for place in ("encoder.mid_block.attentions.0", "decoder.mid_block.attentions.0"):
        for before, now in (
            ("query", "to_q"),
            ("key", "to_k"),
            ("value", "to_v"),
            ("proj_attn", "to_out.0"),
        ):
            assert torch.equal(ours[f"{place}.{now}.weight"], old[f"{place}.{before}.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_real_layouts_train_and_draw_with_everything_beside_the_base(
    real, captions, make_settings, tmp_path, name
):
    """Two steps; then panels with LoRA, with ControlNet and with IP-Adapter, all different."""
    real(name)
    picture(3).save(tmp_path / "sketch.png")
    plain = Story(["a girl with (purple:1.3) hair", "二次元，女孩"], "blurry")
    settings = make_settings(base=name, train_steps=2, train_batch_size=2)
    lora = train(captions, settings, plain)
    assert len(lora.losses) == 2 and all(map(math.isfinite, lora.losses))

    def drawn(story, settings):
        paths = render(story, settings, lora).paths
        return np.stack([np.asarray(Image.open(path).convert("RGB"), int) for path in paths])

    first = drawn(plain, settings)
    guided = Story(
        [Panel(panel.prompt, reference=Reference(tmp_path / "sketch.png")) for panel in plain],
        "blurry",
    )
    adapted = settings.but(character="ip-adapter", character_picture=str(tmp_path / "sketch.png"))
    assert np.abs(first - drawn(guided, settings)).max() > 2
    assert np.abs(first - drawn(plain, adapted)).max() > 2


@pytest.mark.parametrize("name", NAMES)
def test_real_layouts_of_controlnets_are_accepted_whatever_their_class_is_called(
    real, real_root, name
):
    base = real(name)
    folder = real_root / base.controlnets["edges"].ids[0]
    controlnet.check(base, folder)
    file = load_file(folder / "diffusion_pytorch_model.safetensors")
    loaded = controlnet.load(folder, torch.float16).state_dict()
    assert loaded.keys() == file.keys() and all(torch.equal(loaded[key], file[key]) for key in file)


@pytest.fixture
def scorers(tmp_path):
    """Folders of a CLIP by transformers' names and by OpenCLIP's, as HPS v2 is; its tensors."""
    tensors = layouts.clip(tmp_path / "CLIP")
    layouts.clip(tmp_path / "HPSv2", open_clip=True)
    return tmp_path / "CLIP", tmp_path / "HPSv2", tensors


def test_real_layouts_of_scorers_score_by_the_weights_in_their_files(scorers):
    by_transformers, by_open_clip, tensors = scorers
    shown = ["a cat", "a dog"], [picture(0), picture(1)]
    expected = metric_models.load_hps(by_transformers, "cpu")
    attention = "text_model.encoder.layers.0.self_attn.k_proj.weight"
    for part in (
        "text_projection.weight",
        "vision_model.encoder.layers.1.mlp.fc1.weight",
        attention,
    ):
        for folder in (by_transformers, by_open_clip):
            assert torch.equal(
                metric_models.load_hps(folder, "cpu").model.model.state_dict()[part], tensors[part]
            )
    assert metric_models.load_hps(by_open_clip, "cpu").score(*shown) == pytest.approx(
        expected.score(*shown), abs=1e-4
    )
    for load in (metric_models.load_clip, metric_models.load_pickscore):
        assert load(by_transformers, "cpu").score(*shown) == load(by_transformers, "cpu").score(
            *shown
        )


def test_real_layouts_of_aesthetics_leave_nothing_to_chance():
    """At full size on the meta device: DiffSynth's converter gives all that its class has."""
    from accelerate import init_empty_weights
    from diffsynth.models.aesthetic import AestheticModel
    from diffsynth.utils.state_dict_converters.image_metrics import (
        ImageMetricsAestheticStateDictConverter,
    )

    with init_empty_weights():
        expected = {
            name: tuple(tensor.shape) for name, tensor in AestheticModel().state_dict().items()
        }
    assert (
        ImageMetricsAestheticStateDictConverter(published_encoders.aesthetic(VISION_L)) == expected
    )
