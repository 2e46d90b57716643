"""Scores of ``mini``'s pictures, by its attribute classifier."""

import json
import shutil

import pytest
from PIL import Image

from storyboard import Story, render, score
from storyboard.data.captions import Captions
from storyboard.errors import ScoringError
from storyboard.models import classifier
from storyboard.scoring import metrics
from storyboard.scoring.scores import TITLES
from tests.conftest import picture
from tests.scored import pictures_of

STORY = Story(
    [
        "二次元，紫色短发女孩，微笑，白色衣服，看书，教室",
        "anime, a girl with short purple hair, sad, white clothes, rain",
    ]
)


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
    assert own.value("style") < 2 < 8 < strange.value("style")
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


def test_score_files_are_readable(drawn):
    settings, captions, _, pictures, _ = drawn
    score(pictures, settings, captions)
    kept = json.loads((settings.folder / "scores" / "story.json").read_text(encoding="utf-8"))
    assert set(kept["measures"]) == TITLES.keys() - metrics.PREFERENCE.keys() and str(
        settings.folder
    ) not in json.dumps(kept)
    assert Captions.load(captions.folder).digest == captions.digest
