"""Weighted prompts: their syntax, and what the weights do to embeddings and pictures."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from storyboard import Panel, Settings, Story, png, prompts, render
from storyboard.errors import SettingsError
from storyboard.models import bases, conditioning, memory
from storyboard.models import loading as models
from storyboard.models.run import run_on
from storyboard.rendering import sampling
from storyboard.scoring import classifier

NAMES = ("kolors", "sdxl", "sd15")
CLIP = ("sdxl", "sd15")
LONG = "a girl with a red cat, " * 8  # one byte is one token of the tiny CLIP


@pytest.fixture
def encode(hub, make_settings):
    """(base's name, prompts, captions) -> their embeddings."""

    def run(name, said, captions=()):
        base, settings = hub(name), make_settings(base=name)
        return conditioning.encode(run_on(base, settings), said, captions)

    return run


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("()", []),
        (
            "(lowres, low quality, worst quality:1.2), (text:1.2), deformed",
            [
                ("lowres, low quality, worst quality", 1.2),
                (", ", 1),
                ("text", 1.2),
                (", deformed", 1),
            ],
        ),
        ("(a) [b]", [("a ", 1.1), ("b", 0.909091)]),
        ("((a) b [c:2])", [("a ", 1.21), ("b ", 1.1), ("c:2", 1)]),
        ("x (a (b:2):0.5)", [("x ", 1), ("a ", 0.5), ("b", 1)]),
        (r"a \(b\) \[c\] \\ d", [("a (b) [c] \\ d", 1)]),
        ("([a]) (b:1.0) c", [("a b c", 1)]),
        ("1:2, (3:x)", [("1:2, ", 1), ("3:x", 1.1)]),
        ("二次元，(紫色短发: .5 )", [("二次元，", 1), ("紫色短发", 0.5)]),
    ],
)
def test_weights_are_read_as_a1111_reads_them(prompt, pieces):
    assert prompts.parse(prompt) == pieces


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("二次元，(紫色:1.2，女孩", r"'\(' at character 5 that is never closed \(二次元，►\(紫色"),
        ("a) b", r"'\)' at character 2 that is never opened \(a►\) b\)"),
        ("(a]", r"'\(' at character 1"),
        ("a [b", r"'\[' at character 3"),
        ("(a:11)", "weight 11 at character 4"),
        ("(a:-1)", "weight -1"),
    ],
)
def test_a_wrong_weight_shows_where_before_anything_runs(prompt, said):
    for make in (
        lambda: Panel(prompt),
        lambda: Panel("a", negative_prompt=prompt),
        lambda: Story([prompt]),
        lambda: Story(["a"], negative_prompt=prompt),
    ):
        with pytest.raises(SettingsError, match=said) as error:
            make()
        assert "\n" not in str(error.value)


def test_a_weighted_prompt_stands_in_the_png_as_typed():
    panel = Story([r"(a:1.2) \(b\)"], "[c]").resolved(3)[0]
    facts = {
        "steps": 1,
        "sampler": "",
        "schedule_type": "",
        "guidance_scale": 1.0,
        "width": 8,
        "height": 8,
        "base_fingerprint": "",
        "base": "",
        "lora": None,
    }
    assert png.parameters(panel | facts).startswith("(a:1.2) \\(b\\)\nNegative prompt: [c]\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_one_is_no_brackets(encode, hub, make_settings, name):
    said = encode(
        name,
        [
            "a red cat",
            "a (red:1.0) cat",
            "a ([red]) cat",
            "a (red:1.3) cat",
            "a (red:0.7) cat",
            "a (red:0) cat",
        ],
        captions=["a (red:1.3) cat"],
    )
    base = hub(name)
    plan = memory.plan(base, make_settings(base=name))
    pipe = conditioning._text_pipeline(base, plan.device, plan.dtype, None)
    with torch.no_grad():
        theirs = pipe.encode_prompt(
            "a red cat",
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )[0][0]
    same = [said[prompt].tokens for prompt in ("a red cat", "a (red:1.0) cat", "a ([red]) cat")]
    assert all(torch.equal(tokens, theirs) for tokens in same)
    assert (
        len(
            {
                said[prompt].tokens.abs().sum().item()
                for prompt in ("a red cat", "a (red:1.3) cat", "a (red:0.7) cat", "a (red:0) cat")
            }
        )
        == 4
    )
    caption = said[prompts.literal("a (red:1.3) cat")].tokens  # says brackets
    assert not any(
        torch.allclose(caption, said[prompt].tokens) for prompt in ("a red cat", "a (red:1.3) cat")
    )


def peer(pipe, pieces):
    """compel's documented formula anew, on one chunk for each of the pipeline's encoders."""
    encoders = [(pipe.tokenizer, pipe.text_encoder)] + (
        [(pipe.tokenizer_2, pipe.text_encoder_2)] if hasattr(pipe, "tokenizer_2") else []
    )

    def one(tokenizer, encoder):
        ids, spans = [tokenizer.bos_token_id], []
        for text, weight in pieces:
            own = tokenizer(text, add_special_tokens=False)["input_ids"]
            spans.append((len(ids), len(ids) + len(own), weight))
            ids += own
        pad = lambda ids: torch.tensor(
            [ids + [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (76 - len(ids))]
        )

        def states(ids, mask=None):
            out = encoder(pad(ids), attention_mask=mask, output_hidden_states=True)
            return out.hidden_states[-2][0] if len(encoders) == 2 else out.last_hidden_state[0]

        empty = states([tokenizer.bos_token_id])
        scale = torch.ones(77, 1)
        for start, end, weight in spans:
            scale[start:end] = weight
        heavy = lambda mask=None: empty + scale * (states(ids, mask) - empty)
        parts, shares = [heavy()], [1.0]
        for start, end, weight in spans:
            if weight < 1:
                mask = torch.ones(1, 77, dtype=torch.long)
                mask[0, start:end] = 0
                parts.append(heavy(mask))
                shares.append(math.tan((1 - weight) * math.pi / 2))
        return sum(part * share for part, share in zip(parts, shares)) / sum(shares)

    return torch.cat([one(*each) for each in encoders], dim=-1)


@pytest.mark.parametrize("name", CLIP)
@pytest.mark.parametrize("prompt", ["a (red:1.4) cat", "a ((red) cat:0.6), (dog:1.2)"])
def test_clips_weights_follow_the_documented_formula(encode, hub, make_settings, name, prompt):
    base = hub(name)
    plan = memory.plan(base, make_settings(base=name))
    pipe = conditioning._text_pipeline(base, plan.device, plan.dtype, None)
    with torch.no_grad():
        theirs = peer(pipe, prompts.parse(prompt))
    assert (encode(name, [prompt])[prompt].tokens - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("name", CLIP)
def test_a_long_weighted_or_plain_prompt_is_read_whole(encode, name):
    said = encode(
        name, [LONG, LONG[:-3] + "dog", f"{LONG}(blue:1.5)", "a cat", ""], captions=[LONG]
    )
    assert len(said[LONG].tokens) == 2 * 77 and len(said["a cat"].tokens) == 77
    assert (
        not torch.allclose(said[LONG].tokens[-77:], said[LONG[:-3] + "dog"].tokens[-77:])
        and torch.isfinite(said[f"{LONG}(blue:1.5)"].tokens).all()
    )
    tokens, pooled = conditioning.stack([said[LONG], said["a cat"], said[""]])
    assert tokens.shape[:2] == (3, len(said[LONG].tokens)) and torch.equal(
        tokens[1, :77], said["a cat"].tokens
    )
    assert torch.equal(tokens[1, 77:], said["a cat"].tokens) and tokens[2].any() == (name == "sd15")


@pytest.mark.parametrize("name", CLIP)
def test_a_picture_does_not_depend_on_the_length_of_its_neighbours(
    encode, hub, make_settings, name
):
    """Prompts of one, two and three chunks are repeated to six, and attention gives what it gives alone."""
    base, said = hub(name), encode(name, ["a cat", LONG, LONG + LONG[:90], ""])
    assert [len(each.tokens) // 77 for each in said.values()] == [1, 2, 3, 1]
    tokens, pooled = conditioning.stack(said.values())
    assert len(tokens[0]) == 6 * 77 and tokens[3].any() == (name == "sd15")
    unet, noise = (
        models.load(base, "unet", torch.float32),
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
    )

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
    for each, row in zip(said.values(), together):
        assert (
            predicted(each.tokens[None], each.pooled[None])[0] - row
        ).abs().max() < 1e-4 * row.abs().max()


@pytest.mark.parametrize("name", CLIP)
@pytest.mark.parametrize(
    "prompt",
    [LONG, f"{LONG}(blue dog, " + "white bird, " * 9 + "sky:1.5)[, end]", f"(a:1.2), {LONG * 2}"],
)
def test_chunks_say_what_clip_read_in_each(encode, hub, make_settings, name, prompt):
    """Each chunk read alone gives its 77 tokens, and the first one's pooled embedding is the prompt's."""
    said = encode(name, [prompt])[prompt]
    assert (
        prompts.parse("".join(said.chunks)) == prompts.parse(prompt)
        and len(said.chunks) == len(said.tokens) // 77 > 1
    )
    assert all(prompts.plain(chunk).rstrip().endswith(",") for chunk in said.chunks[:-1])
    alone = encode(name, said.chunks)
    parts = [alone[chunk] for chunk in said.chunks]
    assert all(not part.chunks and len(part.tokens) == 77 for part in parts)
    heavy = all(weight >= 1 for _, weight in prompts.parse(prompt))
    assert (
        not heavy or (torch.cat([part.tokens for part in parts]) - said.tokens).abs().max() < 1e-4
    )
    assert torch.equal(parts[0].pooled, said.pooled)


def test_a_word_that_is_cut_in_two_has_no_chunks(encode):
    said = encode("sd15", ["x" * 200, "a cat", "a (cat:1.2)"])
    assert [len(each.tokens) // 77 for each in said.values()] == [3, 1, 1] and not any(
        each.chunks for each in said.values()
    )


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
    pictures = render(Story(words), settings, None)
    assert sorted(batches) == [[1, 1], [2], [3], [4], [5]]
    assert [panel["text_length"] // 77 for panel in pictures.panels] == [1, 2, 3, 4, 5, 1]
    assert ["chunks" in panel for panel in pictures.panels] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]
    batches.clear()
    pictures = render(Story(words[:3] + words[5:]), settings, None, tmp_path / "other")
    assert batches == [[1, 2, 3, 1]] and {panel["text_length"] for panel in pictures.panels} == {
        6 * 77
    }
    assert [len(panel["chunks"].get("prompt", [])) for panel in pictures.panels] == [0, 2, 3, 0]


@pytest.mark.parametrize("name", CLIP)
def test_prompts_of_different_lengths_and_weights_are_drawn_together(
    encode, hub, make_settings, name
):
    base, said = hub(name), encode(name, [LONG, "a (cat:1.3)", ""])
    pipe = sampling.load_pipeline(base, memory.plan(base, make_settings(base=name)))
    latents = sampling.denoise(
        pipe, [said[LONG], said["a (cat:1.3)"]], [said[""], said[LONG]], [1, 2], 64, 2, 4.0
    )
    assert latents.shape == (2, 4, 8, 8) and torch.isfinite(latents).all()


def test_chatglm_weights_lead_from_the_prompt_without_the_words_to_it_and_beyond(encode):
    said = encode(
        "kolors", [*(f"一只(红色:{weight})小猫" for weight in (0, 0.5, 1, 2)), "一只小猫"]
    )
    zero, half, one, two, without = (each.tokens for each in said.values())
    still = (
        (two == one).all(1).nonzero().flatten()
    )  # what stands before the words, and [gMASK] and sop; the padding sees the words
    first, own = int(still[0]), int(still[-1]) + 1
    assert (
        still.tolist() == list(range(first, own))
        and first > 0
        and own < len(one) - 1
        and torch.equal(one[still], zero[still])
    )
    assert (
        torch.allclose(zero[:first], without[:1].expand(first, -1), atol=1e-3)
        and torch.allclose(zero[own], without[0], atol=1e-3)
        and torch.allclose(zero[-1], without[-1], atol=1e-3)
    )
    assert torch.allclose(half, (zero + one) / 2, atol=1e-4) and torch.allclose(
        two, 2 * one - zero, atol=1e-4
    )
    pooled = [each.pooled for each in said.values()]
    assert torch.allclose(pooled[0], pooled[4], atol=1e-5) and torch.allclose(
        pooled[3], 2 * pooled[2] - pooled[0], atol=1e-4
    )


def test_chatglm_weight_of_zero_draws_the_prompt_without_the_words(encode, hub, make_settings):
    base = hub("kolors")
    said = encode("kolors", ["一只(红色:0)小猫", "一只小猫", "一只红色小猫", ""])
    pipe = sampling.load_pipeline(base, memory.plan(base, make_settings(base="kolors")))
    zero, without, one = sampling.denoise(
        pipe, list(said.values())[:3], [said[""]] * 3, [1, 1, 1], 64, 3, 4.0
    )
    assert (zero - without).abs().max() < 1e-3 < 1e-2 < (one - without).abs().max()


def test_chatglm_weights_find_what_is_behind_them_in_a_prompt_that_is_cut(encode):
    rest = "，红色小猫" * 200
    zero, without = (each.tokens for each in encode("kolors", [f"(一只:0){rest}", rest]).values())
    assert (
        sum(
            torch.allclose(zero[20:], without[20 - shift : len(without) - shift], atol=1e-3)
            for shift in range(1, 8)
        )
        == 1
    )


@pytest.fixture(scope="module")
def mini_scores(tmp_path_factory):
    """(prompt, attribute, value) -> how sure the classifier is of it, 0 to 1, on the average of four pictures by the base alone."""
    base, settings, seeds = (
        bases.get("mini"),
        Settings(base="mini", output=str(tmp_path_factory.mktemp("weights"))),
        [200, 201, 202, 203],
    )
    plan = memory.plan(base, settings)
    pipe, model = sampling.load_pipeline(base, plan), classifier.load()

    def scores(prompt, attribute, value):
        said = conditioning.encode(replace(run_on(base, settings), plan=plan), [prompt, ""])
        pictures = sampling.draw(
            pipe,
            [said[prompt]] * len(seeds),
            [said[""]] * len(seeds),
            seeds,
            base.resolution,
            6,
            base.guidance_scale,
        )
        pixels = np.stack(
            [
                np.asarray(picture.resize((classifier.SIDE, classifier.SIDE), Image.LANCZOS))
                for picture in pictures
            ]
        )
        with torch.no_grad():
            return (
                model(classifier.as_tensor(pixels))[attribute]
                .softmax(1)[:, classifier.VALUES[attribute].index(value)]
                .mean()
                .item()
            )

    return scores


@pytest.mark.parametrize(
    ("prompt", "attribute", "value"),
    [
        ("卡通，紫色短发女孩，微笑，白色衣服，(森林:{})", "background", "forest"),
        ("手绘头像，(扁平插画:{})，紫色短发女孩，微笑，红色衣服，海边", "style", "avataaars"),
        ("卡通，紫色(长发:{})女孩，白色衣服，微笑，白色背景", "hair_length", "long"),
        ("卡通，(紫色短发:{})女孩，白色衣服，微笑，白色背景", "hair_color", "purple"),
        ("卡通，紫色短发女孩，(蓝色衣服:{})，微笑，白色背景", "clothes_color", "blue"),
        ("卡通，紫色短发女孩，白色衣服，(大笑:{})，白色背景", "expression", "laughing"),
        ("卡通，紫色短发女孩，白色衣服，微笑，白色背景，(弹吉他:{})", "prop", "guitar"),
    ],
)
def test_raising_a_weight_raises_its_score_on_mini(mini_scores, prompt, attribute, value):
    scores = [
        mini_scores(prompt.format(weight), attribute, value) for weight in (0, 0.3, 0.6, 1.0, 1.4)
    ]
    assert (
        all(lower <= higher + 0.005 for lower, higher in itertools.pairwise(scores))
        and scores[-1] - scores[0] > 0.5
    ), scores


def test_a_large_weight_decides_between_two_colours_on_mini(mini_scores):
    light, heavy = (
        mini_scores(
            f"卡通，(紫色:{weight})绿色长发女孩，微笑，白色衣服，白色背景", "hair_color", "purple"
        )
        for weight in (1.0, 1.8)
    )
    assert light < 0.1 and heavy > 0.9


def test_lengths_without_a_small_common_multiple_are_bounded():
    """A batch of captions of 2 to 5 chunks: 60 chunks would fill the card, so the longest counts."""
    said = [
        conditioning.Embedding(torch.randn(77 * chunks, 8), torch.randn(4))
        for chunks in (2, 3, 4, 5)
    ]
    tokens, _ = conditioning.stack(said)
    assert tokens.shape == (4, 77 * 5, 8) and torch.equal(
        tokens[0, : 77 * 4], said[0].tokens.repeat(2, 1)
    )
    assert (
        conditioning.common_length([77 * 2, 77 * 3]) == 77 * 6
        and conditioning.common_length([77 * 13]) == 77 * 13
    )
