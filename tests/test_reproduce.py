import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from storyboard import Panel, Story, bundle, render, reproduce
from storyboard.errors import BundleError, StoryboardError
from storyboard.rendering import sampling
from tests import tiny
from tests.bundles import format_1, rewritten, story_of, with_story


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """A bundle of eight panels, drawn five at once, two of them redrawn after an edit."""
    settings, _, _, lora = trained
    settings = settings.but(output=str(tmp_path_factory.mktemp("made")), render_batch_size=5)
    panels = [
        Panel(f"二次元，{colour}短发女孩，微笑")
        for colour in ("紫色", "黑色", "棕色", "金色", "红色", "粉色", "蓝色", "绿色")
    ]
    render(Story(panels), settings, lora)
    panels[1], panels[6] = (
        Panel("二次元，紫色长发女孩，难过"),
        Panel("a boy with short red hair", seed=7),
    )
    return bundle(render(Story(panels), settings, lora), lora, settings)


def test_reproduce_makes_eight_of_eight_identical(made, tmp_path, capsys):
    drawn = [panel["drawn"] for panel in story_of(made)["panels"]]
    rows = {(each["batch"], each["row"]) for each in drawn}
    assert rows >= {(5, 4), (3, 2), (2, 0), (2, 1)}
    result = reproduce(made.path, tmp_path / "again")
    assert result.verdicts == ["identical"] * 8 and result.changed == []
    assert "of 8 panels 8 identical" in capsys.readouterr().out
    assert sorted(path.name for path in result.folder.glob("*.png")) == [
        f"panel-{number}.png" for number in range(1, 9)
    ]


def test_reproduce_draws_at_the_strength_of_the_lora(trained, tmp_path):
    settings, _, _, lora = trained
    weak = settings.but(output=str(tmp_path / "weak"), lora_strength=0.5)
    pictures = render(Story(["紫色短发女孩"]), weak, lora)
    result = reproduce(bundle(pictures, lora, weak).path, tmp_path / "again")
    assert result.verdicts == ["identical"] and result.changed == []


def test_reproduce_makes_a_bundle_of_format_1_identical(made, tmp_path):
    story = story_of(made)
    assert story["format"] == 2 and story["panels"][0]["version"] == 2
    result = reproduce(with_story(made, tmp_path / "before.zip", format_1(story)))
    assert result.verdicts == ["identical"] * 8 and result.changed == []


def test_reproduce_names_what_was_changed_and_says_different(made, tmp_path):
    story = story_of(made)
    for panel in story["panels"]:
        panel["lora"]["digest"] = "0" * 64
        panel["base"]["fingerprint"] = "1" * 64
        panel["versions"]["diffusers"] = "0.1"
    story["panels"] = story["panels"][:3]
    pictures = {}
    with zipfile.ZipFile(made.path) as archive:
        for number, shift in ((1, 1), (2, 40)):
            pixels = np.asarray(Image.open(archive.open(f"panel-{number}.png")).convert("RGB"))
            shifted = np.where(pixels > 127, pixels - shift, pixels + shift).astype("uint8")
            path = tmp_path / f"{number}.png"
            Image.fromarray(shifted).save(path)
            pictures[f"panel-{number}_png"] = path.read_bytes()

    content = json.dumps(story).encode()
    result = reproduce(rewritten(made, tmp_path / "changed.zip", story_json=content, **pictures))
    assert result.verdicts == ["within tolerance", "different", "identical"]
    assert result.differences == [1, 40, 0]
    for word in ("base", "LoRA", "diffusers 0.1"):
        assert any(word in line for line in result.changed)
    assert result.folder == tmp_path / "changed-reproduced"


@pytest.mark.slow
def test_reproduce_gives_a_clip_base_the_lengths_of_its_first_batches(hub, make_settings, tmp_path):
    """CLIP's embeddings are repeated to the common length of their batch.

    Its longest prompt may be edited away afterwards.
    """
    settings = make_settings(base="sd15", render_batch_size=4, num_inference_steps=2)
    lora = tmp_path / "lora.safetensors"
    tiny.lora(hub("sd15"), lora)
    panels = [
        "a cat",
        "a very " + "long " * 40 + "dog",
        "a bird",
        "a fish",
        "a tree",
        "a " + "tall " * 40 + "house",
        "a car",
        "a road",
    ]
    render(Story(panels), settings, lora)
    panels[1] = "a dog"
    found = bundle(render(Story(panels), settings, lora), lora, settings)
    again = reproduce(found.path, tmp_path / "again")
    assert again.verdicts == ["identical"] * 8 and again.changed == []

    story = story_of(found)
    for panel in story["panels"]:  # as written before: no chunks, and the longest of the batch
        panel["drawn"].pop("chunks", None)
    before = reproduce(with_story(found, tmp_path / "before.zip", story))
    assert len(before.verdicts) == 8 and len(before.changed) == 1
    assert "by an earlier Storyboard" in before.changed[0]


def test_reproduce_draws_smaller_batches_where_memory_is_small(made, tmp_path, monkeypatch):
    draw = sampling.draw

    def small(pipe, positive, *arguments, **named):
        if len(positive) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(pipe, positive, *arguments, **named)

    monkeypatch.setattr(sampling, "draw", small)
    result = reproduce(made.path, tmp_path / "again")
    assert "different" not in result.verdicts and len(result.changed) == 1
    assert "at once: drawn in smaller batches" in result.changed[0]


def test_reproduce_of_a_base_that_is_not_at_hand(made, tmp_path, monkeypatch):
    story = story_of(made)
    for panel in story["panels"]:
        panel["base"]["name"] = "my-own-base"
    with pytest.raises(BundleError, match="a base of its own: give"):
        reproduce(with_story(made, tmp_path / "own.zip", story))
    for panel in story["panels"]:
        panel["base"]["name"] = "sd15"
    monkeypatch.setenv("STORYBOARD_HUB", str(tmp_path / "no hub"))
    with pytest.raises(StoryboardError) as caught:
        reproduce(with_story(made, tmp_path / "far.zip", story))
    assert "\n" not in str(caught.value) and not (tmp_path / "far-reproduced").exists()
