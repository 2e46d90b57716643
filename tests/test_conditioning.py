import weakref
from dataclasses import replace

import pytest
import torch

from storyboard import prompts as syntax
from storyboard.errors import BaseError, SettingsError
from storyboard.lora import attaching
from storyboard.models import bases, conditioning, memory
from storyboard.models import loading as models
from storyboard.models.run import run_on
from tests import tiny

NAMES = ("kolors", "sdxl", "sd15")


@pytest.fixture
def encode(hub, make_settings):
    """(base's name, prompts) -> their embeddings."""

    def run(name, prompts, **changes):
        base, settings = hub(name), make_settings(base=name, **changes)
        return conditioning.encode(run_on(base, settings), prompts)

    return run


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_have_the_shapes_of_the_base(encode, name):
    base = bases.get(name)
    said = encode(name, ["a cat", ""])
    width = {"kolors": 64, "sdxl": 64, "sd15": 32}[name]
    assert all(
        each.tokens.shape == (base.text_length, width) and each.pooled.ndim == 1
        for each in said.values()
    )
    assert (len(said["a cat"].pooled) == 0) == (name == "sd15")
    assert (not said[""].tokens.any()) == (
        name == "sdxl"
    )  # zeros stand for SDXL's missing negative prompt


@pytest.mark.parametrize("name", NAMES)
def test_each_prompt_is_encoded_once_and_alone(encode, name, monkeypatch):
    real, loaded = models.load, []
    monkeypatch.setattr(
        models,
        "load",
        lambda base, component, *more, **named: (
            loaded.append(component) or real(base, component, *more, **named)
        ),
    )
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
    assert (
        "longer than" not in told
        and "taught in English; 1 prompts and captions are in Chinese, such as 紫色短发女孩" in told
    )
    encode("kolors", ["紫色短发女孩"])
    assert capsys.readouterr().out == ""
    encode("kolors", ["紫色短发女孩" * 90])
    assert (
        "1 prompts and captions are longer than 256 tokens, the rest of them is not read, such as 紫色短发"
        in capsys.readouterr().out
    )


def test_damaged_weights_are_an_error(encode, monkeypatch):
    real = models.load

    def load(*more, **named):
        module = real(*more, **named)
        next(module.parameters()).data.fill_(torch.nan)
        return module

    monkeypatch.setattr(models, "load", load)
    with pytest.raises(BaseError, match="values that are not finite"):
        encode("sd15", ["a cat"])


def of_diffusers(name, folder):
    """diffusers' own pipeline; its clip_skip for SD 1.5 looks for ``text_model``, which transformers 5 has no longer."""
    import diffusers

    pipe = getattr(diffusers, bases.get(name).pipeline).from_pretrained(
        folder, variant="fp16", **({"safety_checker": None} if name == "sd15" else {})
    )
    if not hasattr(pipe.text_encoder, "text_model"):
        object.__setattr__(
            pipe.text_encoder, "text_model", pipe.text_encoder
        )  # past torch, to which it would be a part of itself
    return pipe


@pytest.mark.parametrize(
    ("name", "clip_skip", "of_theirs"),
    [("sd15", 1, None), ("sd15", 2, 1), ("sd15", 3, 2), ("sdxl", 2, None), ("sdxl", 3, 1)],
)
def test_clip_skip_parity_with_diffusers(encode, hub, name, clip_skip, of_theirs):
    prompt = "a girl with short purple hair"
    ours = encode(name, [prompt, ""], clip_skip=clip_skip)
    pipe = of_diffusers(name, hub(name).folder)
    with torch.no_grad():
        theirs = pipe.encode_prompt(
            prompt,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            clip_skip=of_theirs,
        )
        theirs_empty = pipe.encode_prompt(
            "",
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=of_theirs,
        )
    assert (ours[prompt].tokens - theirs[0][0]).abs().max() < 1e-5
    if name == "sdxl":
        assert torch.equal(ours[prompt].pooled, theirs[2][0]) and not ours[""].tokens.any()
    else:
        assert (ours[""].tokens - theirs_empty[0][0]).abs().max() < 1e-5
    usual = encode(name, [prompt])[prompt]
    assert torch.equal(ours[prompt].tokens, usual.tokens) == (of_theirs is None)


@pytest.mark.parametrize(
    "prompt", ["a (red:1.3) cat", "a (red:0.5) cat", "a girl with a red cat, " * 8]
)
def test_clip_skip_reaches_weights_and_long_prompts_parity_with_compel(encode, hub, prompt):
    from compel import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

    pipe = of_diffusers("sd15", hub("sd15").folder)
    theirs = EmbeddingsProvider(
        pipe.tokenizer,
        pipe.text_encoder,
        truncate=False,
        returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NORMALIZED,
        split_long_text_mode=SplitLongTextMode.PHRASES,
    )
    texts, weights = zip(*syntax.parse(prompt))
    with torch.no_grad():
        expected = theirs.get_embeddings_for_weighted_prompt_fragments(
            [list(texts)], [list(weights)]
        )[0]
    ours, usual = (encode("sd15", [prompt], clip_skip=skip)[prompt].tokens for skip in (2, None))
    assert (ours - expected).abs().max() < 1e-5 and (ours - usual).abs().max() > 0.01


def test_clip_skip_leaves_the_encoder_as_it_was(hub):
    pipe = of_diffusers("sdxl", hub("sdxl").folder)
    before = [
        encoder.encoder.layers for encoder in (pipe.text_encoder, pipe.text_encoder_2.text_model)
    ]
    with pytest.raises(ZeroDivisionError), conditioning._without_last_layers(pipe, 2):
        assert [
            len(encoder.encoder.layers)
            for encoder in (pipe.text_encoder, pipe.text_encoder_2.text_model)
        ] == [1, 1]
        1 / 0
    assert [
        encoder.encoder.layers for encoder in (pipe.text_encoder, pipe.text_encoder_2.text_model)
    ] == before


def test_clip_skip_beyond_the_layers_there_are_is_an_error(encode):
    with pytest.raises(
        SettingsError,
        match="clip_skip=4 is more than the 3 layers of the text encoder of 'sd15': set it to 3 or less",
    ):
        encode("sd15", ["a cat"], clip_skip=4)


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_embeddings_with_and_without_a_lora_lie_side_by_side(
    hub, make_settings, tmp_path, monkeypatch, name
):
    """A LoRA enters the cache where it changes a text encoder, and the base's own embeddings stay as they were."""
    base, settings = hub(name), make_settings(base=name)
    plan, path, other = (
        memory.plan(base, settings),
        tmp_path / "one.safetensors",
        tmp_path / "other.safetensors",
    )
    tiny.whole_lora(base, path)
    tiny.whole_lora(base, other, alphas=(1.0,))
    tiny.lora(base, tmp_path / "unet.safetensors")
    real, loaded = models.load, []
    monkeypatch.setattr(
        models,
        "load",
        lambda base, component, *more, **named: (
            loaded.append(component) or real(base, component, *more, **named)
        ),
    )
    encode = lambda lora: (
        conditioning.encode(
            replace(run_on(base, settings), plan=plan),
            ["a cat"],
            adapter=attaching.text_adapter(base, lora),
        )["a cat"].tokens
    )

    plain, first, second = encode(None), encode(path), encode(other)
    count = len(loaded)
    assert (
        min((plain - first).abs().max(), (plain - second).abs().max(), (first - second).abs().max())
        > 0.01
    )
    for lora, expected in (
        (None, plain),
        (path, first),
        (other, second),
        (tmp_path / "unet.safetensors", plain),
    ):
        assert torch.equal(encode(lora), expected)
    assert len(loaded) == count  # nothing was encoded twice
