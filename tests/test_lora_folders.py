"""Folders of peft's: read with their configuration, by the library's own files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import import_lora
from storyboard.errors import LoraError
from storyboard.lora.names import dotted_name, kohya_name, module_path, path_of
from storyboard.models import loading as models
from tests.lora_kinds import LINEAR, normal


def peft_folder(base, config, folder, name="unet"):
    """A folder as peft saves it, and the change to each layer by peft's own code."""
    from peft import get_peft_model

    unet = models.load(base, name, torch.float32)
    model = get_peft_model(unet, config)
    generator = torch.Generator().manual_seed(5)
    for key, parameter in model.named_parameters():
        if any(part in key for part in ("lora_", "hada_", "lokr_")):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    model.save_pretrained(folder)
    return {
        key.removeprefix("base_model.model."): layer.get_delta_weight("default").detach()
        for key, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def pefts(kind):
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    targets = r".*(attn2\.to_q|resnets\.0\.conv1)"
    kinds = {
        "rank-stabilised": lambda: LoraConfig(
            r=4,
            lora_alpha=3,
            use_rslora=True,
            target_modules=targets,
            rank_pattern={"conv1": 2},
            alpha_pattern={r"down_blocks\.0\..*\.to_q": 7, "^mid_block.resnets.0.conv1": 5},
        ),
        "LoHa": lambda: LoHaConfig(
            r=2, alpha=3, target_modules=targets, alpha_pattern={"conv1": 6}
        ),
        "LoHa with cores": lambda: LoHaConfig(
            r=2, alpha=3, target_modules=targets, use_effective_conv2d=True
        ),
        "LoKr": lambda: LoKrConfig(r=2, alpha=3, target_modules=targets),
    }
    return kinds[kind]()


@pytest.mark.parametrize("kind", ["rank-stabilised", "LoHa", "LoHa with cores", "LoKr"])
@pytest.mark.parametrize("given", ["folder", "file"])
def test_pefts_own_folders_are_read_with_their_configuration(
    hub, make_settings, tmp_path, kind, given
):
    base, folder = hub("sd15"), tmp_path / "adapter"
    expected = peft_folder(base, pefts(kind), folder)
    path = folder if given == "folder" else folder / "adapter_model.safetensors"
    tensors = load_file(import_lora(path, make_settings(base="sd15")))
    names = {dotted_name(path_of(key.partition(".")[0]), base.family) for key in tensors}
    assert names == expected.keys() and len(names) > 10
    for name, change in expected.items():
        key = kohya_name(module_path("unet", name), base.family)
        up, down = tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
        scale = float(tensors[f"{key}.alpha"]) / len(down)
        ours = (up.flatten(1) @ down.flatten(1) * scale).view_as(change)
        assert torch.allclose(ours, change, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0"},
            "was trained on Stable Diffusion XL, not on 'sd15': set base='sdxl'",
        ),
        ({"peft_type": "OFT"}, "is of peft's kind OFT, which is not read"),
        ({"use_dora": True}, "peft's use_dora=True"),
        ({"init_lora_weights": "pissa_niter_16"}, "peft's init_lora_weights='pissa_niter_16'"),
        ({"bias": "all"}, "peft's bias='all'"),
        ({"lora_alpha": "8"}, "damaged metadata"),
        ({"lora_alpha": None}, "damaged metadata"),
        ({"lora_alpha": 0}, r"no alpha to draw with \(0 for"),
        ({"lora_alpha": float("nan")}, r"no alpha to draw with \(nan for"),
        ({"lora_alpha": 10**400}, "damaged metadata"),
        ({"alpha_pattern": {"(a+)+$": 3}}, r"names modules by '\(a\+\)\+\$' in alpha_pattern"),
        ({"alpha_pattern": [1]}, "damaged metadata"),
        ({"alpha_pattern": {"(": 1}}, "damaged metadata"),
        ("[" * 100_000, "adapter_config.json is damaged"),
        ("[]", "adapter_config.json is damaged"),
        ("{", "adapter_config.json is damaged"),
    ],
)
def test_a_configuration_that_means_more_or_nothing_is_named(
    hub, make_settings, tmp_path, changes, message
):
    base = hub("sd15")
    tensors = {
        f"base_model.model.{LINEAR}.lora_A.weight": normal(2, 32),
        f"base_model.model.{LINEAR}.lora_B.weight": normal(32, 2),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 8, "r": 2}
    text = changes if isinstance(changes, str) else json.dumps(config | changes)
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(LoraError, match=message) as error:
        import_lora(tmp_path, make_settings(base=base.name))
    assert "\n" not in str(error.value)


def test_pefts_file_without_its_configuration_has_no_alpha(hub, make_settings, tmp_path):
    base, folder = hub("sd15"), tmp_path / "adapter"
    expected = peft_folder(base, pefts("rank-stabilised"), folder)
    (folder / "adapter_config.json").unlink()
    settings = make_settings(base="sd15")
    with pytest.raises(LoraError, match="adapter_config.json names it"):
        import_lora(folder / "adapter_model.safetensors", settings)
    with pytest.raises(LoraError, match="is a folder: give the file adapter_model.safetensors"):
        import_lora(folder, settings)
    imported = import_lora(folder / "adapter_model.safetensors", settings, alpha=4)
    assert len(load_file(imported)) == 3 * len(expected)


def test_a_folder_for_each_component(hub, make_settings, tmp_path):
    """As peft's own examples save a UNet and a text encoder."""
    from peft import LoraConfig

    base = hub("sd15")
    unet = LoraConfig(r=2, lora_alpha=3, target_modules=["to_q"])
    text = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"])
    changes = peft_folder(base, unet, tmp_path / "both" / "unet")
    changes |= peft_folder(base, text, tmp_path / "both" / "text_encoder", "text_encoder")
    tensors = load_file(import_lora(tmp_path / "both", make_settings(base="sd15")))
    assert len(tensors) == 3 * len(changes)
    assert {float(tensors[key]) for key in tensors if key.endswith("alpha") and "_te_" in key} == {
        8
    }
    alone = load_file(import_lora(tmp_path / "both" / "unet", make_settings(base="sd15")))
    assert {float(alone[key]) for key in alone if key.endswith("alpha")} == {3}
