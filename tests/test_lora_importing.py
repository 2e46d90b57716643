"""``import_lora``: files as people have them."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import Story, convert, import_lora, render
from storyboard.errors import LoraError
from storyboard.lora import file as lora
from tests import lora_forms


@pytest.mark.slow
def test_an_imported_lora_draws(hub, make_settings, tmp_path):
    save_file(lora_forms.peft_attention(hub("sd15")), tmp_path / "raw.safetensors")
    settings = make_settings(base="sd15")
    story = Story(["a girl"])
    ours = render(story, settings, import_lora(tmp_path / "raw.safetensors", settings))
    assert ours.paths[0].read_bytes() != render(story, settings, None).paths[0].read_bytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
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
def test_what_does_not_fit_is_counted(hub, make_settings, tmp_path, spoil, message):
    save_file(spoil(lora_forms.peft_attention(hub("sd15"))), tmp_path / "odd.safetensors")
    with pytest.raises(LoraError, match=message) as error:
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
    with pytest.raises(LoraError, match="not a whole safetensors file"):
        import_lora(tmp_path / "cut.safetensors", make_settings(base="sd15"))
    with pytest.raises(LoraError, match="There is no LoRA at"):
        import_lora(tmp_path / "none.safetensors", make_settings(base="sd15"))


def test_a_file_is_read_by_its_content_not_by_its_name(hub, make_settings, tmp_path, monkeypatch):
    settings = make_settings(base="sd15")
    tensors = lora_forms.kohya_whole(hub("sd15"), tmp_path / "whole.safetensors")
    for name in ("UPPER.SAFETENSORS", "no_suffix", "renamed.ckpt", "名" * 80 + ".safetensors"):
        shutil.copy(tmp_path / "whole.safetensors", tmp_path / name)
        assert load_file(import_lora(tmp_path / name, settings)).keys() == tensors.keys()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert import_lora("~/whole.safetensors", settings).is_file()


def test_two_files_of_one_name_become_two(hub, make_settings, tmp_path):
    settings = make_settings(base="sd15")
    tensors = lora_forms.kohya_whole(hub("sd15"), tmp_path / "whole.safetensors")
    first = import_lora(tmp_path / "whole.safetensors", settings)
    content = first.read_bytes()
    save_file({key: tensor * 2 for key, tensor in tensors.items()}, tmp_path / "whole.safetensors")
    second = import_lora(tmp_path / "whole.safetensors", settings)
    assert first != second
    assert first.read_bytes() == content
    assert second == import_lora(tmp_path / "whole.safetensors", settings)


def test_the_first_trainers_form_is_read_in_its_order(hub, make_settings, tmp_path, capsys):
    path = tmp_path / "first.safetensors"
    expected = lora_forms.first_trainer(hub("sd15"), path)
    tensors = load_file(import_lora(path, make_settings(base="sd15")))
    assert len(expected) == 144 + 12
    assert {key.partition(".")[0] for key in tensors} == expected.keys()
    for name, (up, down) in expected.items():
        assert torch.equal(tensors[f"{name}.lora_up.weight"], up)
        assert torch.equal(tensors[f"{name}.lora_down.weight"], down)
        assert tensors[f"{name}.alpha"] == 1
    assert "left out" not in capsys.readouterr().out

    lora_forms.first_trainer(hub("sd15"), path, words=("<s1>", "<s2>"))
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
    ("spoil", "message"),
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
        (
            lambda tensors, facts: tensors.update({"x:y": torch.ones(1)}),
            r"1 of the 313 tensors .* \(such as x:y\)",
        ),
        (
            lambda tensors, facts: tensors.pop("text_encoder:3:up"),
            r"lacks 1 tensors \(such as lora_te_text_model_\w+_out_proj.lora_up.weight\)",
        ),
    ],
)
def test_the_first_trainers_form_in_another_order_is_refused(
    hub, make_settings, tmp_path, spoil, message
):
    lora_forms.first_trainer(hub("sd15"), tmp_path / "first.safetensors")
    tensors = load_file(tmp_path / "first.safetensors")
    facts = lora.metadata(tmp_path / "first.safetensors")
    spoil(tensors, facts)
    save_file(tensors, tmp_path / "odd.safetensors", facts)
    with pytest.raises(LoraError, match=message):
        import_lora(tmp_path / "odd.safetensors", make_settings(base="sd15"))


def test_names_that_are_no_text_are_shown_replaced(hub, make_settings, tmp_path, capsys):
    """As a zip of another encoding unpacks them; and of two lines."""
    settings = make_settings(base="sd15")
    lora_forms.kohya_whole(hub("sd15"), tmp_path / "whole.safetensors")
    for name in (b"\xb2\xe2\xca\xd4.safetensors", b"two\nlines.safetensors", b"\xff"):
        path = tmp_path / os.fsdecode(name)
        shutil.copy(tmp_path / "whole.safetensors", path)
        assert import_lora(path, settings).is_file()
        path.write_bytes(b"<html>")
        with pytest.raises(LoraError, match="is a web page, not a LoRA") as error:
            import_lora(path, settings)
        str(error.value).encode()
        assert "\n" not in str(error.value)
    assert "\N{REPLACEMENT CHARACTER}.safetensors in " in capsys.readouterr().out


def test_a_lora_that_fits_two_bases_says_so(hub, make_settings, tmp_path, capsys):
    hub("kolors")
    save_file(lora_forms.peft_attention(hub("sdxl")), tmp_path / "raw.safetensors")
    import_lora(tmp_path / "raw.safetensors", make_settings(base="kolors"))
    printed = capsys.readouterr().out
    assert "does not say what it was trained on: it fits 'kolors' and as well 'sdxl'" in printed
    save_file(lora_forms.peft_attention(hub("sd15")), tmp_path / "raw.safetensors")
    import_lora(tmp_path / "raw.safetensors", make_settings(base="sd15"))
    assert "does not say" not in capsys.readouterr().out
