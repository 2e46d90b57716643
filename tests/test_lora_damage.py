"""LoRA files that are damaged or hold odd numbers: one sentence, before anything is written."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import Story, convert, import_lora, merge, render
from storyboard.errors import LoraError
from storyboard.lora import attaching
from storyboard.lora import file as lora_file
from storyboard.models import loading as models
from tests import tiny


@pytest.fixture
def whole(hub, tmp_path):
    """The tensors of a small LoRA of SD 1.5."""
    tiny.lora(hub("sd15"), tmp_path / "whole.safetensors")
    return load_file(tmp_path / "whole.safetensors")


def refused(path, settings, base, message):
    """The sentence with which each way into the project refuses ``path``, before it writes."""
    pipe = models.pipeline(base, unet=None)
    before = sorted(path.parent.iterdir())
    for call in (
        lambda: import_lora(path, settings),
        lambda: convert(path, "diffusers"),
        lambda: merge(path, settings),
        lambda: attaching.attach(pipe, base, path),
        lambda: render(Story(["a girl"]), settings, path),
    ):
        with pytest.raises(LoraError, match=message) as error:
            call()
        assert "\n" not in str(error.value) and path.name in str(error.value)
    assert sorted(path.parent.iterdir()) == before


def first(tensors, part):
    return next(key for key in tensors if key.endswith(part))


def changed(tensors, part, change):
    key = first(tensors, part)
    return tensors | {key: change(tensors[key])}


ODD_NUMBERS = {
    "a half is missing": (
        lambda t: {key: value for key, value in t.items() if key != first(t, "up.weight")},
        r"lacks 1 tensors \(such as .*lora_up.weight\)",
    ),
    "complex": (
        lambda t: changed(t, "down.weight", lambda down: down.to(torch.complex64)),
        r"holds 1 tensors that are not dense floating .* which is complex64\)",
    ),
    "whole numbers": (
        lambda t: changed(t, "down.weight", lambda down: down.to(torch.int8)),
        "which is int8",
    ),
    "nan": (
        lambda t: changed(t, "up.weight", lambda up: up * torch.nan),
        r"values that are not finite \(such as .*lora_up.weight\)",
    ),
    "inf": (
        lambda t: changed(t, "down.weight", lambda down: down / 0),
        r"values that are not finite \(such as .*lora_down.weight\)",
    ),
    "overflow": (
        lambda t: {key: value * 1e20 for key, value in t.items()},
        "would change weights by more than 65,504",
    ),
    "rank 0": (
        lambda t: changed(t, "down.weight", lambda down: down[:0]),
        r"matrices that do not go together, of .* \(.*lora_down.weight \[0, 32\]",
    ),
    "one number": (
        lambda t: changed(t, "down.weight", lambda down: down[0, 0].clone()),
        "matrices that do not go together",
    ),
    "other ranks": (
        lambda t: changed(t, "down.weight", lambda down: torch.cat([down, down])),
        r"lora_down.weight \[4, 32\], lora_up.weight \[32, 2\]",
    ),
    "alpha 0": (
        lambda t: changed(t, "alpha", lambda alpha: alpha * 0),
        r"gives 1 of its \d+ modules no alpha to draw with \(0 for lora_unet_",
    ),
    "alpha nan": (
        lambda t: changed(t, "alpha", lambda alpha: alpha * torch.nan),
        r"no alpha to draw with \(nan for lora_unet_",
    ),
    "alpha inf": (
        lambda t: changed(t, "alpha", lambda alpha: alpha * torch.inf),
        r"no alpha to draw with \(inf for lora_unet_",
    ),
    "many alphas": (
        lambda t: changed(t, "alpha", lambda alpha: torch.ones(3)),
        r"alpha in .* is not one number but of the shape \[3\]",
    ),
    "all zeros": (
        lambda t: {k: v if k.endswith("alpha") else v * 0 for k, v in t.items()},
        "changes nothing, all its up or down matrices are zero",
    ),
    "a name of two lines": (
        lambda t: t | {"lora_unet_a\nb\x00.lora_down.weight": torch.ones(2, 2)},
        r"lacks 1 tensors \(such as lora_unet_a�b�.lora_up.weight\)",
    ),
    "a name without an end": (
        lambda t: t | {"lora_unet_" + "mid_block_" * 1000: torch.ones(2, 2)},
        r"1 (of the|tensors).*\(such as lora_unet_mid_block_[a-z_]{90,110}…\)",
    ),
}


@pytest.mark.parametrize("what", ODD_NUMBERS)
def test_odd_numbers_are_refused_everywhere(hub, whole, make_settings, tmp_path, what):
    spoil, message = ODD_NUMBERS[what]
    (tmp_path / "odd").mkdir()
    path = tmp_path / "odd" / "lora.safetensors"
    save_file(spoil(whole), path)
    refused(path, make_settings(base="sd15"), hub("sd15"), message)


def test_a_swapped_pair_is_called_so(hub, whole, make_settings, tmp_path):
    turned = {"lora_up": "lora_down", "lora_down": "lora_up"}
    swapped = {}
    for key, tensor in whole.items():
        old = next((part for part in turned if part in key), None)
        swapped[key.replace(old, turned[old]) if old else key] = tensor
    save_file(swapped, tmp_path / "swapped.safetensors")
    with pytest.raises(LoraError, match="has up and down in each other's place|do not go together"):
        import_lora(tmp_path / "swapped.safetensors", make_settings(base="sd15"))


def test_alphas_that_are_numbers_are_kept(hub, whole, make_settings, tmp_path):
    """Whole, negative, of one axis."""
    settings = make_settings(base="sd15")
    for alpha in (torch.tensor(4), torch.tensor([4.0]), torch.tensor(-4.0), torch.tensor(4).half()):
        save_file(changed(whole, "alpha", lambda _, own=alpha: own), tmp_path / "lora.safetensors")
        tensors = load_file(import_lora(tmp_path / "lora.safetensors", settings))
        assert tensors[first(whole, "alpha")] == alpha.float().reshape(())
        assert tensors[first(whole, "alpha")].shape == ()
    for odd in (0, float("nan"), 10**400, True, "4"):
        with pytest.raises(LoraError, match=r"alpha=.* must be a number"):
            import_lora(tmp_path / "lora.safetensors", settings, alpha=odd)


def test_a_kernel_of_one_is_a_linear_layer(hub, make_settings, tmp_path):
    """SD 1.5's proj_in is a convolution that some makers write as a matrix; and the other way."""
    name = "lora_unet_down_blocks_0_attentions_0"
    conv = {f"{name}_proj_in.lora_down.weight": torch.randn(2, 32)}
    conv[f"{name}_proj_in.lora_up.weight"] = torch.randn(32, 2)
    linear = f"{name}_transformer_blocks_0_attn1_to_q"
    conv[f"{linear}.lora_down.weight"] = torch.randn(2, 32, 1, 1)
    conv[f"{linear}.lora_up.weight"] = torch.randn(32, 2, 1, 1)
    save_file(conv, tmp_path / "lora.safetensors")
    tensors = load_file(import_lora(tmp_path / "lora.safetensors", make_settings(base="sd15")))
    assert tensors[f"{name}_proj_in.lora_down.weight"].shape == (2, 32, 1, 1)
    assert tensors[f"{linear}.lora_up.weight"].shape == (32, 2)
    for key, tensor in conv.items():
        assert torch.equal(tensors[key].flatten(), tensor.flatten())


def rewritten(path, change, content=None):
    """The file with another header."""
    content = content or path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = change(json.loads(content[8 : 8 + length]))
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def field(name, value):
    def change(header):
        header[sorted(header)[-1]][name] = value
        return header

    return change


def twice(header):
    key = sorted(header)[-1]
    again = json.dumps({key: header[key]}).encode()
    return json.dumps(header).encode()[:-1] + b"," + again[1:]


DAMAGED = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a header without end": lambda path: path.write_bytes(
        (2**63 - 1).to_bytes(8, "little") + path.read_bytes()[8:]
    ),
    "offsets overlap": lambda path: rewritten(path, field("data_offsets", [0, 256])),
    "another shape": lambda path: rewritten(path, field("shape", [2**31, 2**31])),
    "another type": lambda path: rewritten(path, field("dtype", "F8")),
    "other metadata": lambda path: rewritten(
        path, lambda header: header | {"__metadata__": {"a": 1}}
    ),
    "metadata not UTF-8": lambda path: rewritten(
        path, lambda header: json.dumps(header).encode().replace(b"sd_v1", b"\xff\xfe\xed\xa0\x80")
    ),
    "a name twice": lambda path: rewritten(path, twice),
    "deep": lambda path: rewritten(path, lambda header: b'{"a":' + b"[" * 50_000),
    "zeros": lambda path: path.write_bytes(bytes(4000)),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files_are_refused_everywhere(hub, whole, make_settings, tmp_path, what):
    (tmp_path / "odd").mkdir()
    path = (tmp_path / "whole.safetensors").rename(tmp_path / "odd" / "lora.safetensors")
    DAMAGED[what](path)
    refused(path, make_settings(base="sd15"), hub("sd15"), "is not a whole safetensors file")


def test_a_header_whose_length_begins_like_a_pickle_is_read(hub, whole, make_settings, tmp_path):
    path, settings = tmp_path / "whole.safetensors", make_settings(base="sd15")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    longer = next(size for size in range(length, length + 70_000) if size & 0xFFFF == 0x0280)
    head = longer.to_bytes(8, "little") + content[8 : 8 + length] + b" " * (longer - length)
    path.write_bytes(head + content[8 + length :])
    assert path.read_bytes().startswith(b"\x80\x02")
    assert len(load_file(import_lora(path, settings))) == len(whole)
    assert lora_file.modules(path)


def test_metadata_of_any_size_are_read(hub, whole, make_settings, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file(whole, path, {"ss_tag_frequency": "x" * 20_000_000, "ss_base_model_version": "sd_v1"})
    assert len(load_file(import_lora(path, make_settings(base="sd15")))) == len(whole)


def test_what_is_no_file_is_named(hub, make_settings, tmp_path):
    base, settings = hub("sd15"), make_settings(base="sd15")
    (tmp_path / "odd").mkdir()
    path = tmp_path / "odd" / "lora.safetensors"
    path.symlink_to("nowhere")
    refused(path, settings, base, "There is no LoRA at")
    path.unlink(), os.mkfifo(path)
    refused(path, settings, base, "There is no LoRA at")
    path.unlink(), path.touch()
    refused(path, settings, base, "is an empty file: get it again")
    for odd in (None, 3, [path], b"lora", "", {}):
        for call in (import_lora, merge):
            with pytest.raises(LoraError, match=r"^lora=.* must be one LoRA"):
                call(odd, settings)
        with pytest.raises(LoraError, match=r"^lora=.* must be one LoRA"):
            convert(odd, "kohya")
    for odd in ("~nobody-of-that-name/a.safetensors", "a\0b", "a" * 5000):
        with pytest.raises(LoraError, match="There is no LoRA at"):
            import_lora(odd, settings)


def test_a_lora_that_was_changed_after_training_is_refused(trained, tmp_path):
    settings, _, _, lora = trained
    content = lora.path.read_bytes()
    try:
        lora.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        for call in (lambda: merge(lora, settings, tmp_path / "m"), lambda: convert(lora, "kohya")):
            with pytest.raises(LoraError, match="is not the file that was trained, its digest"):
                call()
    finally:
        lora.path.write_bytes(content)
    assert lora_file.path_of(lora) == lora.path
