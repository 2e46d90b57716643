import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from storyboard import Story, artifacts, bundle, png, render, reproduce, train
from storyboard.errors import BundleError
from storyboard.lora.file import metadata
from tests import tiny
from tests.bundles import format_1, story_of, with_story


@pytest.mark.slow
def test_reproduce_knows_v_prediction_and_clip_skip_and_so_do_lora_and_pictures(
    hub, captions, make_settings, tmp_path
):
    folder = tmp_path / "v"
    shutil.copytree(hub("sd15").folder, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    config |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    path.write_text(json.dumps(config))
    settings = make_settings(base=str(folder), clip_skip=2, train_steps=2)
    lora = train(captions, settings)
    expected = {
        "ss_v2": "False",
        "ss_v_parameterization": "True",
        "ss_zero_terminal_snr": "True",
        "ss_clip_skip": "2",
        "modelspec.prediction_type": "v",
        "modelspec.encoder_layer": "2",
    }
    assert metadata(lora.path).items() >= expected.items()

    story = Story(["a girl in the rain", "a (red:1.2) cat"])
    pictures = render(story, settings, lora)
    for panel in pictures.panels:
        assert panel.base.prediction_type == "v_prediction" and panel.base.zero_terminal_snr
        assert panel.schedule_type == "Simple" and panel.clip_skip == 2
    text = Image.open(pictures.paths[0]).text
    assert (
        ", Schedule type: Simple, " in text["parameters"]
        and ", Clip skip: 2, Noise Schedule: Zero Terminal SNR, " in text["parameters"]
    )
    assert {"CLIPSetLastLayer", "ModelSamplingDiscrete"} <= {
        node["class_type"] for node in json.loads(text["prompt"]).values()
    }

    found = bundle(pictures, lora, settings)
    with zipfile.ZipFile(found.path) as archive:
        card = archive.read("README.md").decode()
    assert "v_prediction, zero terminal SNR" in card and "clip skip 2" in card
    assert reproduce(found.path, tmp_path / "again", base=str(folder)).verdicts == ["identical"] * 2

    changed = story_of(found)
    changed["panels"][1]["clip_skip"] = 1
    with pytest.raises(BundleError, match="panel 2 has another clip_skip"):
        reproduce(with_story(found, tmp_path / "changed.zip", changed), base=str(folder))

    before = with_story(found, tmp_path / "before.zip", format_1(story_of(found)))
    assert reproduce(before, base=str(folder)).verdicts == ["identical"] * 2


@pytest.mark.slow
def test_clip_skip_trains_and_draws_anew(hub, captions, make_settings):
    hub("sd15")
    settings = make_settings(base="sd15", train_steps=2)
    pictures, digests = [], []
    for clip_skip in (None, 2):
        own = settings.but(clip_skip=clip_skip)
        lora = train(captions, own)
        digests.append(lora.digest)
        picture = render(Story(["a girl in the rain"]), own, lora).paths[0]
        pictures.append(np.asarray(Image.open(picture)).astype(int))
    assert digests[0] != digests[1] and np.abs(pictures[0] - pictures[1]).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_reproduce_with_a_lora_of_text_encoders(hub, make_settings, tmp_path, name):
    """From the file to the PNG, the graph in it, the bundle and back.

    The base's own panels are drawn in between.
    """
    settings = make_settings(base=name, num_inference_steps=2)
    path = tmp_path / "style.safetensors"
    tiny.whole_lora(hub(name), path)
    story = Story(["a (girl:1.3) in the rain", "a cat"], negative_prompt="blurry")
    plain = [each.read_bytes() for each in render(story, settings, None).paths]
    pictures = render(story, settings, path)
    after = render(story, settings.but(output=str(tmp_path / "after")), None)
    assert after.paths[0].read_bytes() == plain[0] != pictures.paths[0].read_bytes()

    lora = png.read(pictures.paths[0]).lora
    assert lora.text_encoder and lora.digest == artifacts.digest_of_file(path)
    with Image.open(pictures.paths[0]) as image:
        text = dict(image.text)
    assert f'Lora hashes: "story: {lora.tensors_digest[:12]}"' in text["parameters"]
    nodes = json.loads(text["prompt"]).values()
    assert "LoraLoader" in {node["class_type"] for node in nodes}

    found = bundle(pictures, path, settings)
    result = reproduce(found.path, tmp_path / "again")
    assert result.verdicts == ["identical"] * 2 and result.changed == []

    before = with_story(found, tmp_path / "before.zip", format_1(story_of(found)))
    assert reproduce(before).verdicts == ["identical"] * 2
