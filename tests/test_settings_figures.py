"""The figures of the settings page: of what they say, and drawn as they say."""

import pytest
from PIL import Image

from storyboard import Settings
from storyboard.models import bases
from tests.conftest import ROOT
from tools import settings_figures
from tools.settings_figures import FIGURES, GAP, LABEL, SIDE, TRAININGS, Cell

MINI = bases.get("mini")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_of_a_setting_and_there(name):
    assert hasattr(Settings(), name)
    cells = FIGURES[name]
    with Image.open(ROOT / "docs" / "figures" / f"{name}.webp") as image:
        assert image.size == (len(cells) * (SIDE + GAP) - GAP, SIDE + LABEL)


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"prior_loss_weight"}))
def test_too_little_stands_left_of_the_default_and_too_much_right_of_it(name):
    cells = [cell for cell in FIGURES[name] if cell.label != "panel 1"]
    default = 1.0 if name in ("lora_strength", "character_strength") else getattr(MINI, name)
    values = []
    for cell in cells:
        settings = cell.settings
        if cell.training:
            settings = settings | TRAININGS[cell.training].settings
        values.append(settings.get(name, default))

        assert float(cell.label.partition("=")[2].partition(",")[0]) == values[-1]
    too_little, middle, too_much = values
    is_by_the_set = any(cell.training and TRAININGS[cell.training].pictures for cell in cells)
    assert too_little < middle == default
    assert too_much > middle or is_by_the_set


def test_every_training_is_shown_and_can_be_set():
    shown = {cell.training for cells in FIGURES.values() for cell in cells}
    assert shown - {None} == TRAININGS.keys()
    for training in TRAININGS.values():
        Settings().but(**training.settings)


@pytest.mark.slow
def test_a_figure_is_drawn_and_not_drawn_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings_figures, "TARGET", tmp_path / "figures")
    monkeypatch.setitem(
        settings_figures.FIGURES,
        "rank",
        [Cell("2 steps", {"num_inference_steps": 2}), Cell("alone", {"lora_strength": 0.0})],
    )
    first = settings_figures.figure("rank", tmp_path).read_bytes()
    assert settings_figures.figure("rank", tmp_path).read_bytes() == first
    assert capsys.readouterr().out.count("render: nothing to do") == 2
    with Image.open(tmp_path / "figures" / "rank.webp") as image:
        left, right = (image.crop((at, 0, at + SIDE, SIDE)) for at in (0, SIDE + GAP))
    assert left.tobytes() != right.tobytes()
