import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import artifacts
from storyboard.errors import LoraError
from storyboard.lora import file as lora_file
from storyboard.lora.names import ModulePath, component_of, kohya_name, module_path, path_of
from storyboard.models import families
from storyboard.models.families import registry


def test_the_lora_is_in_kohyas_form_with_alpha_and_metadata(trained):
    _, _, captions, lora = trained
    tensors = load_file(lora.path)
    names = lora_file.modules(lora.path)
    assert tensors.keys() == {
        f"{name}.{part}"
        for name in names
        for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert all(
        tensors[f"{name}.alpha"] == 16 and tensors[f"{name}.lora_down.weight"].shape[0] == 16
        for name in names
    )
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    facts = lora_file.metadata(lora.path)
    assert (
        facts["ss_network_dim"] == "16"
        and facts["ss_base_model_version"] == "mini"
        and facts["modelspec.architecture"].endswith("/lora")
    )
    assert "二次元" in facts["ss_tag_frequency"] and facts["ss_num_train_images"] == str(
        len(captions)
    )


def test_the_same_weights_give_the_same_file(tmp_path):
    state = {
        "a.to_q.lora_A.default.weight": torch.ones(2, 4),
        "a.to_q.lora_B.default.weight": torch.ones(4, 2),
    }
    facts = {f"fact_{number}": number for number in range(20)}
    for name in "ab":
        lora_file.save(tmp_path / name, state, 2, facts)
    assert artifacts.digest_of_file(tmp_path / "a") == artifacts.digest_of_file(tmp_path / "b")
    content = (tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0 and list(json.loads(content[8 : 8 + length])["__metadata__"]) == sorted(
        facts
    )
    assert load_file(tmp_path / "a")["lora_unet_a_to_q.alpha"] == 2


def test_a_lora_that_learnt_nothing_or_broke_is_refused(tmp_path):
    state = {
        "a.to_q.lora_A.default.weight": torch.ones(2, 4),
        "a.to_q.lora_B.default.weight": torch.zeros(4, 2),
    }
    with pytest.raises(LoraError, match="all zeros"):
        lora_file.save(tmp_path / "l.safetensors", state, 2, {})
    state["a.to_q.lora_B.default.weight"][0, 0] = float("inf")
    with pytest.raises(LoraError, match="not finite"):
        lora_file.save(tmp_path / "l.safetensors", state, 2, {})


def pair(name, **more):
    """One module of kohya's form, rank 2, 4 wide, and what else stands under its name."""
    return {
        f"{name}.lora_down.weight": torch.ones(2, 4),
        f"{name}.lora_up.weight": torch.ones(4, 2),
        **{f"{name}.{part.replace('__', '.')}": tensor for part, tensor in more.items()},
    }


ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"no weights"), "is not a whole safetensors file"),
        (
            lambda path: save_file({"x.lora_A.weight": torch.ones(2)}, path),
            "holds no LoRA in kohya's form: bring it in with import_lora",
        ),
        (
            lambda path: save_file(pair("lora_unet_a") | {"x": torch.ones(1)}, path),
            r"holds 1 tensors beside its LoRA \(such as x\)",
        ),
        (
            lambda path: save_file(
                pair("lora_te_b") | {"lora_unet_a.lora_down.weight": torch.ones(2, 4)}, path
            ),
            r"lacks 1 tensors \(such as lora_unet_a.lora_up.weight\)",
        ),
        (
            lambda path: save_file(pair("lora_unet_a", dora_scale=ONE), path),
            r"is a DoRA \(1 of its 3 tensors",
        ),
        (
            lambda path: save_file(pair("lora_te1_a", lora_mid__weight=ONE), path),
            r"matrices that do not go together, of lora_te1_\w+ \(lora_down.weight \[2, 4\]",
        ),
        (
            lambda path: save_file(pair("lora_unet_a") | {"lora_unet_b.hada_w1_a": ONE}, path),
            r"lacks 3 tensors \(such as lora_unet_b.hada_w1_b\)",
        ),
        (lambda path: save_file({"lora_unet_b.lokr_w1": ONE}, path), "lacks 2 tensors .*lokr_w2_a"),
        (
            lambda path: save_file(
                pair("lora_unet_double_blocks_0_img_attn_proj", dora_scale=ONE), path
            ),
            "is a LoRA for Flux",
        ),
    ],
)
def test_a_file_that_is_no_kohya_lora_is_refused(tmp_path, write, message):
    path = tmp_path / "l.safetensors"
    write(path)
    with pytest.raises(LoraError, match=message):
        lora_file.modules(path)


def test_modules_of_text_encoders_are_named_as_kohya_names_them():
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    kohya = "text_model_encoder_layers_0_self_attn_q_proj"
    cases = {
        ("text_encoder", layer, "sd15"): f"lora_te_{kohya}",
        ("text_encoder", layer.removeprefix("text_model."), "sdxl"): f"lora_te1_{kohya}",
        ("text_encoder_2", layer, "sdxl"): f"lora_te2_{kohya}",
        ("text_encoder_2", "text_projection", "sdxl"): "lora_te2_text_projection",
    }
    for (component, module, family), name in cases.items():
        path = module_path(component, module)
        assert kohya_name(path, families.by_name(family)) == name
        assert path_of(name) == path
    assert path_of("lora_te9_text_model") is None


def test_prefixes_are_those_of_every_family_and_of_the_one_at_hand_first():
    """A family that is registered brings prefixes of its own."""
    other = replace(
        families.by_name("sd15"),
        name="other",
        kohya_prefixes={"unet": "lora_unet_", "text_encoder_2": "lora_te_", "prior": "lora_prior_"},
    )
    assert component_of("lora_prior_a") is None and component_of("lora_te_a") == "text_encoder"
    families.register(other)
    try:
        assert component_of("lora_prior_a") == "prior"
        assert component_of("lora_te_a", other) == "text_encoder_2"
        assert component_of("lora_te_a", families.by_name("sd15")) == "text_encoder"
        assert kohya_name(ModulePath("prior", "a"), families.by_name("sd15")) == "lora_prior_a"
    finally:
        registry.forget("other")
