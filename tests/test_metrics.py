"""Scores of bases other than ``mini``, by DiffSynth's metrics with tiny random weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import score
from storyboard.errors import BaseError
from storyboard.scoring import feature_statistics, metric_models, metrics
from tests import layouts, tiny
from tests.conftest import picture
from tests.scored import pictures_of


@pytest.fixture
def metrics_hub(tmp_path, monkeypatch):
    """A local hub with a tiny CLIP where DiffSynth's repository of metrics has the real one."""
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_score_asks_pickscore_and_hps_where_wanted(metrics_hub, captions, make_settings, tmp_path):
    for folder, _ in metrics.PREFERENCE.values():
        shutil.copytree(metrics_hub, metrics_hub.parent / folder)
    shown = pictures_of(
        tmp_path / "shown", [(picture(0), "a cat"), (picture(1), "a dog"), (picture(2), "猫")]
    )
    settings = make_settings(base="sd15")
    assert "PickScore" not in str(score(shown, settings, captions))
    found = score(shown, settings, captions, preference=True)
    pick, hps = (
        load(metrics_hub, "cpu") for load in (metric_models.load_pickscore, metric_models.load_hps)
    )
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


@pytest.mark.slow
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
    measures = found.sets["LoRA"]
    assert measures.pop("crispness").value is not None  # needs no weights
    assert [measure.value for measure in measures.values()] == [None] * 4
    assert all(
        "STORYBOARD_HUB holds no DiffSynth-Studio/ImageMetrics" in measure.reading
        for measure in measures.values()
    )


@pytest.mark.slow
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
    monkeypatch.setattr(
        metric_models, "load_aesthetic", lambda folder, device: AestheticMetric(model)
    )
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
    assert feature_statistics.kid(features[:2], features) < feature_statistics.kid(
        features[:2] + 1, features
    )
    broken = judge.match(shown.paths, ["a cat", "a dog"])
    assert (
        broken.value is None and "cannot be used" in broken.reading and "\n" not in broken.reading
    )
