"""Embeddings: each prompt once, kept for every base, and the encodings that families name."""

import json
import shutil
import weakref
from dataclasses import replace

import pytest
import torch

from storyboard import prompts as syntax
from storyboard.errors import BaseError
from storyboard.lora import attaching
from storyboard.models import bases, conditioning, families
from storyboard.models import loading as models
from storyboard.models.families import registry
from storyboard.models.run import run_on
from storyboard.models.text_encoding import Embedding
from tests import tiny

NAMES = ("kolors", "sdxl", "sd15")


@pytest.fixture
def encode(hub, make_settings):
    """(base's name, prompts) -> their embeddings."""

    def run(name, prompts, **changes):
        base, settings = hub(name), make_settings(base=name, **changes)
        return conditioning.encode(run_on(base, settings), prompts)

    return run


def record_loads(monkeypatch):
    """The components that are loaded from now on."""
    real, loaded = models.load, []

    def load(base, component, *more, **named):
        loaded.append(component)
        return real(base, component, *more, **named)

    monkeypatch.setattr(models, "load", load)
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_embeddings_have_the_shapes_of_the_base(encode, name):
    base = bases.get(name)
    embeddings = encode(name, ["a cat", ""])
    width = {"kolors": 64, "sdxl": 64, "sd15": 32}[name]
    assert all(
        each.tokens.shape == (base.text_length, width) and each.pooled.ndim == 1
        for each in embeddings.values()
    )
    assert (len(embeddings["a cat"].pooled) == 0) == (name == "sd15")
    assert (not embeddings[""].tokens.any()) == (
        name == "sdxl"
    )  # zeros stand for SDXL's missing negative prompt


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_prompt_is_encoded_once_and_alone(encode, name, monkeypatch):
    loaded = record_loads(monkeypatch)
    together = encode(name, ["a cat", "a dog", "a cat"])
    assert (
        sorted(loaded) == [part for part in bases.get(name).components if part.startswith("text")]
        and len(together) == 2
    )
    assert torch.equal(encode(name, ["a dog"])["a dog"].tokens, together["a dog"].tokens) and len(
        loaded
    ) == len(set(loaded))
    encode(name, ["a dog", "a bird"])
    assert len(loaded) == 2 * len(set(loaded))  # a new prompt brings the encoders back


@pytest.mark.slow
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
    folders = list((tmp_path / "out" / "cache" / "text").iterdir())
    assert len(folders) == 2  # each precision keeps its own


@pytest.mark.slow
def test_what_is_cut_and_what_is_not_understood_is_printed(encode, capsys):
    encode("sd15", ["short", "word " * 90, "紫色短发女孩"])
    printed = capsys.readouterr().out
    assert (
        "longer than" not in printed
        and "taught in English; 1 prompts and captions are in Chinese, such as 紫色短发女孩"
        in printed
    )
    encode("kolors", ["紫色短发女孩"])
    assert capsys.readouterr().out == ""
    encode("kolors", ["紫色短发女孩" * 90])
    printed = capsys.readouterr().out
    assert "1 prompts and captions are longer than 256 tokens" in printed
    assert "the rest of them is not read, such as 紫色短发" in printed


def test_damaged_weights_are_an_error(encode, monkeypatch):
    real = models.load

    def load(*more, **named):
        module = real(*more, **named)
        next(module.parameters()).data.fill_(torch.nan)
        return module

    monkeypatch.setattr(models, "load", load)
    with pytest.raises(BaseError, match="values that are not finite"):
        encode("sd15", ["a cat"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_embeddings_with_and_without_a_lora_lie_side_by_side(
    hub, make_settings, tmp_path, monkeypatch, name
):
    """A LoRA that changes a text encoder enters the cache; the base's own embeddings stay."""
    base, settings = hub(name), make_settings(base=name)
    run, path, other = run_on(base, settings), tmp_path / "one", tmp_path / "other"
    tiny.whole_lora(base, path)
    tiny.whole_lora(base, other, alphas=(1.0,))
    tiny.lora(base, tmp_path / "unet.safetensors")
    loaded = record_loads(monkeypatch)

    def encode(lora):
        adapter = attaching.text_adapter(base, lora)
        return conditioning.encode(run, ["a cat"], adapter=adapter)["a cat"].tokens

    plain, first, second = encode(None), encode(path), encode(other)
    count = len(loaded)
    for one, another in ((plain, first), (plain, second), (first, second)):
        assert (one - another).abs().max() > 0.01

    expected = {None: plain, path: first, other: second, tmp_path / "unet.safetensors": plain}
    assert all(torch.equal(encode(lora), tokens) for lora, tokens in expected.items())
    assert len(loaded) == count  # nothing was encoded twice


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_one_is_no_brackets(hub, make_settings, name):
    weighted = ("a (red:1.3) cat", "a (red:0.7) cat", "a (red:0) cat")
    unweighted = ("a red cat", "a (red:1.0) cat", "a ([red]) cat")
    base, settings = hub(name), make_settings(base=name)
    run = run_on(base, settings)
    embeddings = conditioning.encode(run, [*weighted, *unweighted], captions=[weighted[0]])
    pipe = conditioning.text_pipeline(base, run.plan.device, run.plan.dtype)
    with torch.no_grad():
        theirs = pipe.encode_prompt(
            "a red cat",
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )[0][0]
    assert all(torch.equal(embeddings[prompt].tokens, theirs) for prompt in unweighted)

    sums = {embeddings[prompt].tokens.abs().sum().item() for prompt in ("a red cat", *weighted)}
    assert len(sums) == 4
    caption = embeddings[syntax.literal(weighted[0])].tokens  # of the brackets themselves
    for prompt in ("a red cat", weighted[0]):
        assert not torch.allclose(caption, embeddings[prompt].tokens)


def test_lengths_without_a_small_common_multiple_are_bounded():
    """A batch of captions of 2 to 5 chunks: 60 would fill the card, so the longest counts."""
    embeddings = [
        Embedding(torch.randn(77 * chunks, 8), torch.randn(4), text_length=77)
        for chunks in (2, 3, 4, 5)
    ]
    tokens, _ = conditioning.stack(embeddings)
    assert tokens.shape == (4, 77 * 5, 8)
    assert torch.equal(tokens[0, : 77 * 4], embeddings[0].tokens.repeat(2, 1))
    assert conditioning.common_length([77 * 2, 77 * 3], 77) == 77 * 6
    assert conditioning.common_length([77 * 13], 77) == 77 * 13
    assert conditioning.common_length([20, 30, 40, 50], 10) == 50


@pytest.fixture
def little_clip(hub, tmp_path):
    """SD 1.5 of another family, registered here, whose CLIP reads 32 tokens at once."""
    from transformers import CLIPTextConfig, CLIPTextModel

    base, folder = hub("sd15"), tmp_path / "little"
    shutil.copytree(base.folder, folder)
    for file in (folder / "text_encoder").iterdir():
        file.unlink()
    config = CLIPTextConfig(**base.config("text_encoder") | {"max_position_embeddings": 32})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 32}))

    family = families.register(replace(base.family, name="little", text_length=32))
    yield replace(base, name="little", family=family, folder=folder)
    registry.forget("little")


def test_another_family_uses_clip_with_its_own_sizes(little_clip, make_settings):
    long = "a girl with a red cat, " * 4
    embeddings = conditioning.encode(
        run_on(little_clip, make_settings(base="sd15")), ["a cat", long, "a (cat:1.3)"]
    )
    lengths = [len(each.tokens) for each in embeddings.values()]
    assert lengths == [32, 32 * len(embeddings[long].chunks), 32]
    assert len(embeddings[long].chunks) > 2
    tokens, _ = conditioning.stack(embeddings.values())
    assert tokens.shape[:2] == (3, lengths[1])


class Constant:
    """A text encoding of a family that this file alone knows."""

    def __init__(self, pipe, text_length, device, layers_left_out=0):
        self.text_length = self.most_tokens = text_length

    def is_cut(self, prompt):
        return len(prompt) > self.text_length

    def encode(self, prompt):
        tokens = torch.full((self.text_length, 32), float(len(prompt)))
        return Embedding(tokens, torch.zeros(0), (), self.text_length)


def test_a_family_brings_its_own_text_encoding(hub, make_settings, capsys):
    base = hub("sd15")
    family = replace(base.family, name="constant", text=(__name__, "Constant"))
    base = replace(base, name="constant", family=family)
    embeddings = conditioning.encode(
        run_on(base, make_settings(base="sd15")), ["a cat", "word " * 90]
    )
    assert (embeddings["a cat"].tokens == 5).all()
    assert "1 prompts and captions are longer than 77 tokens" in capsys.readouterr().out
