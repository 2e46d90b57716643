"""The best of several checkpoints."""

import pytest

from storyboard import best, render
from storyboard.errors import LoraError, ScoringError
from storyboard.lora.file import Lora
from storyboard.scoring.choosing import choose
from storyboard.scoring.scores import Measure


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
    def of(match: float | None, style: float | None) -> dict[str, Measure]:
        return {"match": Measure(match, ""), "style": Measure(style, "why")}

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
