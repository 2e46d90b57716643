import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import Story, convert, import_lora, render
from storyboard.errors import LoraError
from storyboard.lora import file as lora
from storyboard.lora.conversion import module_name
from storyboard.lora.importing import LEGACY_BLOCKS
from storyboard.models import loading as models
from tests import tiny


@pytest.fixture
def peft(hub):
    """(name) -> a LoRA of rank 4 for the attention of that tiny base, under peft's names."""

    def make(name):
        generator = torch.Generator().manual_seed(0)
        state = {}
        for module, layer in models.skeleton(hub(name), "unet").named_modules():
            if module.endswith(("to_q", "to_k", "to_v", "to_out.0")):
                state[f"{module}.lora_A.default.weight"] = torch.randn(
                    4, layer.in_features, generator=generator
                )
                state[f"{module}.lora_B.default.weight"] = torch.randn(
                    layer.out_features, 4, generator=generator
                )
        return state

    return make


def legacy(state):
    """peft's names -> those of DiffSynth-Studio 1.1.9, as the 2024 course saved them."""
    numbers = {block: number for number, block in LEGACY_BLOCKS.items()}
    found = {}
    for key, tensor in state.items():
        block = next(block for block in numbers if key.startswith(block))
        found[f"blocks.{numbers[block]}{key.removeprefix(block)}".replace("to_out.0", "to_out")] = (
            tensor
        )
    return found


def kohyas_own(state):
    """peft's names -> kohya's form with SDXL's own block names, as sd-scripts writes them."""
    found = {}
    for key, tensor in lora.to_kohya(state, 2.0).items():
        part = key.removeprefix("lora_unet_").split("_")
        if part[0] == "mid":
            name = "_".join(["middle_block", "1", *part[4:]])
        else:
            block, layer = int(part[2]), int(part[4])
            number = block * 3 + layer + 1 if part[0] == "down" else block * 3 + layer
            name = "_".join(
                [
                    "input_blocks" if part[0] == "down" else "output_blocks",
                    str(number),
                    "1",
                    *part[5:],
                ]
            )
        found[f"lora_unet_{name}"] = tensor
    return found


FORMS = {  # base, file, keys, alpha that the file implies
    "course": ("kolors", "epoch.ckpt", legacy, 4.0),
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
    "kohya's own names": ("sdxl", "sdscripts.safetensors", kohyas_own, 2.0),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha", [None, 8.0])
def test_every_form_becomes_the_same_kohya_file(peft, make_settings, tmp_path, form, alpha):
    name, file, rename, implied = FORMS[form]
    state, path = peft(name), tmp_path / file
    (torch.save if file.endswith("ckpt") else save_file)(rename(state), path)
    found = load_file(import_lora(path, make_settings(base=name), alpha))
    expected = lora.to_kohya(state, alpha or implied)
    assert found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in found
    )


def test_an_imported_lora_draws(peft, make_settings, tmp_path):
    save_file(peft("sd15"), tmp_path / "raw.safetensors")
    settings = make_settings(base="sd15")
    story = Story(["a girl"])
    ours = render(story, settings, import_lora(tmp_path / "raw.safetensors", settings))
    assert ours.paths[0].read_bytes() != render(story, settings, None).paths[0].read_bytes()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda state: (
                state
                | {"lora_te_text_model_a.lora_down.weight": torch.ones(4, 4), "x": torch.ones(1)}
            ),
            "1 of the 258 tensors",
        ),
        (
            lambda state: {
                key.replace("attentions.0", "attentions.7"): tensor for key, tensor in state.items()
            },
            r"\d+ of the \d+ modules in .* have no place in the base 'sd15'",
        ),
        (lambda state: {"a": torch.ones(1)}, "1 of the 1 tensors"),
    ],
)
def test_what_does_not_fit_is_counted(peft, make_settings, tmp_path, spoil, said):
    save_file(spoil(peft("sd15")), tmp_path / "odd.safetensors")
    with pytest.raises(LoraError, match=said) as error:
        import_lora(tmp_path / "odd.safetensors", make_settings(base="sd15"))
    assert "\n" not in str(error.value)


def test_an_old_file_that_holds_code_is_not_run(hub, make_settings, tmp_path):
    class Bomb:
        def __reduce__(self):
            return print, ("boom",)

    hub("sd15")
    torch.save({"a": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(LoraError, match="holds more than tensors"):
        import_lora(tmp_path / "bomb.ckpt", make_settings(base="sd15"))
    (tmp_path / "cut.safetensors").write_bytes(b"12345678{}")
    with pytest.raises(LoraError, match="not a whole LoRA file"):
        import_lora(tmp_path / "cut.safetensors", make_settings(base="sd15"))
    with pytest.raises(LoraError, match="There is no LoRA at"):
        import_lora(tmp_path / "none.safetensors", make_settings(base="sd15"))


@pytest.fixture
def whole(hub, tmp_path):
    """(name) -> the tensors of a LoRA for the UNet and the text encoders of that tiny base, alpha equal to rank."""

    def make(name):
        tiny.whole_lora(hub(name), tmp_path / "whole.safetensors", alphas=(4.0,))
        return load_file(tmp_path / "whole.safetensors")

    return make


def dotted(tensors, rename):
    """kohya's form without alpha -> other keys, by ``rename(component, module, up or down)``."""
    found = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        if part != "alpha":
            found[
                rename(
                    lora.component_of(name),
                    module_name(name),
                    part.removeprefix("lora_").removesuffix(".weight"),
                )
            ] = tensor
    return found


def of_2023(component, module, side):
    """As diffusers 0.17 to 0.21 saved: attention by its processors, what else by its layers."""
    old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    head, _, last = module.rpartition(".")
    if component == "unet" and last == "to_q":
        return f"unet.{head}.processor.to_q_lora.{side}.weight"
    if last in old:
        return f"{component}.{head}.{old[last]}_lora.{side}.weight"
    return f"{component}.{module}.{'lora' if component == 'unet' else 'lora_linear_layer'}.{side}.weight"


def of_diffusers(component, module, side):
    return f"{component}.{module}.lora_{'A' if side == 'down' else 'B'}.weight"


def of_peft(component, module, side):
    return of_diffusers(component, module.removeprefix("text_model."), side)


TEXT_FORMS = {
    "diffusers": lambda tensors: dotted(tensors, of_diffusers),
    "transformers 5": lambda tensors: dotted(tensors, of_peft),
    "diffusers of 2023": lambda tensors: dotted(tensors, of_2023),
    "kohya": dict,
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


@pytest.mark.parametrize("form", TEXT_FORMS)
@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_every_form_with_text_encoders_becomes_the_same_kohya_file(
    whole, make_settings, tmp_path, form, name
):
    tensors = whole(name)
    save_file(TEXT_FORMS[form](tensors), tmp_path / "theirs.safetensors")
    found = load_file(import_lora(tmp_path / "theirs.safetensors", make_settings(base=name)))
    assert found.keys() == tensors.keys() and {tensor.dtype for tensor in found.values()} == {
        torch.float32
    }
    assert all(
        torch.allclose(found[key], tensors[key], rtol=0, atol=0 if "half" not in form else 1e-3)
        for key in found
    )


def test_each_components_alphas_are_read_from_pefts_configuration(whole, make_settings, tmp_path):
    configuration = {
        "unet.lora_alpha": 2,
        "text_encoder.lora_alpha": 8,
        "text_encoder.alpha_pattern": {"mlp.fc1": 1.0},
        "text_encoder_2.lora_alpha": 4,
        "text_encoder_2.alpha_pattern": {"^text_model.encoder.layers.0.self_attn.q_proj": 3},
    }
    save_file(
        dotted(whole("sdxl"), of_peft),
        tmp_path / "peft.safetensors",
        {"lora_adapter_metadata": json.dumps(configuration)},
    )
    found = load_file(import_lora(tmp_path / "peft.safetensors", make_settings(base="sdxl")))
    alphas = {
        key.removesuffix(".alpha"): float(tensor)
        for key, tensor in found.items()
        if key.endswith(".alpha")
    }
    for name, alpha in alphas.items():
        special = (
            1.0
            if name.startswith("lora_te1_") and name.endswith("fc1")
            else 3.0
            if name == "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
            else None
        )
        assert alpha == (
            special
            or {"lora_unet": 2.0, "lora_te1": 8.0, "lora_te2": 4.0}["_".join(name.split("_")[:2])]
        )


def test_what_lies_outside_of_sdxls_blocks_is_found_by_kohyas_names(hub, make_settings, tmp_path):
    """LyCORIS and sd-scripts' options for embeddings train them, named as Stability's UNet has them."""
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
    for name, place in names.items():
        outputs, *inputs = layers[place].weight.shape
        tensors |= {
            f"lora_unet_{name}.lora_down.weight": torch.ones(2, *inputs),
            f"lora_unet_{name}.lora_up.weight": torch.ones(outputs, 2, *[1] * (len(inputs) - 1)),
        }
    save_file(tensors, tmp_path / "outside.safetensors")
    assert lora.modules(
        import_lora(tmp_path / "outside.safetensors", make_settings(base="sdxl"))
    ) == {f"lora_unet_{place}" for place in names.values()}


def first_trainer(base, path, targets=("CrossAttention", "Attention", "GEGLU"), words=()):
    """A file as cloneofsimo/lora's save_safeloras_with_embeds writes it, by the walk of lora_diffusion/lora.py.

    A block of diffusers 0.11 had attention, the feed-forward, then cross-attention; one of transformers 4.25 key, value,
    query, output. Returns the tensors by kohya's name of each layer.
    """
    tensors, facts, expected = (
        {},
        {"unet": json.dumps(targets), "text_encoder": '["CLIPAttention"]'},
        {},
    )
    unet, text = models.skeleton(base, "unet"), models.skeleton(base, "text_encoder")
    walk = []
    for part in ("down_blocks", "up_blocks", "mid_block"):
        for name, module in getattr(unet, part).named_modules():
            if type(module).__name__ == "BasicTransformerBlock":
                walk += [
                    ("unet", f"{part}.{name}.{layer}", module.get_submodule(layer))
                    for branch in (
                        ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"],
                        ["ff.net.0.proj"],
                        ["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"],
                    )
                    for layer in branch
                ]
    for name, module in text.named_modules():
        if type(module).__name__ == "CLIPAttention":
            walk += [
                ("text_encoder", f"{name}.{layer}", getattr(module, layer))
                for layer in ("k_proj", "v_proj", "q_proj", "out_proj")
            ]
    numbers = {"unet": 0, "text_encoder": 0}
    generator = torch.Generator().manual_seed(2)
    for component, name, layer in walk:
        key = f"{component}:{numbers[component]}"
        tensors[f"{key}:up"], tensors[f"{key}:down"] = (
            torch.randn(layer.out_features, 1, generator=generator),
            torch.randn(1, layer.in_features, generator=generator),
        )
        facts[f"{key}:rank"] = "1"
        expected[lora.kohya_name(component, name, sdxl=False)] = (
            tensors[f"{key}:up"],
            tensors[f"{key}:down"],
        )
        numbers[component] += 1
    tensors |= {word: torch.randn(32, generator=generator) for word in words}
    save_file(tensors, path, facts | dict.fromkeys(words, "<embed>"))
    return expected


def test_the_first_trainers_form_is_read_in_its_order(hub, make_settings, tmp_path, capsys):
    path = tmp_path / "first.safetensors"
    expected = first_trainer(hub("sd15"), path)
    found = load_file(import_lora(path, make_settings(base="sd15")))
    assert len(expected) == 144 + 12 and {key.partition(".")[0] for key in found} == expected.keys()
    for name, (up, down) in expected.items():
        assert (
            torch.equal(found[f"{name}.lora_up.weight"], up)
            and torch.equal(found[f"{name}.lora_down.weight"], down)
            and found[f"{name}.alpha"] == 1
        )
    assert "left out" not in capsys.readouterr().out

    first_trainer(hub("sd15"), path, words=("<s1>", "<s2>"))
    import_lora(path, make_settings(base="sd15"))
    assert (
        "also brings 2 embeddings of words of its own (<s1>, <s2>), which are left out"
        in capsys.readouterr().out
    )
    for call in (lambda: convert(path, "kohya"), lambda: lora.modules(path)):
        with pytest.raises(
            LoraError,
            match=r"also brings 2 embeddings .* \(such as <s1>\): bring it in with import_lora",
        ):
            call()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda tensors, facts: facts.update(
                unet='["ResnetBlock2D", "CrossAttention", "GEGLU"]'
            ),
            "for 144 layers of CrossAttention, GEGLU, ResnetBlock2D in unet",
        ),
        (
            lambda tensors, facts: [tensors.pop(key) for key in ("unet:143:up", "unet:143:down")],
            "for 143 layers",
        ),
        (
            lambda tensors, facts: tensors.update(
                {f"unet:900:{side}": tensors.pop(f"unet:143:{side}") for side in ("up", "down")}
            ),
            "for 144 layers",
        ),
        (lambda tensors, facts: facts.clear(), "unnamed classes in unet"),
        (lambda tensors, facts: tensors.update({"x:y": torch.ones(1)}), "whose order is not known"),
        (
            lambda tensors, facts: tensors.pop("text_encoder:3:up"),
            r"lacks 1 tensors \(such as lora_te_text_model_encoder_layers_0_self_attn_out_proj.lora_up.weight\)",
        ),
    ],
)
def test_the_first_trainers_form_in_another_order_is_refused(
    hub, make_settings, tmp_path, spoil, said
):
    first_trainer(hub("sd15"), tmp_path / "first.safetensors")
    tensors, facts = (
        load_file(tmp_path / "first.safetensors"),
        lora.metadata(tmp_path / "first.safetensors"),
    )
    spoil(tensors, facts)
    save_file(tensors, tmp_path / "odd.safetensors", facts)
    with pytest.raises(LoraError, match=said):
        import_lora(tmp_path / "odd.safetensors", make_settings(base="sd15"))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "is a DoRA"),
        (
            "lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight",
            "is a LoCon with a Tucker core",
        ),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a", "is a LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "is a LoKr"),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", "is a DoRA"),
        (
            "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight",
            "is a LoRA for Stable Diffusion 3",
        ),
        ("transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight", "is a LoRA for Flux"),
        (
            "lora_unet_transformer_blocks_0_attn_to_k.lora_down.weight",
            "is a LoRA for a diffusion transformer",
        ),
    ],
)
def test_other_kinds_and_families_are_refused_by_name(whole, make_settings, tmp_path, key, said):
    save_file(whole("sd15") | {key: torch.ones(2, 2)}, tmp_path / "odd.safetensors")
    with pytest.raises(LoraError, match=said):
        import_lora(tmp_path / "odd.safetensors", make_settings(base="sd15"))


def test_a_lora_of_another_base_is_not_given_this_ones_name(hub, make_settings, tmp_path):
    """SDXL's UNet and Kolors' have the same names and shapes: only the file's metadata tell."""
    hub("kolors")
    tiny.lora(hub("sdxl"), tmp_path / "sdxl.safetensors")
    with pytest.raises(LoraError, match="was trained on the base 'sdxl', not on 'kolors'"):
        import_lora(tmp_path / "sdxl.safetensors", make_settings(base="kolors"))
    tiny.lora(hub("sd15"), tmp_path / "sd15.safetensors")
    wide = {
        key: torch.ones(2, 48) if key.endswith("lora_down.weight") else tensor
        for key, tensor in load_file(tmp_path / "sd15.safetensors").items()
    }
    save_file(wide, tmp_path / "sd21.safetensors", {"ss_base_model_version": "sd_v2"})
    with pytest.raises(
        LoraError, match=r"does not fit the base 'sd15' \(lora_unet_.* is \[2, 48\]"
    ):
        import_lora(tmp_path / "sd21.safetensors", make_settings(base="sd15"))
    assert not (tmp_path / "out" / "imported").exists()


def test_a_file_is_read_by_its_content_not_by_its_name(whole, make_settings, tmp_path, monkeypatch):
    settings, tensors = make_settings(base="sd15"), whole("sd15")
    for name in ("UPPER.SAFETENSORS", "no_suffix", "renamed.ckpt", "名" * 80 + ".safetensors"):
        shutil.copy(tmp_path / "whole.safetensors", tmp_path / name)
        assert load_file(import_lora(tmp_path / name, settings)).keys() == tensors.keys()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert import_lora("~/whole.safetensors", settings).is_file()


def test_two_files_of_one_name_become_two(whole, make_settings, tmp_path):
    settings, tensors = make_settings(base="sd15"), whole("sd15")
    first = import_lora(tmp_path / "whole.safetensors", settings)
    content = first.read_bytes()
    save_file({key: tensor * 2 for key, tensor in tensors.items()}, tmp_path / "whole.safetensors")
    second = import_lora(tmp_path / "whole.safetensors", settings)
    assert (
        first != second
        and first.read_bytes() == content
        and second == import_lora(tmp_path / "whole.safetensors", settings)
    )


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda path: path.write_text("<!DOCTYPE html><html>log in</html>"),
            "is a web page, not a LoRA",
        ),
        (
            lambda path: path.write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
            ),
            "is a Git LFS pointer",
        ),
        (lambda path: torch.save([torch.ones(2, 2)], path), "holds no LoRA"),
        (lambda path: torch.save(torch.ones(2, 2), path), "holds no LoRA"),
        (lambda path: torch.save({"epoch": 3, "state_dict": torch.ones(2)}, path), "holds no LoRA"),
        (
            lambda path: torch.save(
                {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 32)}}, path
            ),
            r"is an embedding \(textual inversion\)",
        ),
        (
            lambda path: save_file({"emb_params": torch.ones(2, 32)}, path),
            r"is an embedding \(textual inversion\)",
        ),
        (
            lambda path: save_file({"<s1>": torch.ones(32)}, path),
            r"is an embedding \(textual inversion\)",
        ),
        (lambda path: save_file({}, path), "holds no LoRA"),
        (lambda path: path.mkdir(), "There is no LoRA at"),
    ],
)
def test_what_is_no_lora_is_said(hub, make_settings, tmp_path, write, said):
    hub("sd15")
    write(tmp_path / "odd.ckpt")
    with pytest.raises(LoraError, match=said) as error:
        import_lora(tmp_path / "odd.ckpt", make_settings(base="sd15"))
    assert "\n" not in str(error.value)


def test_half_a_module_and_values_that_are_not_finite_are_refused(whole, make_settings, tmp_path):
    tensors = whole("sd15")
    up = next(key for key in tensors if key.endswith("lora_up.weight"))
    save_file(
        {key: tensor for key, tensor in tensors.items() if key != up}, tmp_path / "half.safetensors"
    )
    with pytest.raises(LoraError, match="lacks 1 tensors"):
        import_lora(tmp_path / "half.safetensors", make_settings(base="sd15"))
    tensors[up][0, 0] = float("inf")
    save_file(tensors, tmp_path / "inf.safetensors")
    with pytest.raises(LoraError, match="not finite"):
        import_lora(tmp_path / "inf.safetensors", make_settings(base="sd15"))
