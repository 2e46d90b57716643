"""What the classifier of ``mini`` cannot judge, it does not."""

import json
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
from PIL import Image

from storyboard import collect, score
from storyboard.data.captions import Captions
from storyboard.models import classifier
from storyboard.scoring import competence
from tests import foreign
from tests.conftest import ROOT, picture
from tests.scored import pictures_of
from tools.captions import caption

RENDERS = ROOT / "benchmarks" / "renders"
PROMPTS = ["手绘，棕色长发女孩，微笑，海边", "手绘，紫色短发女孩，惊讶，森林"]


@pytest.fixture(scope="module")
def model():
    return classifier.load()


@pytest.fixture
def foreign_set(make_settings, tmp_path) -> Captions:
    """Sixteen pictures in an unknown hand, with captions of known words."""
    dataset = foreign.write(tmp_path / "foreign")
    return collect(make_settings(dataset=str(dataset), output=str(tmp_path / "set")))


def renders(style: str, count: int) -> tuple[np.ndarray, list[str]]:
    """Real pictures of a style that the classifier has learnt, and their captions."""
    rows = json.loads((RENDERS / "meta.json").read_text(encoding="utf-8"))
    chosen = [row for row in rows if row["style"] == style][:count]
    pixels = [classifier.pixels(RENDERS / f"{row['id']}.webp") for row in chosen]
    return np.stack(pixels), [caption(row, "zh") for row in chosen]


@pytest.mark.parametrize("style", ["lorelei", "avataaars", "personas", "toonHead", "micah"])
def test_its_own_styles_are_judged(model, style):
    pixels, texts = renders(style, 24)
    assert competence.refusal(model, texts, classifier.features(model, pixels)) is None


def test_captions_of_other_pictures_are_not_judged(model):
    pixels, texts = renders("lorelei", 24)
    features = classifier.features(model, pixels)
    reason = competence.refusal(model, [*texts[1:], texts[0]], features)
    assert reason.startswith("no answer: the classifier reads only")
    assert competence.refusal(model, ["星星"] * 24, features) is None, "nothing to compare"


def test_how_sure_it_is_comes_with_what_it_reads(model):
    pixels, _ = renders("micah", 8)
    for reading, shown in zip(
        classifier.readings(model, classifier.features(model, pixels)),
        classifier.read(model, pixels),
        strict=True,
    ):
        assert {name: value for name, (value, _) in reading.items()} == shown
        assert 0.9 < mean(probability for _, probability in reading.values()) <= 1


def test_a_foreign_set_has_no_answer_but_for_the_bases_own_pictures(
    foreign_set, make_settings, tmp_path
):
    settings = make_settings()
    panels = [(foreign.draw(9, "微笑", "红色"), PROMPTS[0]), (picture(1), PROMPTS[1])]
    drawn = pictures_of(tmp_path / "drawn", panels)
    base = pictures_of(tmp_path / "base", panels)
    base.panels[:] = [panel.model_copy(update={"lora": None}) for panel in base.panels]

    found = score(drawn, settings, foreign_set, base)
    judged = {name: measure for name, measure in found.sets["LoRA"].items() if name != "crispness"}
    assert [measure.value for measure in judged.values()] == [None] * 4
    for measure in judged.values():
        assert measure.reading.startswith("no answer: the classifier has not seen drawings like")
        assert "\n" not in measure.reading
    assert found.value("match", "base") is not None and found.value("style", "base") is None
    assert "drawn as the training set's" not in str(found)


def test_too_few_training_pictures_show_no_style(trained, tmp_path):
    settings, _, captions, _ = trained
    few = replace(captions, rows=captions.rows[: competence.FEWEST_PICTURES - 1], digest="few")
    shown = [(Image.open(few.path(row)), row.text) for row in few.rows[:4]]
    found = score(pictures_of(tmp_path / "shown", shown), settings.but(output=str(tmp_path)), few)
    aesthetics = found.sets["LoRA"]["aesthetics"]
    assert aesthetics.value is None
    assert aesthetics.reading.startswith("no answer: of 19 training pictures")
    assert found.value("match") >= 90


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        (["星星", "a dragon"], "no answer: no prompt names anything that mini was taught"),
        (["星星", "a dragon", "紫色短发女孩"], "no answer: only 1 of 3 prompts name anything"),
        (["星星", "紫色短发女孩"], None),
        (["橙色衣服"], "no answer: no prompt names"),  # a colour that it has never seen clothes of
    ],
)
def test_prompts_that_it_has_no_words_for(prompts, reason):
    found = competence.unreadable([classifier.readable(prompt) for prompt in prompts])
    assert found is None if reason is None else found.startswith(reason)
