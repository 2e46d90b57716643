import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import Story, best, render, score, vocabulary
from storyboard.data.captions import Captions
from storyboard.errors import BaseError, LoraError, ScoringError
from storyboard.lora.file import Lora
from storyboard.rendering.stage import Pictures
from storyboard.scoring import classifier, feature_statistics, metric_models, metrics
from storyboard.scoring.choosing import choose
from storyboard.scoring.scores import TITLES, Measure
from tests import layouts, tiny
from tests.conftest import picture

STORY = Story(
    [
        "二次元，紫色短发女孩，微笑，白色衣服，看书，教室",
        "anime, a girl with short purple hair, sad, white clothes, rain",
    ]
)


def pictures_of(folder, panels):
    """A story as ``render`` leaves it, of given pictures: ``panels`` are (picture, prompt)."""
    folder.mkdir(parents=True)
    for place, (image, _) in enumerate(panels, 1):
        image.save(folder / f"panel-{place}.png")
    return Pictures(folder, [{"prompt": prompt, "lora": "0" * 64} for _, prompt in panels])


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    """(settings, captions, lora, pictures with it, pictures of the base)."""
    settings, _, captions, lora = trained
    settings = settings.but(output=str(tmp_path_factory.mktemp("scored")))
    return settings, captions, lora, render(STORY, settings, lora), render(STORY, settings, None)


def test_score_shows_lora_and_base_and_a_reading_for_each(drawn):
    settings, captions, _, pictures, base = drawn
    found = score(pictures, settings, captions, base)
    assert list(found.sets) == ["LoRA", "base"]
    assert (
        0 <= found.value("match") <= 100
        and 0 <= found.value("coherence", "base") <= 100
        and 0 <= found.value("aesthetics") <= 100
    )
    shown = found._repr_html_()
    for measure, title in TITLES.items():
        assert (title in shown and title in str(found)) == (measure not in metrics.PREFERENCE)
    assert "of 11 attributes named in the prompts" in shown and "of 11 attributes" in str(found)


def test_scores_are_the_same_twice_and_computed_once(drawn, monkeypatch):
    settings, captions, _, pictures, base = drawn
    first = score(pictures, settings, captions, base)
    shutil.rmtree(settings.folder / "scores")
    assert score(pictures, settings, captions, base) == first
    monkeypatch.setattr(classifier, "load", lambda: pytest.fail("computed again"))
    assert score(pictures, settings, captions, base) == first


def test_scores_follow_the_pictures(drawn):
    settings, captions, _, pictures, _ = drawn
    before = score(pictures, settings, captions)
    kept = pictures.paths[0].read_bytes()
    picture(1, 64).save(pictures.paths[0])
    assert score(pictures, settings, captions) != before
    pictures.paths[0].unlink()
    with pytest.raises(ScoringError, match="panel-1.png is gone: run the cell that draws it again"):
        score(pictures, settings, captions)
    pictures.paths[0].write_bytes(kept)
    assert score(pictures, settings, captions) == before


def test_training_pictures_score_as_their_captions_say(trained, tmp_path):
    from PIL import Image

    settings, _, captions, _ = trained
    rows = captions.rows[::40][:8]
    own = pictures_of(
        tmp_path / "own", [(Image.open(captions.path(row)), row.text) for row in rows]
    )
    strange = pictures_of(
        tmp_path / "strange", [(picture(seed), row.text) for seed, row in enumerate(rows)]
    )
    settings = settings.but(output=str(tmp_path))
    own, strange = score(own, settings, captions), score(strange, settings, captions)
    assert own.value("match") >= 90 and strange.value("match") < 60
    assert own.value("style") < 10 < 30 < strange.value("style")
    assert (
        own.value("aesthetics") == 100
        and strange.value("aesthetics") == 0
        and "0 of 8 are drawn as" in str(strange)
    )


def test_score_says_which_panel_lacks_what(trained, tmp_path):
    settings, _, captions, _ = trained
    one = pictures_of(
        tmp_path / "one", [(picture(0), "星星"), (picture(1), "紫色短发女孩，抱着小猫")]
    )
    found = score(one, settings.but(output=str(tmp_path)), captions).sets["LoRA"]["match"]
    assert found.value < 100 and "not in panel 2 " in found.reading
    none = score(
        pictures_of(tmp_path / "none", [(picture(0), "星星，橙色衣服")]),
        settings.but(output=str(tmp_path)),
        captions,
    )
    assert (
        none.value("match") is None
        and "no prompt names anything" in str(none)
        and "single picture" in str(none)
    )


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "二次元，紫色短发女孩，闭着眼睛，白色衣服，抱着小猫，家里",
            {
                "hair_color": {"purple"},
                "hair_length": {"short"},
                "expression": {"asleep"},
                "clothes_color": {"white"},
                "prop": {"cat"},
                "background": {"home"},
            },
        ),
        (
            "anime, a girl with long blonde hair, with a smile, red clothes, under an umbrella, rainy day",
            {
                "hair_color": {"blonde"},
                "hair_length": {"long"},
                "expression": {"smiling"},
                "clothes_color": {"red"},
                "prop": {"umbrella"},
                "background": {"rain"},
            },
        ),
        ("女孩，(金发:1.3)，[蓝色背景]", {"hair_color": {"blonde"}, "background": {"blue"}}),
        (
            "a boy, (blue:1.2) background, short-haired",
            {"background": {"blue"}, "hair_length": {"short"}},
        ),
        (
            "红色长发，红色或蓝色的衣服",
            {"hair_color": {"red"}, "hair_length": {"long"}, "clothes_color": {"red", "blue"}},
        ),
        ("a brain, a catalogue and a spaceship", {}),
        ("银河里的城堡", {}),
    ],
)
def test_score_reads_what_a_prompt_asks_for(prompt, expected):
    assert vocabulary.named_attributes(prompt) == expected


def test_score_vocabulary_is_what_the_classifier_knows():
    for attribute, known in (
        ("hair_color", vocabulary.HAIR),
        ("hair_length", vocabulary.LENGTH),
        ("expression", vocabulary.EXPRESSION),
        ("prop", vocabulary.PROP),
    ):
        assert set(known) <= set(classifier.VALUES[attribute])
    assert set(vocabulary.SCENE) <= set(classifier.VALUES["background"])


def test_score_measures_on_known_sets():
    generator = torch.Generator().manual_seed(0)
    same, other = (
        torch.randn(300, 64, generator=generator),
        torch.randn(300, 64, generator=generator) + 1,
    )
    near, far = feature_statistics.kid(same[:8], same[8:]), feature_statistics.kid(other[:8], same)
    assert abs(near) < 2 * feature_statistics.chance(same, 8) < far
    direct = lambda a, b: (a.double() @ b.double().T / 64 + 1) ** 3
    x, y = same[:3], other[:4]
    off = lambda k: (k.sum() - k.trace()) / (len(k) * (len(k) - 1))
    assert feature_statistics.kid(x, y) == pytest.approx(
        (off(direct(x, x)) + off(direct(y, y)) - 2 * direct(x, y).mean()).item()
    )
    assert (
        feature_statistics.coherence(torch.ones(8, 4)) == pytest.approx(100)
        and feature_statistics.coherence(torch.eye(4)) == 0
    )
    line = torch.arange(10.0)[:, None]
    assert feature_statistics.precision(torch.tensor([[4.5], [11.9], [12.1], [-2.0]]), line).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_checkpoints_are_kept_and_the_best_is_chosen_by_score(trained, tmp_path, capsys):
    settings, story, captions, lora = trained
    assert [path.name for path in lora.checkpoints] == [
        "step-000004.safetensors",
        "step-000008.safetensors",
        "lora.safetensors",
    ]
    settings = settings.but(output=str(tmp_path))
    choice = best(lora, story, settings, captions, panels=2)
    assert (
        list(choice.scores.sets) == ["step 4", "step 8", "step 12"]
        and choice.lora.path in lora.checkpoints
    )
    assert (
        choice.reason in choice._repr_html_()
        and "step 8" in str(choice)
        and choice.scores.about in choice.reason
    )
    assert len(render(story, settings, choice.lora).paths) == 3
    capsys.readouterr()
    assert (
        best(lora, story, settings, captions, panels=2) == choice
        and "render: drew" not in capsys.readouterr().out
    )
    with pytest.raises(LoraError, match="has no checkpoints beside it"):
        best(Lora(tmp_path / "lora.safetensors", "mini", "", [1.0], []), story, settings, captions)


def test_best_by_score_is_the_nearest_in_style_of_those_that_match():
    of = lambda match, style: {"match": Measure(match, ""), "style": Measure(style, "why")}
    assert choose({"a": of(90.0, 1.0), "b": of(97.0, 5.0), "c": of(100.0, 9.0)})[0] == "b"
    assert choose({"a": of(90.0, 3.0), "b": of(90.0, 3.0)})[0] == "b"
    assert (
        choose({"a": of(80.0, None), "b": of(70.0, None)})[0] == "a"
        and choose({"a": of(None, 2.0), "b": of(None, 3.5)})[0] == "a"
    )
    assert (
        choose({"a": of(95.8, 9.1), "b": of(100.0, 9.2)})[0] == "b"
    )  # so little in style is chance
    with pytest.raises(ScoringError, match="cannot be told apart"):
        choose({"a": of(None, None), "b": of(None, None)})


@pytest.fixture
def metrics_hub(tmp_path, monkeypatch):
    """A local hub that holds a tiny CLIP where DiffSynth's repository of metrics has the real one."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    folder = tmp_path / "hub" / metrics.MODEL / metrics.PARTS["clip"][0]
    tokenizer = tiny.clip_tokenizer(tmp_path / "clip")
    vision = tiny.CLIP | {"image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(
            CLIPConfig(
                text_config=tiny.CLIP
                | {
                    "vocab_size": len(tokenizer),
                    "eos_token_id": tokenizer.eos_token_id,
                    "bos_token_id": tokenizer.bos_token_id,
                },
                vision_config=vision,
                projection_dim=32,
            )
        ).save_pretrained(folder)
    CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
    ).save_pretrained(folder)
    monkeypatch.setenv("STORYBOARD_HUB", str(tmp_path / "hub"))
    return folder


def test_score_uses_diffsynth_clip_where_its_weights_are(
    metrics_hub, captions, make_settings, tmp_path
):
    shown = pictures_of(
        tmp_path / "shown", [(picture(0), "a cat"), (picture(1), "a dog"), (picture(2), "猫")]
    )
    found = score(shown, make_settings(base="sd15"), captions)
    judge = metric_models.load_clip(metrics_hub, "cpu")
    expected = judge.score(["a cat", "a dog"], [picture(0), picture(1)])
    assert found.value("match") == pytest.approx(
        sum(expected) / 2, abs=1e-4
    ) and "2 of 3 in English" in str(found)
    assert 0 < found.value("coherence") <= 100
    assert found.value("style") is found.value("aesthetics") is None
    assert "Inception, for scores is not there" in str(
        found
    ) and "the aesthetic predictor, for scores is not there" in str(found)
    assert not (
        make_settings().folder / "scores" / "shown.json"
    ).exists()  # what is missing may be there next time


def test_score_asks_pickscore_and_hps_where_wanted(metrics_hub, captions, make_settings, tmp_path):
    for folder, _ in metrics.PREFERENCE.values():
        shutil.copytree(metrics_hub, metrics_hub.parent / folder)
    shown = pictures_of(
        tmp_path / "shown", [(picture(0), "a cat"), (picture(1), "a dog"), (picture(2), "猫")]
    )
    settings = make_settings(base="sd15")
    assert "PickScore" not in str(score(shown, settings, captions))
    found = score(shown, settings, captions, preference=True)
    pick, hps = (load(metrics_hub, "cpu") for load in (metric_models.load_pickscore, metric_models.load_hps))
    both = ["a cat", "a dog"], [picture(0), picture(1)]
    assert found.value("pickscore") == pytest.approx(
        torch.tensor(pick.score(*both)).diagonal().mean().item(), abs=1e-4
    )
    assert found.value("hps") == pytest.approx(sum(hps.score(*both)) / 2, abs=1e-4)
    assert (
        "PickScore 偏好" in str(found)
        and "HPS v2 偏好" in found._repr_html_()
        and str(found).count("2 of 3 in English") == 3
    )
    shutil.rmtree(metrics_hub.parent / "HPSv2")
    assert "HPS v2 is not there" in str(score(shown, settings, captions, preference=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda tensors: tensors.pop("visual.proj"),
            "visual_projection.weight should be .* and is absent",
        ),
        (lambda tensors: tensors.update(strange=torch.zeros(2)), "holds strange, which"),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if "resblocks" in name],
            "tensors differ",
        ),
    ],
)
def test_score_of_hps_needs_every_tensor(tmp_path, monkeypatch, change, said):
    """OpenCLIP's names beside a config.json: what is not found there must not be random."""
    folder = tmp_path / "hub" / metrics.MODEL / metrics.PREFERENCE["hps"][0]
    layouts.clip(folder, open_clip=True)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseError, match=said):
        metric_models.load_hps(folder, "cpu")
    monkeypatch.setenv("STORYBOARD_HUB", str(tmp_path / "hub"))
    shown = pictures_of(tmp_path / "shown", [(picture(0), "a cat")])
    row = metrics.MetricsJudge("cpu", preference=True).preference(shown.paths, ["a cat"])["hps"]
    assert row.value is None and "cannot be used" in row.reading and "\n" not in row.reading


def test_score_by_a_clip_without_some_of_its_weights_says_so(metrics_hub, tmp_path):
    tensors = load_file(metrics_hub / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, metrics_hub / "model.safetensors", metadata={"format": "pt"})
    shown = pictures_of(tmp_path / "shown", [(picture(0), "a cat")])
    row = metrics.MetricsJudge("cpu").match(shown.paths, ["a cat"])
    assert row.value is None and "text_projection.weight is missing" in row.reading


def test_score_without_any_weights_is_a_sentence_in_each_row(
    hub, captions, make_settings, tmp_path
):
    hub("sd15")
    found = score(
        pictures_of(tmp_path / "shown", [(picture(0), "a cat"), (picture(1), "a dog")]),
        make_settings(base="sd15"),
        captions,
    )
    assert [measure.value for measure in found.sets["LoRA"].values()] == [None] * 4
    assert all(
        "STORYBOARD_HUB holds no DiffSynth-Studio/ImageMetrics" in measure.reading
        for measure in found.sets["LoRA"].values()
    )


def test_score_reads_aesthetics_against_what_the_contest_asked_for(
    captions, make_settings, tmp_path, monkeypatch
):
    from diffsynth.metrics import AestheticMetric, FIDMetric
    from diffsynth.models.aesthetic import AestheticMLP, AestheticModel
    from diffsynth.models.fid import FIDModel
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    for folder, _ in metrics.PARTS.values():
        (tmp_path / "hub" / metrics.MODEL / folder).mkdir(parents=True)
        (tmp_path / "hub" / metrics.MODEL / folder / "model.safetensors").write_bytes(b"")
    monkeypatch.setenv("STORYBOARD_HUB", str(tmp_path / "hub"))
    torch.manual_seed(0)
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            **{key: value for key, value in tiny.CLIP.items() if key != "max_position_embeddings"},
            image_size=32,
            patch_size=8,
        )
    )
    model = AestheticModel(
        AestheticMLP(32),
        vision,
        torch.nn.Linear(32, 32, bias=False),
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    ).eval()
    model.layers[-1].bias.data.fill_(6.5)
    monkeypatch.setattr(metric_models, "load_aesthetic", lambda folder, device: AestheticMetric(model))
    monkeypatch.setattr(
        metric_models,
        "load_inception",
        lambda folder, device: FIDMetric(
            FIDModel(torch.nn.Sequential(torch.nn.AvgPool2d(46), torch.nn.Flatten()))
        ),
    )
    judge = metrics.MetricsJudge("cpu")
    shown = pictures_of(tmp_path / "shown", [(picture(0), "a cat"), (picture(1), "a dog")])
    found = judge.aesthetics(shown.paths, lambda: pytest.fail("needs no training set"))
    assert 6 < found.value < 7 and found.reading.startswith(
        "the contest asked for 6 of 10 or more, which 2 of 2 reach"
    )
    features = judge.features("inception", [captions.path(row) for row in captions.rows])
    assert feature_statistics.kid(features[:2], features) < feature_statistics.kid(features[:2] + 1, features)
    broken = judge.match(shown.paths, ["a cat", "a dog"])
    assert (
        broken.value is None and "cannot be used" in broken.reading and "\n" not in broken.reading
    )


def test_score_files_are_readable(drawn):
    settings, captions, _, pictures, _ = drawn
    score(pictures, settings, captions)
    kept = json.loads((settings.folder / "scores" / "story.json").read_text(encoding="utf-8"))
    assert set(kept["measures"]) == TITLES.keys() - metrics.PREFERENCE.keys() and str(
        settings.folder
    ) not in json.dumps(kept)
    assert Captions.load(captions.folder).digest == captions.digest
