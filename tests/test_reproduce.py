import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from storyboard import Panel, Reference, Story, artifacts, bundle, png, render, reproduce, train
from storyboard.errors import BundleError, StoryboardError
from storyboard.exporting.bundle import zipped
from storyboard.exporting.reproduce import batches
from storyboard.lora.file import metadata
from storyboard.models import bases
from storyboard.rendering import sampling
from tests import tiny
from tests.conftest import picture


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


def rewritten(found, path, **changes):
    with zipfile.ZipFile(found.path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    path.write_bytes(
        zipped(files | {name.replace("_", "."): content for name, content in changes.items()})
    )
    return path


def story_of(found):
    with zipfile.ZipFile(found.path) as archive:
        return json.loads(archive.read("story.json"))


def test_reproduce_makes_eight_of_eight_identical(made, tmp_path, capsys):
    assert {(panel["batch"], panel["row"]) for panel in story_of(made)["panels"]} >= {
        (5, 4),
        (3, 2),
        (2, 0),
        (2, 1),
    }
    result = reproduce(made.path, tmp_path / "again")
    assert result.verdicts == ["identical"] * 8 and result.changed == []
    assert "of 8 panels 8 identical" in capsys.readouterr().out
    assert sorted(path.name for path in result.folder.glob("*.png")) == [
        f"panel-{place}.png" for place in range(1, 9)
    ]


def test_reproduce_names_what_was_changed_and_says_different(made, tmp_path):
    story = story_of(made)
    for panel in story["panels"]:
        panel |= {
            "lora": "0" * 64,
            "base_fingerprint": "1" * 64,
            "versions": panel["versions"] | {"diffusers": "0.1"},
        }
    story["panels"] = story["panels"][:3]
    pictures = {}
    with zipfile.ZipFile(made.path) as archive:
        for place, shift in ((1, 1), (2, 40)):
            pixels = np.asarray(Image.open(archive.open(f"panel-{place}.png")).convert("RGB"))
            Image.fromarray(
                np.where(pixels > 127, pixels - shift, pixels + shift).astype("uint8")
            ).save(tmp_path / f"{place}.png")
            pictures[f"panel-{place}_png"] = (tmp_path / f"{place}.png").read_bytes()
    result = reproduce(
        rewritten(made, tmp_path / "changed.zip", story_json=json.dumps(story).encode(), **pictures)
    )
    assert result.verdicts == [
        "within tolerance",
        "different",
        "identical",
    ] and result.differences == [1, 40, 0]
    assert [
        word
        for word in ("base", "LoRA", "diffusers 0.1")
        if not any(word in line for line in result.changed)
    ] == []
    assert result.folder == tmp_path / "changed-reproduced"


@pytest.mark.parametrize(
    "name", ["../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png", "C:evil.png"]
)
def test_reproduce_refuses_names_that_point_outside(made, tmp_path, name):
    path = rewritten(made, tmp_path / "evil.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(BundleError, match="points outside"):
        reproduce(path)
    assert [each.name for each in tmp_path.iterdir()] == ["evil.zip"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": "../panel-1.png"}, "panel 1"),
        ({"row": 9}, "panel 1"),
        ({"seed": -1}, "seed"),
        ({"batch": 10**9}, "panel 1"),
        ({"base": "/etc"}, "panel 2"),
        ({"text_length": 10**9}, "panel 1"),
        ({"lora": "5"}, "panel 1"),
        ({"versions": {"torch": "2\n"}}, "panel 1"),
    ],
)
def test_reproduce_trusts_no_field_of_story_json(made, tmp_path, change, said):
    story = story_of(made)
    story["panels"][0] |= change
    with pytest.raises(BundleError, match=said):
        reproduce(rewritten(made, tmp_path / "bad.zip", story_json=json.dumps(story).encode()))


def test_reproduce_says_what_is_no_bundle(made, tmp_path):
    (tmp_path / "no.zip").write_bytes(b"PK not a zip")
    with pytest.raises(BundleError, match="no whole story bundle"):
        reproduce(tmp_path / "no.zip")
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("story.json", b" " * (9 * 2**20))
    with pytest.raises(BundleError, match="more than the 8 MB"):
        reproduce(path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="holds other files"):
        reproduce(made.path, tmp_path / "mine")


def test_reproduce_puts_each_panel_in_its_row():
    panel = lambda batch, row, length=77: {
        "batch": batch,
        "row": row,
        "text_length": length,
        "vae_tiling": False,
        "guidance_end": 1.0,
    }
    assert batches([panel(2, 0), panel(1, 0), panel(2, 0), panel(2, 1)]) == [
        (0, [0, 3]),
        (0, [1]),
        (0, [2, 2]),
    ]
    assert batches([panel(2, 0), panel(2, 1, 154)]) == [(0, [0, 0]), (0, [1, 1])]
    kept = {"heroine": {"by": "shared"}}
    assert batches([panel(1, 0), panel(3, 1) | kept, panel(3, 2) | kept, panel(3, 1) | kept]) == [
        (0, [0]),
        (1, [1, 2]),
        (1, [3, 3]),
    ]


def test_reproduce_gives_a_clip_base_the_lengths_of_its_first_batches(hub, make_settings, tmp_path):
    """CLIP's embeddings are repeated to the common length of their batch, whose longest prompt may be edited away afterwards."""
    base, settings = (
        hub("sd15"),
        make_settings(base="sd15", render_batch_size=4, num_inference_steps=2),
    )
    tiny.lora(base, tmp_path / "lora.safetensors")
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
    render(Story(panels), settings, tmp_path / "lora.safetensors")
    panels[1] = "a dog"
    found = bundle(
        render(Story(panels), settings, tmp_path / "lora.safetensors"),
        tmp_path / "lora.safetensors",
        settings,
    )
    again = reproduce(found.path, tmp_path / "again")
    assert again.verdicts == ["identical"] * 8 and again.changed == []

    story = story_of(found)
    for panel in story["panels"]:  # as written before: no chunks, and the longest of the batch
        panel.pop("chunks", None)
    before = reproduce(
        rewritten(found, tmp_path / "before.zip", story_json=json.dumps(story).encode())
    )
    assert ["by an earlier Storyboard" in line for line in before.changed] == [True] and len(
        before.verdicts
    ) == 8


def test_reproduce_draws_one_at_a_time_where_memory_is_small(made, tmp_path, monkeypatch):
    draw = sampling.draw

    def small(pipe, positive, *arguments, **named):
        if len(positive) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(pipe, positive, *arguments, **named)

    monkeypatch.setattr(sampling, "draw", small)
    result = reproduce(made.path, tmp_path / "again")
    assert "different" not in result.verdicts and [
        "at once: drawn one at a time" in line for line in result.changed
    ] == [True]


def test_reproduce_of_a_base_that_is_not_at_hand(made, tmp_path, monkeypatch):
    story = story_of(made)
    for panel in story["panels"]:
        panel["base"] = "my-own-base"
    with pytest.raises(BundleError, match="a base of its own: give"):
        reproduce(rewritten(made, tmp_path / "own.zip", story_json=json.dumps(story).encode()))
    for panel in story["panels"]:
        panel["base"] = "sd15"
    monkeypatch.setenv("STORYBOARD_HUB", str(tmp_path / "no hub"))
    with pytest.raises(StoryboardError) as caught:
        reproduce(rewritten(made, tmp_path / "far.zip", story_json=json.dumps(story).encode()))
    assert "\n" not in str(caught.value) and not (tmp_path / "far-reproduced").exists()


@pytest.fixture(scope="module")
def guided(trained, tmp_path_factory):
    """A bundle whose panels follow edges, a picture, and panel 1's heroine."""
    settings, _, _, lora = trained
    folder = tmp_path_factory.mktemp("guided")
    picture(3, 100).save(folder / "sketch.png")
    shutil.copytree(bases.get("mini").controlnets["edges"], folder / "mine")
    sketch, own = folder / "sketch.png", str(folder / "mine")
    panels = [
        "二次元，紫色短发女孩",
        Panel("女孩，微笑", reference=Reference(sketch, end=0.5)),
        Panel("男孩", reference=Reference(sketch, strength=0.4)),
        "女孩，海边",
        Panel("女孩", reference=Reference(sketch, control="image")),
    ]
    plain = settings.but(output=str(folder / "plain"))
    shared = settings.but(output=str(folder / "shared"), character="shared", render_batch_size=3)
    return {
        "plain": bundle(render(Story(panels), plain, lora), lora, plain),
        "shared": bundle(render(Story(panels[:4]), shared, lora), lora, shared),
        "own": bundle(
            render(
                Story([Panel("女孩", reference=Reference(sketch, weights=own))]),
                settings.but(output=str(folder / "own")),
                lora,
            ),
            lora,
            settings.but(output=str(folder / "own")),
        ),
    }


@pytest.mark.parametrize(("kind", "panels"), [("plain", 5), ("shared", 4)])
def test_reproduce_draws_panels_with_references_and_a_shared_heroine_identically(
    guided, tmp_path, kind, panels
):
    found = guided[kind]
    assert "panel-2-reference.png" in found.files and b"sketch" not in found.path.read_bytes()
    with zipfile.ZipFile(found.path) as archive:
        card = archive.read("README.md").decode()
    assert "reference: [edges](panel-2-reference.png)" in card and ("heroine: shared" in card) == (
        kind == "shared"
    )
    result = reproduce(found.path, tmp_path / "again")
    assert result.verdicts == ["identical"] * panels and result.changed == []


def test_reproduce_asks_for_a_controlnet_that_was_a_folder_and_names_another(guided, tmp_path):
    with pytest.raises(
        BundleError,
        match='a ControlNet of its own: give reproduce.*controlnets={"edges": "its path"}',
    ):
        reproduce(guided["own"].path, tmp_path / "again")
    folder = tmp_path / "other"
    shutil.copytree(bases.get("mini").controlnets["edges"], folder)
    assert reproduce(
        guided["own"].path, tmp_path / "again", controlnets={"edges": str(folder)}
    ).verdicts == ["identical"]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "other"}))
    assert reproduce(
        guided["own"].path, tmp_path / "again", controlnets={"edges": str(folder)}
    ).changed == ["the ControlNet for 'edges' has other weights or configs"]


@pytest.mark.parametrize(
    ("kind", "place", "part", "change", "said"),
    [
        ("plain", 1, "reference", {"file": "../panel-2-reference.png"}, "reference of panel 2"),
        ("plain", 1, "reference", {"model": "../mine"}, "reference of panel 2"),
        ("plain", 1, "reference", {"strength": 9}, "strength=9"),
        ("plain", 1, "reference", {"control": "x"}, "control='x'"),
        ("plain", 1, "reference", {"controlnet": "x"}, "reference of panel 2"),
        ("shared", 1, "heroine", {"by": "x"}, "heroine"),
        ("shared", 1, "heroine", {"file": "../heroine.png"}, "heroine"),
        ("shared", 2, "heroine", {"strength": 2}, "heroine"),
    ],
)
def test_reproduce_trusts_no_reference_or_heroine(
    guided, tmp_path, kind, place, part, change, said
):
    story = story_of(guided[kind])
    story["panels"][place][part] |= change
    with pytest.raises(BundleError, match=said):
        reproduce(
            rewritten(guided[kind], tmp_path / "bad.zip", story_json=json.dumps(story).encode())
        )


def test_reproduce_refuses_a_bundle_of_another_format(made, tmp_path):
    with pytest.raises(BundleError, match="format 2, this Storyboard reads 1"):
        reproduce(
            rewritten(
                made,
                tmp_path / "new.zip",
                story_json=json.dumps(story_of(made) | {"format": 2}).encode(),
            )
        )


def test_reproduce_knows_v_prediction_and_clip_skip_and_so_do_lora_and_pictures(
    hub, captions, make_settings, tmp_path
):
    folder = tmp_path / "v"
    shutil.copytree(hub("sd15").folder, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
        )
    )
    settings = make_settings(base=str(folder), clip_skip=2, train_steps=2)
    lora = train(captions, settings)
    said = metadata(lora.path)
    assert {
        key: said[key]
        for key in (
            "ss_v2",
            "ss_v_parameterization",
            "ss_zero_terminal_snr",
            "ss_clip_skip",
            "modelspec.prediction_type",
            "modelspec.encoder_layer",
        )
    } == {
        "ss_v2": "False",
        "ss_v_parameterization": "True",
        "ss_zero_terminal_snr": "True",
        "ss_clip_skip": "2",
        "modelspec.prediction_type": "v",
        "modelspec.encoder_layer": "2",
    }
    story = Story(["a girl in the rain", "a (red:1.2) cat"])
    pictures = render(story, settings, lora)
    facts = {
        "prediction_type": "v_prediction",
        "zero_terminal_snr": True,
        "schedule_type": "Simple",
        "clip_skip": 2,
    }
    assert all(panel.items() >= facts.items() for panel in pictures.panels)
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
    story_json = story_of(found)
    story_json["panels"][1]["clip_skip"] = 1
    with pytest.raises(BundleError, match="panel 2"):
        reproduce(
            rewritten(found, tmp_path / "changed.zip", story_json=json.dumps(story_json).encode()),
            base=str(folder),
        )


def test_clip_skip_trains_and_draws_anew(hub, captions, make_settings):
    hub("sd15")
    settings = make_settings(base="sd15", train_steps=2)
    pictures, digests = [], []
    for clip_skip in (None, 2):
        lora = train(captions, settings.but(clip_skip=clip_skip))
        digests.append(lora.digest)
        pictures.append(
            np.asarray(
                Image.open(
                    render(
                        Story(["a girl in the rain"]), settings.but(clip_skip=clip_skip), lora
                    ).paths[0]
                )
            ).astype(int)
        )
    assert digests[0] != digests[1] and np.abs(pictures[0] - pictures[1]).max() > 1


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_reproduce_with_a_lora_of_text_encoders(hub, make_settings, tmp_path, name):
    """From the file to the PNG, the graph in it, the bundle and back, with the base's own panels in between."""
    base, settings, path = (
        hub(name),
        make_settings(base=name, num_inference_steps=2),
        tmp_path / "style.safetensors",
    )
    tiny.whole_lora(base, path)
    story = Story(["a (girl:1.3) in the rain", "a cat"], negative_prompt="blurry")
    plain = [each.read_bytes() for each in render(story, settings, None).paths]
    pictures = render(story, settings, path)
    assert (
        render(story, settings.but(output=str(tmp_path / "after")), None).paths[0].read_bytes()
        == plain[0]
        != pictures.paths[0].read_bytes()
    )

    said = png.read(pictures.paths[0])["settings"]
    assert said["lora_text_encoder"] is True and said["lora"] == artifacts.digest_of_file(path)
    with Image.open(pictures.paths[0]) as image:
        assert f'Lora hashes: "story: {said["lora_tensors"][:12]}"' in image.text["parameters"]
        assert "LoraLoader" in {
            node["class_type"] for node in json.loads(image.text["prompt"]).values()
        }

    found = bundle(pictures, path, settings)
    result = reproduce(found.path, tmp_path / "again")
    assert result.verdicts == ["identical"] * 2 and result.changed == []

    changed = story_of(found)
    changed["panels"][0]["lora_text_encoder"] = "yes"
    with pytest.raises(BundleError, match="panel 1"):
        reproduce(rewritten(found, tmp_path / "bad.zip", story_json=json.dumps(changed).encode()))


def test_a_lora_without_a_text_encoder_says_nothing_of_one(made):
    assert not any("lora_text_encoder" in panel for panel in story_of(made)["panels"])
