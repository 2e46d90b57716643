"""Sentences about sets that are too small or too far."""

import json
from pathlib import Path
from statistics import mean

import pytest

from storyboard import check
from storyboard.data.collecting import SAMPLE
from storyboard.models import bases
from storyboard.training import suitability
from tests import foreign
from tests.conftest import ROOT

MINI = bases.get("mini")
RENDERS = ROOT / "benchmarks" / "renders"
STYLES = ("avataaars", "personas", "toonHead", "micah")  # that mini has learnt


def renders(style: str) -> list[Path]:
    """Real pictures of a style."""
    rows = json.loads((RENDERS / "meta.json").read_text(encoding="utf-8"))
    return [RENDERS / f"{row['id']}.webp" for row in rows if row["style"] == style]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Seven pictures in an unknown hand."""
    return foreign.write(tmp_path_factory.mktemp("few") / "pictures", 7)


@pytest.mark.slow
def test_the_bases_own_styles_come_through_as_it_is_said_of_them():
    """Measure again where the VAE has changed: ``Base.vae_psnr`` is this mean."""
    measured = mean(suitability.vae_psnr(MINI, renders(style)) for style in STYLES)
    assert measured == pytest.approx(MINI.vae_psnr, abs=0.7)


@pytest.mark.slow
def test_nothing_speaks_against_the_sample_set():
    paths = sorted((SAMPLE / "images").iterdir())[:40]
    assert suitability.concerns(MINI, len(paths), paths) == []


@pytest.mark.slow
def test_a_small_and_foreign_set_is_told_in_a_sentence_each(few):
    paths = sorted(few.glob("*.png"))
    small, far = suitability.concerns(MINI, len(paths), paths)
    assert small.startswith(
        "7 pictures are too few for a LoRA, which learns fewer than 10 by heart"
    )
    assert far.startswith("these pictures are far from what mini draws, its VAE brings them back")
    assert "\n" not in small + far
    assert suitability.concerns(MINI, 10, paths) == [far]


def test_a_base_whose_vae_brings_everything_back_is_not_asked(hub, few):
    assert suitability.concerns(hub("sdxl"), 20, sorted(few.glob("*.png"))) == []


def test_pictures_that_cannot_be_read_are_passed_over(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert suitability.vae_psnr(MINI, [tmp_path / "a.png"]) is None
    assert suitability.vae_psnr(MINI, []) is None


@pytest.mark.slow
def test_check_tells_of_a_folder_and_counts_its_pictures(few, make_settings):
    rows = dict(check(make_settings(dataset=str(few), train_steps=None)).rows)
    assert rows["pictures"].startswith("7; 7 pictures are too few")
    assert "its VAE brings them" in rows["pictures"]
    assert f"({MINI.small_set['train_steps']} steps of 4)" in rows["time"]
    assert "pictures" not in dict(check(make_settings()).rows)
