"""What is no plain LoRA of a known family is refused: by its kind, a tensor and what to do."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import convert, import_lora, merge
from storyboard.errors import LoraError
from storyboard.lora import attaching, fitting, forms, origin
from storyboard.lora import file as lora
from tests import lora_forms, tiny

KINDS = {  # what stands under a module's name -> how the refusal calls the file
    "dora_scale": "is a DoRA",
    "lora_magnitude_vector": "is a DoRA",
    "oft_blocks": "is an OFT",
    "a1.weight": "is a GLoRA",
    "on_input": r"is an \(IA\)3",
    "diff": "is a file of whole weight differences",
    "diff_b": "is a file of whole weight differences",
    "w_norm": "is a file of whole weight differences",
    "lora_up.bias": "is a LoRA with biases",
    "reshape_weight": "tensors .* not those of a LoRA|tensors beside its LoRA",
    "bias": "tensors .* not those of a LoRA|tensors beside its LoRA",
}


@pytest.mark.slow
@pytest.mark.parametrize("part", KINDS)
@pytest.mark.parametrize(
    "module", ["lora_unet_conv_in", "lora_te_text_model_encoder_layers_0_mlp_fc1"]
)
def test_no_path_drops_a_tensor_of_another_kind(hub, make_settings, tmp_path, part, module):
    """Convert into each form, import, merge, attach and the questions asked before drawing."""
    settings, base, path = make_settings(base="sd15"), hub("sd15"), tmp_path / "odd.safetensors"
    whole = lora_forms.kohya_whole(base, path)
    save_file(whole | {f"{module}.{part}": torch.ones(1)}, path)
    paths = (
        *(lambda form=form: convert(path, form) for form in forms.writers()),
        lambda: import_lora(path, settings),
        lambda: merge(path, settings),
        lambda: fitting.check(base, path),
        lambda: attaching.attach(None, base, path),
        lambda: lora.modules(path),
        lambda: lora.has_text_encoder(path),
    )
    for call in paths:
        with pytest.raises(LoraError, match=KINDS[part]) as error:
            call()
        assert f"such as {module}.{part}" in str(error.value)
        assert "give a plain LoRA" in str(error.value)
    assert [each.name for each in tmp_path.glob("odd*")] == ["odd.safetensors"]


def test_no_dotted_form_drops_a_tensor_of_another_kind(hub, make_settings, tmp_path):
    path = tmp_path / "odd.safetensors"
    attention = lora_forms.peft_attention(hub("sd15"))
    module = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    for part, message in KINDS.items():
        for form in ("diffsynth", "diffusers"):
            prefix = "unet." if form == "diffusers" else ""
            renamed = {f"{prefix}{key}": tensor for key, tensor in attention.items()}
            odd = f"{prefix}{module}.{part}"
            save_file(renamed | {odd: torch.ones(1)}, path)
            for call in (
                lambda: convert(path, "kohya"),
                lambda: import_lora(path, make_settings(base="sd15")),
            ):
                with pytest.raises(LoraError, match=message) as error:
                    call()
                assert f"such as {odd}" in str(error.value)


def test_tensors_beside_a_state_dict_are_not_dropped(hub, make_settings, tmp_path):
    attention = lora_forms.peft_attention(hub("sd15"))
    path = tmp_path / "trainer.ckpt"
    torch.save({"state_dict": attention, "epoch": 3}, path)
    assert lora.modules(import_lora(path, make_settings(base="sd15")))
    torch.save({"state_dict": attention, "embedding": torch.ones(2)}, path)
    with pytest.raises(LoraError, match=r"beside its state_dict \(such as embedding\)"):
        import_lora(path, make_settings(base="sd15"))


def test_a_module_in_two_forms_is_refused(hub, tmp_path):
    attention = lora_forms.peft_attention(hub("sd15"))
    path = tmp_path / "twice.safetensors"
    kohya = {key: tensor.clone() for key, tensor in lora.to_kohya(attention, 4.0).items()}
    save_file(attention | kohya, path)
    with pytest.raises(LoraError, match="twice, in two forms"):
        convert(path, "kohya")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "is a DoRA"),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", "is a DoRA"),
        ("model.diffusion_model.input_blocks.0.0.weight", "is a whole checkpoint"),
        ("controlnet_cond_embedding.conv_in.weight", "is a ControlNet"),
        ("image_proj.norm.weight", "is an IP-Adapter"),
        ("diffusion_model.layers.0.attention.to_q.lora_A.weight", "is a LoRA for Z-Image"),
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
def test_other_kinds_and_families_are_refused_by_name(hub, make_settings, tmp_path, key, message):
    save_file(
        lora_forms.kohya_whole(hub("sd15"), tmp_path / "whole.safetensors")
        | {key: torch.ones(2, 2)},
        tmp_path / "odd.safetensors",
    )
    with pytest.raises(LoraError, match=message):
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
    settings = make_settings(base="sd15")
    save_file(wide, tmp_path / "sd21.safetensors", {"ss_base_model_version": "sd_v2"})
    with pytest.raises(LoraError, match="was trained on Stable Diffusion 2, not on 'sd15'"):
        import_lora(tmp_path / "sd21.safetensors", settings)
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(
        LoraError, match=r"does not fit the base 'sd15' \(lora_unet_.* is \[2, 48\]"
    ):
        import_lora(tmp_path / "wide.safetensors", settings)
    assert not (tmp_path / "out" / "imported").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made_for", "base", "message"),
    [
        ("sd15", "kolors", "it is for Stable Diffusion 1.5 or 2, set base='sd15'"),
        ("sdxl", "kolors", "it is for Stable Diffusion XL, set base='sdxl'"),
        ("sdxl", "sd15", "it is for Stable Diffusion XL, set base='sdxl'"),
        ("sd15", "sdxl", "it is for Stable Diffusion 1.5 or 2, set base='sd15'"),
    ],
)
def test_what_it_is_for_is_told_by_its_names(hub, make_settings, tmp_path, made_for, base, message):
    hub(base)
    tiny.whole_lora(hub(made_for), tmp_path / "theirs.safetensors", facts=False)
    with pytest.raises(LoraError, match=message):
        import_lora(tmp_path / "theirs.safetensors", make_settings(base=base))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"modelspec.architecture": "flux-1-dev/lora"}, "was trained on Flux, not on 'sd15'"),
        ({"ss_base_model_version": "sdxl_1.0"}, "was trained on Stable Diffusion XL, not on"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-refiner/lora"}, "the SDXL refiner"),
        ({"ss_v2": "True"}, "was trained on Stable Diffusion 2"),
        ({"ss_base_model_version": "kolors"}, "was trained on the base 'kolors'"),
        ({"ss_base_model_version": "zimage"}, "was trained on Z-Image"),
        ({"ss_base_model_version": "sd_1.5"}, None),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, None),
        ({"ss_base_model_version": "my own"}, None),
    ],
)
def test_what_it_is_for_is_told_by_its_metadata(hub, make_settings, tmp_path, metadata, message):
    path, settings = tmp_path / "theirs.safetensors", make_settings(base="sd15")
    save_file(lora_forms.kohya_whole(hub("sd15"), path), path, metadata)
    if message is None:
        assert import_lora(path, settings).is_file()
        return
    with pytest.raises(LoraError, match=message):
        import_lora(path, settings)


def test_the_width_of_the_text_tells_the_model():
    """Of the real models: 768 numbers for a token in SD 1.5, 1,024 in SD 2, 2,048 in SDXL."""
    for width, title in ((768, "Stable Diffusion 1.5"), (1024, "Stable Diffusion 2")):
        key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
        assert origin.of_tensors({key: torch.ones(2, width)}).title == title
    added = "lora_unet_add_embedding_linear_1.lora_down.weight"
    assert origin.of_tensors({added: torch.ones(2, 5632)}).family == "kolors"
    assert origin.of_tensors({added: torch.ones(2, 2816)}).family == "sdxl"
    assert origin.of_tensors({"lora_unet_conv_in.lora_down.weight": torch.ones(2, 4)}) is None


@pytest.mark.parametrize(
    ("write", "message"),
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
        (lambda path: path.mkdir(), "is a folder without adapter_config.json"),
    ],
)
def test_what_is_no_lora_is_said(hub, make_settings, tmp_path, write, message):
    hub("sd15")
    write(tmp_path / "odd.ckpt")
    with pytest.raises(LoraError, match=message) as error:
        import_lora(tmp_path / "odd.ckpt", make_settings(base="sd15"))
    assert "\n" not in str(error.value)


def test_half_a_module_and_values_that_are_not_finite_are_refused(hub, make_settings, tmp_path):
    tensors = lora_forms.kohya_whole(hub("sd15"), tmp_path / "whole.safetensors")
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
