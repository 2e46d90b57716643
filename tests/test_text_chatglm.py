"""ChatGLM: weighted words, in embeddings and in mini's pictures."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from storyboard import Settings
from storyboard.models import bases, classifier, conditioning, memory
from storyboard.models.run import run_on
from storyboard.rendering import sampling


@pytest.fixture
def encode(hub, make_settings):
    """(base's name, prompts, captions) -> their embeddings."""

    def run(name, words, captions=()):
        return conditioning.encode(run_on(hub(name), make_settings(base=name)), words, captions)

    return run


def test_chatglm_weights_lead_from_the_prompt_without_the_words_to_it_and_beyond(encode):
    weighted = [f"一只(红色:{weight})小猫" for weight in (0, 0.5, 1, 2)]
    embeddings = list(encode("kolors", [*weighted, "一只小猫"]).values())
    zero, half, one, two, without = (each.tokens for each in embeddings)

    # [gMASK], sop and what stands before the words do not see them; the padding does
    same = (two == one).all(1).nonzero().flatten()
    first, own = int(same[0]), int(same[-1]) + 1
    assert same.tolist() == list(range(first, own))
    assert first > 0 and own < len(one) - 1
    assert torch.equal(one[same], zero[same])

    assert torch.allclose(zero[:first], without[:1].expand(first, -1), atol=1e-3)
    assert torch.allclose(zero[own], without[0], atol=1e-3)
    assert torch.allclose(zero[-1], without[-1], atol=1e-3)
    assert torch.allclose(half, (zero + one) / 2, atol=1e-4)
    assert torch.allclose(two, 2 * one - zero, atol=1e-4)

    pooled = [each.pooled for each in embeddings]
    assert torch.allclose(pooled[0], pooled[4], atol=1e-5)
    assert torch.allclose(pooled[3], 2 * pooled[2] - pooled[0], atol=1e-4)


def test_chatglm_weight_of_zero_draws_the_prompt_without_the_words(encode, hub, make_settings):
    base = hub("kolors")
    embeddings = encode("kolors", ["一只(红色:0)小猫", "一只小猫", "一只红色小猫", ""])
    pipe = sampling.load_pipeline(base, memory.plan(base, make_settings(base="kolors")))
    zero, without, one = sampling.denoise(
        pipe, list(embeddings.values())[:3], [embeddings[""]] * 3, [1, 1, 1], 64, 3, 4.0
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
    """(prompt, attribute, value) -> how sure the classifier is of it, 0 to 1.

    The mean over two pictures by the base alone.
    """
    base, seeds = bases.get("mini"), [200, 201]
    settings = Settings(base="mini", output=str(tmp_path_factory.mktemp("weights")))
    run = run_on(base, settings)
    pipe, model = sampling.load_pipeline(base, run.plan), classifier.load()

    def scores(prompt, attribute, value):
        embeddings = conditioning.encode(run, [prompt, ""])
        pictures = sampling.draw(
            pipe,
            [embeddings[prompt]] * len(seeds),
            [embeddings[""]] * len(seeds),
            seeds,
            base.resolution,
            6,
            base.guidance_scale,
        )
        side = (classifier.SIDE, classifier.SIDE)
        pixels = np.stack([np.asarray(each.resize(side, Image.LANCZOS)) for each in pictures])
        with torch.no_grad():
            probabilities = model(classifier.as_tensor(pixels))[attribute].softmax(1)
        return probabilities[:, classifier.VALUES[attribute].index(value)].mean().item()

    return scores


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "attribute", "value"),
    [
        ("卡通，紫色短发女孩，微笑，白色衣服，(森林:{})", "background", "forest"),
        ("手绘头像，(扁平插画:{})，紫色短发女孩，微笑，红色衣服，海边", "style", "avataaars"),
        ("卡通，紫色(长发:{})女孩，白色衣服，微笑，白色背景", "hair_length", "long"),
        ("卡通，(紫色短发:{})女孩，白色衣服，微笑，白色背景", "hair_color", "purple"),
        ("卡通，紫色短发女孩，(黄色衣服:{})，微笑，白色背景", "clothes_color", "yellow"),
        ("卡通，紫色短发女孩，白色衣服，(大笑:{})，白色背景", "expression", "laughing"),
        ("卡通，紫色短发女孩，白色衣服，微笑，白色背景，(弹吉他:{})", "prop", "guitar"),
    ],
)
def test_raising_a_weight_raises_its_score_on_mini(mini_scores, prompt, attribute, value):
    scores = [mini_scores(prompt.format(weight), attribute, value) for weight in (0, 0.5, 1, 1.4)]
    rises = all(lower <= higher + 0.005 for lower, higher in itertools.pairwise(scores))
    assert rises and scores[-1] - scores[0] > 0.5, scores


@pytest.mark.slow
def test_a_large_weight_decides_between_two_colours_on_mini(mini_scores):
    light, heavy = (
        mini_scores(
            f"卡通，(紫色:{weight})绿色长发女孩，微笑，白色衣服，白色背景", "hair_color", "purple"
        )
        for weight in (1.0, 1.8)
    )
    assert light < 0.1 and heavy > 0.9
