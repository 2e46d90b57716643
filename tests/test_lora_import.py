import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import Story, import_lora, lora, models, render
from storyboard.errors import LoraError
from storyboard.lora_import import LEGACY_BLOCKS


@pytest.fixture
def peft(hub):
    """(name) -> a LoRA of rank 4 for the attention of that tiny base, under peft's names."""
    def make(name):
        generator = torch.Generator().manual_seed(0)
        state = {}
        for module, layer in models.skeleton(hub(name), "unet").named_modules():
            if module.endswith(("to_q", "to_k", "to_v", "to_out.0")):
                state[f"{module}.lora_A.default.weight"] = torch.randn(4, layer.in_features, generator=generator)
                state[f"{module}.lora_B.default.weight"] = torch.randn(layer.out_features, 4, generator=generator)
        return state
    return make


def legacy(state):
    """peft's names -> those of DiffSynth-Studio 1.1.9, as the 2024 course saved them."""
    numbers = {block: number for number, block in LEGACY_BLOCKS.items()}
    found = {}
    for key, tensor in state.items():
        block = next(block for block in numbers if key.startswith(block))
        found[f"blocks.{numbers[block]}{key.removeprefix(block)}".replace("to_out.0", "to_out")] = tensor
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
            name = "_".join(["input_blocks" if part[0] == "down" else "output_blocks", str(number), "1", *part[5:]])
        found[f"lora_unet_{name}"] = tensor
    return found


FORMS = {  # base, file, keys, alpha that the file implies
    "course": ("kolors", "epoch.ckpt", legacy, 4.0),
    "diffsynth": ("sdxl", "raw.safetensors", dict, 4.0),
    "diffusers": ("sd15", "peft.safetensors", lambda state: {f"unet.{key.replace('.default', '')}": tensor for key, tensor in state.items()}, 4.0),
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
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_an_imported_lora_draws(peft, make_settings, tmp_path):
    save_file(peft("sd15"), tmp_path / "raw.safetensors")
    settings = make_settings(base="sd15")
    story = Story(["a girl"])
    ours = render(story, settings, import_lora(tmp_path / "raw.safetensors", settings))
    assert ours.paths[0].read_bytes() != render(story, settings, None).paths[0].read_bytes()


@pytest.mark.parametrize("spoil, said", [
    (lambda state: state | {"lora_te_text_model_a.lora_down.weight": torch.ones(4, 4), "x": torch.ones(1)}, "tensors in .* are not those of a UNet LoRA"),
    (lambda state: {key.replace("attentions.0", "attentions.7"): tensor for key, tensor in state.items()}, r"\d+ of the \d+ modules in .* have no place in the base 'sd15'"),
    (lambda state: {"a": torch.ones(1)}, "1 of the 1 tensors"),
])
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
