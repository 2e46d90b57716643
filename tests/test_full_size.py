"""Kolors, SDXL and SD 1.5 at full size, on the meta device: python -m pytest -m full."""

import pytest
import torch
from diffsynth.core.loader.file import hash_state_dict_keys
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import full_size_models as full_size
from storyboard.models import bases
from tests.test_real_layouts import HASHES

pytestmark = pytest.mark.full
MODULES = {"kolors": 560, "sdxl": 560, "sd15": 128}  # of a LoRA on attention
PARAMETERS = {
    "kolors": 2.58e9,
    "sdxl": 2.567e9,
    "sd15": 0.8595e9,
}  # as their model cards say, rounded
FORWARD = {
    "kolors": 6.96e12,
    "sdxl": 6.76e12,
    "sd15": 0.80e12,
}  # floating point operations of a picture of the base's own size
SIDE = {"kolors": 128, "sdxl": 128, "sd15": 64}  # of its latents
TOKENS = {"kolors": 256, "sdxl": 77, "sd15": 77}


def on_meta(make):
    with torch.device("meta"):
        return make()


@pytest.fixture(scope="module", params=["kolors", "sdxl", "sd15"])
def network(request):
    return request.param, on_meta(lambda: full_size.unet(request.param))


def test_names_and_shapes_are_the_real_files_by_hash(network):
    name, unet = network
    assert hash_state_dict_keys(unet.state_dict()) == HASHES[f"unet of {name}"][1]


def test_the_vae_is_the_real_file_by_hash():
    assert (
        hash_state_dict_keys(on_meta(lambda: full_size.vae("sdxl")).state_dict())
        == HASHES["vae of sdxl"][1]
    )


def test_kolors_text_encoder_is_as_large_as_the_hub_says():
    tensors = on_meta(full_size.chatglm).state_dict()
    assert (
        2 * sum(tensor.numel() for tensor in tensors.values()) == 12_487_168_064
        and len(tensors) == 200
    )


def test_parameters_are_as_many_as_the_cards_say(network):
    name, unet = network
    assert sum(parameter.numel() for parameter in unet.parameters()) == pytest.approx(
        PARAMETERS[name], rel=2e-3
    )


def test_a_forward_pass_is_the_work_that_the_documents_count_with(network):
    name, unet = network
    config, side = unet.config, SIDE[name]
    meta = {"device": "meta"}
    named = {}
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        named["added_cond_kwargs"] = {
            "text_embeds": torch.empty(1, pooled, **meta),
            "time_ids": torch.empty(1, 6, **meta),
        }
    words = torch.empty(
        1, TOKENS[name], config.encoder_hid_dim or config.cross_attention_dim, **meta
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(torch.empty(1, 4, side, side, **meta), torch.ones(1, **meta), words, **named)
    assert counter.get_total_flops() == pytest.approx(FORWARD[name], rel=0.02)


def test_a_lora_has_all_modules_of_attention():
    for name, count in MODULES.items():
        unet = on_meta(lambda: full_size.unet(name))  # noqa: B023
        targets = list(bases.get(name).lora_targets)
        with torch.device("meta"):
            inject_adapter_in_model(LoraConfig(r=16, target_modules=targets), unet)
        assert sum(key.endswith("lora_A.default.weight") for key in unet.state_dict()) == count
