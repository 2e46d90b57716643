import gc
import weakref

import pytest
import torch

from storyboard import bases, conditioning, memory, models
from storyboard.errors import BaseError

NAMES = ("kolors", "sdxl", "sd15")


@pytest.fixture
def encode(hub, make_settings):
    """(base's name, prompts) -> their embeddings."""
    def run(name, prompts, **changes):
        base, settings = hub(name), make_settings(base=name, **changes)
        return conditioning.encode(base, prompts, settings, memory.plan(base, settings))
    return run


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_have_the_shapes_of_the_base(encode, name):
    base = bases.get(name)
    said = encode(name, ["a cat", ""])
    width = {"kolors": 64, "sdxl": 64, "sd15": 32}[name]
    assert all(each.tokens.shape == (base.text_length, width) and each.pooled.ndim == 1 for each in said.values())
    assert (len(said["a cat"].pooled) == 0) == (name == "sd15")
    assert (not said[""].tokens.any()) == (name == "sdxl")  # zeros stand for SDXL's missing negative prompt


@pytest.mark.parametrize("name", NAMES)
def test_each_prompt_is_encoded_once_and_alone(encode, name, monkeypatch):
    real, loaded = models.load, []
    monkeypatch.setattr(models, "load", lambda base, component, *more, **named: loaded.append(component) or real(base, component, *more, **named))
    together = encode(name, ["a cat", "a dog", "a cat"])
    assert sorted(loaded) == [part for part in bases.get(name).components if part.startswith("text")] and len(together) == 2
    assert torch.equal(encode(name, ["a dog"])["a dog"].tokens, together["a dog"].tokens) and len(loaded) == len(set(loaded))
    encode(name, ["a dog", "a bird"])
    assert len(loaded) == 2 * len(set(loaded))  # a new prompt brings the encoders back


@pytest.mark.parametrize("name", NAMES)
def test_the_text_encoders_are_freed(encode, name, monkeypatch):
    real, alive = models.load, []

    def load(*more, **named):
        module = real(*more, **named)
        alive.append(weakref.ref(module))
        return module
    monkeypatch.setattr(models, "load", load)
    encode(name, ["a cat"])
    assert alive and not any(reference() for reference in alive)


def test_another_precision_is_encoded_anew(encode, tmp_path):
    first = encode("sdxl", ["a cat"])["a cat"].tokens
    second = encode("sdxl", ["a cat"], precision="bf16")["a cat"].tokens
    assert (first.dtype, second.dtype) == (torch.float32, torch.bfloat16)
    assert len(list((tmp_path / "out" / "cache" / "text").iterdir())) == 1  # the other's went


def test_what_is_cut_and_what_is_not_understood_is_said(encode, capsys):
    encode("sd15", ["short", "word " * 90, "紫色短发女孩"])
    told = capsys.readouterr().out
    assert "longer than" not in told and "taught in English; 1 prompts and captions are in Chinese, such as 紫色短发女孩" in told
    encode("kolors", ["紫色短发女孩"])
    assert capsys.readouterr().out == ""
    encode("kolors", ["紫色短发女孩" * 90])
    assert "1 prompts and captions are longer than 256 tokens, the rest of them is not read, such as 紫色短发" in capsys.readouterr().out


def test_damaged_weights_are_an_error(encode, monkeypatch):
    real = models.load

    def load(*more, **named):
        module = real(*more, **named)
        next(module.parameters()).data.fill_(torch.nan)
        return module
    monkeypatch.setattr(models, "load", load)
    with pytest.raises(BaseError, match="values that are not finite"):
        encode("sd15", ["a cat"])
