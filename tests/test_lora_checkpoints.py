"""Old checkpoints as a LoRA: only tensors are read, and what is something else is named."""

import os
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from storyboard import convert, import_lora
from storyboard.errors import LoraError
from tests import tiny


@pytest.fixture
def whole(hub, tmp_path):
    """The tensors of a small LoRA of SD 1.5."""
    tiny.lora(hub("sd15"), tmp_path / "whole.safetensors")
    return load_file(tmp_path / "whole.safetensors")


def changed(tensors, part, change):
    key = first(tensors, part)
    return tensors | {key: change(tensors[key])}


def first(tensors, part):
    return next(key for key in tensors if key.endswith(part))


class Bomb:
    """Makes a folder where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("storyboard-bomb",)


CHECKPOINTS = {
    "a list": (lambda t: [torch.ones(2)], "holds no LoRA but one list"),
    "nothing": (lambda t: None, "holds no LoRA but one NoneType"),
    "lists in it": (lambda t: t | {"a": [1]}, "its a is no tensor"),
    "nothing in it": (lambda t: t | {"a": None}, "its a is no tensor"),
    "numbers for names": (lambda t: dict(enumerate(t.values())), "not those of a LoRA"),
    "sparse": (
        lambda t: changed(t, "up.weight", lambda up: up.to_sparse()),
        r"not dense floating point numbers \(.* which is sparse\)",
    ),
    "quantised": (
        lambda t: changed(
            t, "up.weight", lambda up: torch.quantize_per_tensor(up, 1.0, 0, torch.qint8)
        ),
        "which is quantised",
    ),
    "a tensor of 400 GB": (
        lambda t: changed(t, "up.weight", lambda up: torch.ones(1).expand(10**5, 10**6)),
        "which is larger than its data",
    ),
    "on meta": (
        lambda t: changed(t, "up.weight", lambda up: up.to("meta")),
        "tensors without values of their own",
    ),
    "code": (lambda t: t | {"a": Bomb()}, "holds more than tensors, which is not read for safety"),
    "two": (lambda t: {"state_dict": t, "module": t}, "tensors beside its state_dict"),
    "empty": (lambda t: {}, "holds no LoRA, it is empty"),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
@pytest.mark.parametrize("name", ["lora.ckpt", "lora.safetensors"])
def test_odd_checkpoints_are_refused(whole, make_settings, tmp_path, monkeypatch, what, name):
    make, message = CHECKPOINTS[what]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    torch.save(make(whole), path)
    for call in (
        lambda: import_lora(path, make_settings(base="sd15")),
        lambda: convert(path, "kohya"),
    ):
        with pytest.raises(LoraError, match=message) as error:
            call()
        assert "\n" not in str(error.value) and name in str(error.value)
    assert not (tmp_path / "storyboard-bomb").exists()


def test_checkpoints_whose_tensors_share_memory_are_read(hub, whole, make_settings, tmp_path):
    up = whole[first(whole, "lora_up.weight")]
    shared = {key: up if value.shape == up.shape else value for key, value in whole.items()}
    torch.save({"state_dict": shared, "epoch": 1}, tmp_path / "lora.pt")
    tensors = load_file(import_lora(tmp_path / "lora.pt", make_settings(base="sd15")))
    assert all(torch.equal(tensors[key], value) for key, value in shared.items())


def test_a_packed_or_damaged_checkpoint_is_refused(hub, whole, make_settings, tmp_path):
    settings, path = make_settings(base="sd15"), tmp_path / "lora.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(LoraError, match="is a packed archive"):
        import_lora(path, settings)
    torch.save(whole, path)
    content = path.read_bytes()
    for damaged in (content[:-100], content[:300], b"\x80\x02}q\x00.", b"PK\x03\x04", b"\x80"):
        path.write_bytes(damaged)
        with pytest.raises(LoraError, match=r"lora\.pt (is not a whole|holds|is a packed)"):
            import_lora(path, settings)
