"""CLIP: weighted words, and prompts longer than it reads at once."""

import math

import pytest
import torch

from storyboard import Story, prompts, render
from storyboard.models import conditioning, memory
from storyboard.models import loading as models
from storyboard.models.run import run_on
from storyboard.rendering import sampling

CLIP = ("sdxl", "sd15")
LONG = "a girl with a red cat, " * 8  # one byte is one token of the tiny CLIP


@pytest.fixture
def encode(hub, make_settings):
    """(base's name, prompts, captions) -> their embeddings."""

    def run(name, words, captions=()):
        return conditioning.encode(run_on(hub(name), make_settings(base=name)), words, captions)

    return run


def by_the_formula(pipe, pieces):
    """compel's documented formula anew, on one chunk for each of the pipeline's encoders."""
    if not hasattr(pipe, "tokenizer_2"):
        return of_encoder(pipe.tokenizer, pipe.text_encoder, pieces, penultimate=False)
    both = ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
    return torch.cat([of_encoder(*each, pieces, penultimate=True) for each in both], dim=-1)


def of_encoder(tokenizer, encoder, pieces, penultimate):
    ids, spans = [tokenizer.bos_token_id], []
    for text, weight in pieces:
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        spans.append((len(ids), len(ids) + len(own), weight))
        ids += own

    def states(ids, mask=None):
        padding = [tokenizer.pad_token_id] * (76 - len(ids))
        padded = torch.tensor([[*ids, tokenizer.eos_token_id, *padding]])
        out = encoder(padded, attention_mask=mask, output_hidden_states=True)
        return out.hidden_states[-2][0] if penultimate else out.last_hidden_state[0]

    empty = states([tokenizer.bos_token_id])
    scale = torch.ones(77, 1)
    for start, end, weight in spans:
        scale[start:end] = weight

    parts, shares = [empty + scale * (states(ids) - empty)], [1.0]
    for start, end, weight in spans:
        if weight < 1:
            mask = torch.ones(1, 77, dtype=torch.long)
            mask[0, start:end] = 0
            parts.append(empty + scale * (states(ids, mask) - empty))
            shares.append(math.tan((1 - weight) * math.pi / 2))
    total = sum(part * share for part, share in zip(parts, shares, strict=True))
    return total / sum(shares)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIP)
@pytest.mark.parametrize("prompt", ["a (red:1.4) cat", "a ((red) cat:0.6), (dog:1.2)"])
def test_clips_weights_follow_the_documented_formula(encode, hub, make_settings, name, prompt):
    base = hub(name)
    plan = memory.plan(base, make_settings(base=name))
    pipe = conditioning.text_pipeline(base, plan.device, plan.dtype)
    with torch.no_grad():
        theirs = by_the_formula(pipe, prompts.parse(prompt))
    assert (encode(name, [prompt])[prompt].tokens - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("name", CLIP)
def test_a_long_weighted_or_plain_prompt_is_read_whole(encode, name):
    embeddings = encode(
        name, [LONG, LONG[:-3] + "dog", f"{LONG}(blue:1.5)", "a cat", ""], captions=[LONG]
    )
    long, short = embeddings[LONG].tokens, embeddings["a cat"].tokens
    other_end = embeddings[LONG[:-3] + "dog"].tokens
    assert len(long) == 2 * 77 and len(short) == 77
    assert not torch.allclose(long[-77:], other_end[-77:])
    assert torch.isfinite(embeddings[f"{LONG}(blue:1.5)"].tokens).all()

    tokens, _ = conditioning.stack([embeddings[LONG], embeddings["a cat"], embeddings[""]])
    assert tokens.shape[:2] == (3, len(long))
    assert torch.equal(tokens[1, :77], short) and torch.equal(tokens[1, 77:], short)
    assert tokens[2].any() == (name == "sd15")


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIP)
def test_a_picture_does_not_depend_on_the_length_of_its_neighbours(
    encode, hub, make_settings, name
):
    """Prompts of one, two and three chunks are repeated to six: attention gives the same."""
    base, embeddings = hub(name), encode(name, ["a cat", LONG, LONG + LONG[:90], ""])
    assert [len(each.tokens) // 77 for each in embeddings.values()] == [1, 2, 3, 1]
    tokens, pooled = conditioning.stack(embeddings.values())
    assert len(tokens[0]) == 6 * 77 and tokens[3].any() == (name == "sd15")
    unet = models.load(base, "unet", torch.float32)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def predicted(tokens, pooled):
        added = {
            "text_embeds": pooled,
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(len(tokens), 1),
        }
        with torch.no_grad():
            return unet(
                noise.repeat(len(tokens), 1, 1, 1), 500, tokens, added_cond_kwargs=added
            ).sample

    together = predicted(tokens, pooled)
    for each, row in zip(embeddings.values(), together, strict=True):
        alone = predicted(each.tokens[None], each.pooled[None])[0]
        assert (alone - row).abs().max() < 1e-4 * row.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIP)
@pytest.mark.parametrize(
    "prompt",
    [LONG, f"{LONG}(blue dog, " + "white bird, " * 9 + "sky:1.5)[, end]", f"(a:1.2), {LONG * 2}"],
)
def test_chunks_say_what_clip_read_in_each(encode, hub, make_settings, name, prompt):
    """Each chunk alone gives its 77 tokens, and the first the prompt's pooled embedding."""
    embedding = encode(name, [prompt])[prompt]
    assert prompts.parse("".join(embedding.chunks)) == prompts.parse(prompt)
    assert len(embedding.chunks) == len(embedding.tokens) // 77 > 1
    assert all(prompts.plain(chunk).rstrip().endswith(",") for chunk in embedding.chunks[:-1])

    alone = encode(name, embedding.chunks)
    parts = [alone[chunk] for chunk in embedding.chunks]
    assert all(not part.chunks and len(part.tokens) == 77 for part in parts)
    if all(weight >= 1 for _, weight in prompts.parse(prompt)):
        tokens = torch.cat([part.tokens for part in parts])
        assert (tokens - embedding.tokens).abs().max() < 1e-4
    assert torch.equal(parts[0].pooled, embedding.pooled)


def test_a_word_that_is_cut_in_two_has_no_chunks(encode):
    embeddings = encode("sd15", ["x" * 200, "a cat", "a (cat:1.2)"])
    assert [len(each.tokens) // 77 for each in embeddings.values()] == [3, 1, 1]
    assert not any(each.chunks for each in embeddings.values())


@pytest.mark.slow
def test_prompts_whose_common_length_is_too_large_are_drawn_apart(
    hub, make_settings, tmp_path, monkeypatch
):
    """One to five chunks have a common length of sixty."""
    hub("sd15")
    batches, real = [], sampling.draw
    monkeypatch.setattr(
        sampling,
        "draw",
        lambda pipe, positive, *more, **named: (
            batches.append([len(each.tokens) // 77 for each in positive])
            or real(pipe, positive, *more, **named)
        ),
    )
    settings = make_settings(base="sd15", num_inference_steps=2)
    words = ["a cat", *("a cat, " * count for count in (18, 40, 55, 70)), "a dog"]
    drawn = [panel.drawn for panel in render(Story(words), settings, None).panels]
    assert sorted(batches) == [[1, 1], [2], [3], [4], [5]]
    assert [each.text_length // 77 for each in drawn] == [1, 2, 3, 4, 5, 1]
    assert [each.chunks is None for each in drawn] == [True, False, False, False, False, True]

    batches.clear()
    pictures = render(Story(words[:3] + words[5:]), settings, None, tmp_path / "other")
    drawn = [panel.drawn for panel in pictures.panels]
    assert batches == [[1, 2, 3, 1]]
    assert {each.text_length for each in drawn} == {6 * 77}
    assert [len(each.chunks.get("prompt", [])) for each in drawn] == [0, 2, 3, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIP)
def test_prompts_of_different_lengths_and_weights_are_drawn_together(
    encode, hub, make_settings, name
):
    base, embeddings = hub(name), encode(name, [LONG, "a (cat:1.3)", ""])
    pipe = sampling.load_pipeline(base, memory.plan(base, make_settings(base=name)))
    latents = sampling.denoise(
        pipe,
        [embeddings[LONG], embeddings["a (cat:1.3)"]],
        [embeddings[""], embeddings[LONG]],
        [1, 2],
        64,
        2,
        4.0,
    )
    assert latents.shape == (2, 4, 8, 8) and torch.isfinite(latents).all()
