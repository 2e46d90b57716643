"""One panel at several strengths, and from noise to picture."""

import numpy as np
import pytest

from storyboard import denoising, render, strengths, variations
from storyboard.errors import LoraError, SettingsError
from tests.test_rendering import pixels


def far(one, other):
    return np.abs(pixels(one) - pixels(other)).mean()


def test_strengths_go_from_the_base_to_the_lora_and_beyond(trained, tmp_path):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    strip = strengths(story, settings, lora, panel=2)
    assert [caption for _, caption in strip.pictures] == [
        f"strength {value}" for value in ("0", "0.5", "1", "1.5")
    ]
    base, with_lora = (render(story, settings, each) for each in (None, lora))
    assert np.abs(pixels(strip.paths[0]) - pixels(base.paths[1])).max() <= 1
    assert np.abs(pixels(strip.paths[2]) - pixels(with_lora.paths[1])).max() <= 1
    changes = [far(path, strip.paths[0]) for path in strip.paths]
    assert changes == sorted(changes) and changes[1] > 0


def test_denoising_ends_in_the_picture_and_begins_in_noise(trained, tmp_path, capsys):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path), num_inference_steps=8)
    strip = denoising(story, settings, lora, panel=3)
    drawn = render(story, settings, lora).paths[2]
    assert np.abs(pixels(strip.paths[-1]) - pixels(drawn)).max() <= 1
    distances = [far(path, drawn) for path in strip.paths]
    assert distances == sorted(distances, reverse=True) and distances[0] > 20
    assert [caption for _, caption in strip.pictures][::5] == ["step 1 of 8", "step 8 of 8"]

    before = [path.read_bytes() for path in strip.paths]
    capsys.readouterr()
    again = denoising(story, settings, lora, panel=3)
    assert "denoising: nothing to do" in capsys.readouterr().out
    assert [path.read_bytes() for path in again.paths] == before


@pytest.mark.parametrize("panel", [0, 4, -1, 1.0, True, "1"])
def test_a_panel_that_the_story_lacks_is_refused(trained, tmp_path, panel):
    settings, story, _, lora = trained
    for call in (strengths, denoising):
        with pytest.raises(SettingsError, match="must be a whole number from 1 to 3"):
            call(story, settings.but(output=str(tmp_path)), lora, panel)
    assert not list(tmp_path.iterdir())


def test_a_strip_shows_its_pictures_with_their_captions(trained, tmp_path):
    settings, story, _, lora = trained
    strip = strengths(story, settings.but(output=str(tmp_path)), lora, values=(0, 2))
    page = strip._repr_html_()
    assert page.count("data:image/jpeg;base64") == 2 and "strength 2" in page


def test_a_strip_still_shows_its_pictures_when_others_were_drawn(trained, tmp_path):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    near = 0.5 + 1e-9
    strips = [
        strengths(story, settings, lora, panel=2, values=(0.5, near)),
        denoising(story, settings, lora, panel=2),
        variations(story, settings, lora, panel=2, count=1),
    ]
    before = [path.read_bytes() for strip in strips for path in strip.paths]
    strengths(story, settings, lora, panel=3, values=(0.5,))
    denoising(story, settings, lora, panel=3)
    variations(story, settings, lora, panel=3, count=1)
    variations(story, settings, lora, panel=2, count=1, first=99)
    assert [path.read_bytes() for strip in strips for path in strip.paths] == before
    assert [caption for _, caption in strips[0].pictures] == [
        "strength 0.5",
        f"strength {near!r}",
    ]
    assert len(set(strips[0].paths)) == 2


def test_strengths_of_no_lora_are_refused(trained, tmp_path):
    settings, story, _, _ = trained
    with pytest.raises(LoraError, match=r"strengths\(lora=None\) has no LoRA to draw with: give"):
        strengths(story, settings.but(output=str(tmp_path)), None)
    assert not list(tmp_path.iterdir())


def test_a_missing_lora_is_one_sentence_before_anything_is_drawn(trained, tmp_path):
    settings, story, _, _ = trained
    for call in (strengths, denoising):
        with pytest.raises(LoraError, match="There is no LoRA at"):
            call(story, settings.but(output=str(tmp_path / "out")), tmp_path / "none.safetensors")
    assert not list(tmp_path.rglob("*.png"))
