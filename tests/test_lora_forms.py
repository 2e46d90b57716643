"""The registry of forms: each is read whole, one from outside like those of the package."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import convert, import_lora
from storyboard.errors import LoraError
from storyboard.lora import file as lora
from storyboard.lora import forms
from storyboard.lora.assembling import assemble
from storyboard.lora.forms.registry import Form
from storyboard.lora.names import ModulePath, kohya_name
from storyboard.lora.state import LoraState, Place
from storyboard.models import loading as models
from tests import lora_forms
from tests.lora_forms import of_2023, of_diffusers, of_peft

FORMS = {  # base, file, keys, alpha that the file implies
    "course": ("kolors", "epoch.ckpt", lora_forms.course, 4.0),
    "diffsynth": ("sdxl", "raw.safetensors", dict, 4.0),
    "diffusers": (
        "sd15",
        "peft.safetensors",
        lambda state: {
            f"unet.{key.replace('.default', '')}": tensor for key, tensor in state.items()
        },
        4.0,
    ),
    "kohya": ("sd15", "kohya.safetensors", lambda state: lora.to_kohya(state, 2.0), 2.0),
    "ComfyUI's": ("sdxl", "nodes.safetensors", lora_forms.comfyui, 2.0),
    "kohya's own names": ("sdxl", "sdscripts.safetensors", lora_forms.original_blocks, 2.0),
}
TEXT_FORMS = {
    "diffusers": lambda tensors: lora_forms.dotted(tensors, of_diffusers),
    "transformers 5": lambda tensors: lora_forms.dotted(tensors, of_peft),
    "diffusers of 2023": lambda tensors: lora_forms.dotted(tensors, of_2023),
    "kohya": dict,
    "OneTrainer": lambda tensors: lora_forms.prefixed(
        tensors, unet="lora_unet", text_encoder="lora_te1", text_encoder_2="lora_te2"
    ),
    "OneTrainer, shared": lambda tensors: lora_forms.prefixed(
        tensors, unet="unet", text_encoder="clip_l", text_encoder_2="clip_g"
    ),
    "ComfyUI's nodes": lambda tensors: lora_forms.prefixed(
        tensors,
        unet="diffusion_model",
        text_encoder="text_encoders.clip_l.transformer",
        text_encoder_2="text_encoders.clip_g.transformer",
    ),
    "kohya without alpha": lambda tensors: {
        key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")
    },
    "kohya without text_model": lambda tensors: {
        key.replace("text_model_", ""): tensor for key, tensor in tensors.items()
    },
    "kohya, half precision": lambda tensors: {
        key: tensor.half() for key, tensor in tensors.items()
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha", [None, 8.0])
def test_every_form_becomes_the_same_kohya_file(hub, make_settings, tmp_path, form, alpha):
    name, file, rename, implied = FORMS[form]
    state, path = lora_forms.peft_attention(hub(name)), tmp_path / file
    (torch.save if file.endswith("ckpt") else save_file)(rename(state), path)
    tensors = load_file(import_lora(path, make_settings(base=name), alpha))
    expected = lora.to_kohya(state, alpha or implied)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("form", TEXT_FORMS)
@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_every_form_with_text_encoders_becomes_the_same_kohya_file(
    hub, make_settings, tmp_path, form, name
):
    expected = lora_forms.kohya_whole(hub(name), tmp_path / "whole.safetensors")
    save_file(TEXT_FORMS[form](expected), tmp_path / "theirs.safetensors")
    tensors = load_file(import_lora(tmp_path / "theirs.safetensors", make_settings(base=name)))
    assert tensors.keys() == expected.keys()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    tolerance = 1e-3 if "half" in form else 0
    assert all(
        torch.allclose(tensors[key], expected[key], rtol=0, atol=tolerance) for key in tensors
    )


def test_each_components_alphas_are_read_from_pefts_configuration(hub, make_settings, tmp_path):
    configuration = {
        "unet.lora_alpha": 2,
        "text_encoder.lora_alpha": 8,
        "text_encoder.alpha_pattern": {"mlp.fc1": 1.0},
        "text_encoder_2.lora_alpha": 4,
        "text_encoder_2.alpha_pattern": {"^text_model.encoder.layers.0.self_attn.q_proj": 3},
    }
    whole = lora_forms.kohya_whole(hub("sdxl"), tmp_path / "whole.safetensors")
    path = tmp_path / "peft.safetensors"
    metadata = {"lora_adapter_metadata": json.dumps(configuration)}
    save_file(lora_forms.dotted(whole, of_peft), path, metadata)

    tensors = load_file(import_lora(path, make_settings(base="sdxl")))
    usual = {"lora_unet": 2.0, "lora_te1": 8.0, "lora_te2": 4.0}
    for key in tensors:
        name, _, part = key.partition(".")
        if part != "alpha":
            continue
        expected = usual["_".join(name.split("_")[:2])]
        if name.startswith("lora_te1_") and name.endswith("fc1"):
            expected = 1.0
        if name == "lora_te2_text_model_encoder_layers_0_self_attn_q_proj":
            expected = 3.0
        assert float(tensors[key]) == expected


def test_damaged_configuration_is_an_error(hub, make_settings, tmp_path):
    state = FORMS["diffusers"][2](lora_forms.peft_attention(hub("sd15")))
    path = tmp_path / "peft.safetensors"
    for text in ("{", '{"unet.r": 4}', "[]"):
        save_file(state, path, {"lora_adapter_metadata": text})
        with pytest.raises(LoraError, match="damaged metadata .lora_adapter_metadata"):
            import_lora(path, make_settings(base="sd15"))


def test_what_lies_outside_of_sdxls_blocks_is_found_by_kohyas_names(hub, make_settings, tmp_path):
    """LyCORIS and sd-scripts' options for embeddings train them, named as in Stability's UNet."""
    names = {
        "input_blocks_0_0": "conv_in",
        "out_2": "conv_out",
        "time_embed_0": "time_embedding_linear_1",
        "label_emb_0_2": "add_embedding_linear_2",
        "input_blocks_4_0_in_layers_2": "down_blocks_1_resnets_0_conv1",
    }
    layers = {
        name.replace(".", "_"): layer
        for name, layer in models.skeleton(hub("sdxl"), "unet").named_modules()
    }
    tensors = {}
    for original, name in names.items():
        outputs, *inputs = layers[name].weight.shape
        kernel = [1] * (len(inputs) - 1)
        tensors[f"lora_unet_{original}.lora_down.weight"] = torch.ones(2, *inputs)
        tensors[f"lora_unet_{original}.lora_up.weight"] = torch.ones(outputs, 2, *kernel)
    save_file(tensors, tmp_path / "outside.safetensors")
    imported = import_lora(tmp_path / "outside.safetensors", make_settings(base="sdxl"))
    assert lora.modules(imported) == {f"lora_unet_{name}" for name in names.values()}


def test_no_tensors_name_is_of_two_forms_but_a_fallback(hub, tmp_path):
    """So that it does not matter in which order the others are asked."""
    whole = lora_forms.kohya_whole(hub("sdxl"), tmp_path / "whole.safetensors")
    attention = lora_forms.peft_attention(hub("sdxl"))
    files = [rename(whole) for rename in TEXT_FORMS.values()]
    files += [rename(attention) for _, _, rename, _ in FORMS.values()]
    files += [["unet:0:up", "text_encoder:3:down"]]
    for key in {key for file in files for key in file}:
        names = [form.name for form in forms.known() if form.recognises(key)]
        fallbacks = [form.name for form in forms.known() if form.fallback]
        assert names[0] == forms.form_of(key).name
        assert set(names[1:]) <= set(fallbacks)


SLASHES = "made-up"  # a form that only this file knows


def recognises_slashes(key):
    return key.startswith("net/")


def read_slashes(file):
    """``net/mid_block/attentions/0/proj_in/up``; alpha is twice the rank."""
    places = {}
    for key in file.tensors:
        _, *module, part = key.split("/")
        if part in ("up", "down"):
            places[key] = Place(ModulePath("unet", "_".join(module)), part)
    return assemble(file, places, lambda path, rank: 2 * rank)


def write_slashes(state: LoraState):
    tensors = {}
    for path, module in state.modules.items():
        tensors |= {f"net/{path.name}/up": module.up, f"net/{path.name}/down": module.down}
    return tensors, {}


@pytest.fixture
def slashes():
    """The made-up form while a test runs."""
    yield forms.register(Form(SLASHES, recognises_slashes, read_slashes, write_slashes))
    forms.forget(SLASHES)


def test_a_form_from_outside_the_package_is_read_and_written(slashes, hub, make_settings, tmp_path):
    state, settings = lora_forms.peft_attention(hub("sd15")), make_settings(base="sd15")
    sides = {"A": "down", "B": "up"}
    theirs = {
        f"net/{key.split('.lora_')[0].replace('.', '/')}/{sides[key.split('.lora_')[1][0]]}": tensor
        for key, tensor in state.items()
    }
    path = tmp_path / "theirs.safetensors"
    save_file(theirs, path)
    imported = import_lora(path, settings)
    expected = lora.to_kohya(state, 8.0)
    tensors = load_file(imported)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)

    assert convert(imported, SLASHES).name == f"theirs.{SLASHES}.safetensors"
    back = convert(convert(imported, SLASHES), "kohya")
    assert load_file(back).keys() == expected.keys()
    with pytest.raises(LoraError, match=f"one of 'diffsynth', 'diffusers', 'kohya', '{SLASHES}'"):
        convert(imported, "a1111")


def test_what_a_form_leaves_out_is_named(slashes, hub, tmp_path):
    """``read_slashes`` understands no bias: the registry sees that it is not in the LoRA."""
    tensors = {f"net/a/{part}": torch.ones(2, 2) for part in ("up", "down", "bias")}
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(
        LoraError, match=r"1 of the 3 tensors .* \(such as net/a/bias\) are not read by the form"
    ):
        convert(tmp_path / "odd.safetensors", "kohya")


def test_kohyas_prefixes_are_those_of_the_base_at_hand(hub, make_settings, tmp_path):
    """A LoRA without text encoders' marks gets the names of the family that it is imported for."""
    for name, prefix in (("sdxl", "lora_te1_"), ("sd15", "lora_te_")):
        base = hub(name)
        whole = lora_forms.kohya_whole(base, tmp_path / "whole.safetensors")
        assert any(key.startswith(prefix) for key in whole)
        state = forms.read(tmp_path / "whole.safetensors", whole, {}, base.family)
        names = {kohya_name(path, state.family) for path in state.modules}
        assert names == {key.partition(".")[0] for key in whole}
