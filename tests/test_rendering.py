"""Stage render: pictures, what is drawn again, out of memory, parity with diffusers, sampling."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from storyboard import Pair, Panel, Settings, Story, artifacts, render
from storyboard.errors import LoraError, ResourceError
from storyboard.lora import file as lora_file
from storyboard.models import bases, memory
from storyboard.models.run import run_on
from storyboard.records import PanelRecord
from storyboard.rendering import sampling
from storyboard.rendering.panels import panel_records
from tests.test_records import VERSION_1

MINI = bases.get("mini")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    """(settings, story, lora, pictures) in a folder of its own."""
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path_factory.mktemp("drawn")))
    return settings, story, lora, render(story, settings, lora)


def test_a_picture_a_panel_and_the_grid(drawn):
    *_, pictures = drawn
    assert [path.name for path in pictures.paths] == ["panel-1.png", "panel-2.png", "panel-3.png"]
    shown = [pixels(path) for path in pictures.paths]
    assert all(one.shape == (64, 64, 3) and one.std() > 5 for one in shown)
    assert all(np.abs(a - b).mean() > 2 for a, b in [(shown[0], shown[1]), (shown[1], shown[2])])
    assert pictures.grid.is_file()


def test_tiles_that_the_user_asks_for_are_drawn(drawn, tmp_path, capsys):
    settings, story, lora, _ = drawn
    settings = settings.but(output=str(tmp_path))
    render(story, settings, lora)
    render(story, settings.but(vae_tiling=True), lora)
    render(story, settings, lora)  # None keeps what is there
    assert capsys.readouterr().out.count("drew 3 of 3") == 2


def test_every_png_says_how_it_was_made(drawn):
    settings, _, lora, pictures = drawn
    with Image.open(pictures.paths[0]) as image:
        text = image.text["parameters"]
        record = PanelRecord.from_json(json.loads(image.text["storyboard"]))
    assert text.startswith(
        "二次元，紫色短发女孩，微笑\nNegative prompt: 模糊\nSteps: 4, Sampler: DPM++ 2M, "
        "Schedule type: Karras, CFG scale: 2, Seed: 42, Size: 64x64"
    )
    assert record.lora.digest == lora.digest
    assert record.base.fingerprint == MINI.fingerprint() and record.base.family == "kolors"

    listed = json.loads((pictures.folder / "story.json").read_text(encoding="utf-8"))["panels"]
    assert [PanelRecord.from_json(panel) for panel in listed] == pictures.panels
    assert str(settings.folder) not in json.dumps(listed)
    assert pictures.panels[0].drawn.bytes == pictures.paths[0].stat().st_size
    unwritten = record.drawn.model_copy(
        update={"file": "panel-1.png", "bytes": listed[0]["drawn"]["bytes"]}
    )
    assert record.model_copy(update={"drawn": unwritten}) == pictures.panels[0]


def test_the_lora_changes_the_pictures_and_the_base_has_its_own_folder(drawn):
    settings, story, _, pictures = drawn
    pair = Pair(render(story, settings, None), pictures)
    assert pair.base.folder != pictures.folder and pair.difference() > 1


def test_nothing_is_drawn_twice(drawn, capsys):
    settings, story, lora, pictures = drawn
    before = {path: path.stat().st_mtime_ns for path in pictures.folder.iterdir()}
    assert render(story, settings, lora).panels == pictures.panels
    assert "render: nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in pictures.folder.iterdir()} == before


def test_an_edited_panel_is_drawn_alone(trained, tmp_path, capsys):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    pictures = render(story, settings, lora)
    before = {path.name: path.read_bytes() for path in pictures.folder.iterdir()}
    edited = Story([*story[:2], Panel("金色长发女孩，惊讶")], negative_prompt="模糊")
    after = {
        path.name: path.read_bytes() for path in render(edited, settings, lora).folder.iterdir()
    }
    assert "drew 1 of 3 panels" in capsys.readouterr().out
    changed = {name for name in before if before[name] != after[name]}
    assert (
        changed == {"panel-3.png", "story.png", "story.json", "manifest.json", ".manifest.json"}
        and before.keys() == after.keys()
    )
    second = pixels(pictures.paths[1])
    pictures.paths[1].unlink()
    render(edited, settings, lora)
    assert (
        "drew 1 of 3 panels" in capsys.readouterr().out
        and np.abs(pixels(pictures.paths[1]) - second).max() <= 1
    )


def test_a_shorter_story_takes_its_leftovers_away(trained, tmp_path):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    render(story, settings, lora)
    pictures = render(Story(list(story)[:1], negative_prompt="模糊"), settings, lora)
    assert [path.name for path in sorted(pictures.folder.glob("panel-*.png"))] == ["panel-1.png"]


def test_a_panel_is_the_same_alone_and_in_a_batch_within_one_level(trained, tmp_path):
    settings, story, _, lora = trained
    together = render(story, settings.but(output=str(tmp_path / "a"), render_batch_size=3), lora)
    alone = render(story, settings.but(output=str(tmp_path / "b"), render_batch_size=1), lora)
    for one, other in zip(together.paths, alone.paths, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1


def test_out_of_memory_draws_fewer_at_once(trained, drawn, tmp_path, monkeypatch, capsys):
    settings, story, _, lora = trained
    real, room = sampling.draw, 1

    def small(pipe, positive, *more, **named):
        if len(positive) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(pipe, positive, *more, **named)

    monkeypatch.setattr(sampling, "draw", small)
    pictures = render(story, settings.but(output=str(tmp_path)), lora)
    assert "render: out of memory, going on with 1 panels at once" in capsys.readouterr().out
    assert all(
        np.abs(pixels(one) - pixels(other)).max() <= 1
        for one, other in zip(pictures.paths, drawn[3].paths, strict=True)
    )
    assert [panel.drawn.batch for panel in pictures.panels] == [1, 1, 1]
    room = 0
    with pytest.raises(ResourceError, match="too small for one picture"):
        render(
            Story([*story[:2], Panel("金色长发女孩")], negative_prompt="模糊"),
            settings.but(output=str(tmp_path)),
            lora,
        )
    assert pictures.paths[0].is_file()


def test_the_same_settings_give_the_same_bytes(drawn, tmp_path):
    settings, story, lora, pictures = drawn
    again = render(story, settings.but(output=str(tmp_path)), lora)
    assert [path.read_bytes() for path in again.paths] == [
        path.read_bytes() for path in pictures.paths
    ]


def test_what_one_picture_said_does_not_reach_another(trained, tmp_path):
    settings, _story, _, lora = trained
    one = render(Story(["红色短发男孩"]), settings.but(output=str(tmp_path / "1")), lora)
    two = render(
        Story(["红色短发男孩", "绿色长发女孩"]), settings.but(output=str(tmp_path / "2")), lora
    )
    assert np.abs(pixels(one.paths[0]) - pixels(two.paths[0])).max() <= 1


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_render_parity_with_diffusers_alone(trained, tmp_path, strength):
    """KolorsPipeline from the folder, load_lora_weights, prompts as strings: the same picture."""
    from diffusers import KolorsPipeline

    settings, story, _, lora = trained
    settings = settings.but(render_batch_size=3, guidance_end=1.0, lora_strength=strength)
    ours = render(story, settings.but(output=str(tmp_path)), lora)
    pipe = KolorsPipeline.from_pretrained(MINI.folder, torch_dtype=torch.float32)
    pipe.scheduler = sampling.scheduler(MINI)
    pipe.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name)
    pipe.set_adapters(pipe.get_active_adapters(), strength)
    panels = story.resolved(settings.seed)
    theirs = pipe(
        [panel.prompt for panel in panels],
        negative_prompt=[panel.negative_prompt for panel in panels],
        num_inference_steps=4,
        guidance_scale=MINI.guidance_scale,
        height=64,
        width=64,
        generator=[torch.Generator().manual_seed(panel.seed) for panel in panels],
    ).images
    for mine, their in zip(ours.paths, theirs, strict=True):
        assert np.abs(pixels(mine) - np.asarray(their, int)).max() <= 1


def test_every_module_of_the_file_attaches(trained):
    lora = trained[3]
    pipe = sampling.load_pipeline(MINI, memory.plan(MINI, Settings()))
    assert sampling.attach(pipe, MINI, lora.path) == len(lora_file.modules(lora.path)) > 20


def test_a_lora_of_another_base_is_refused(trained, tmp_path):
    settings, story, _, lora = trained
    tensors = load_file(lora.path)
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    with pytest.raises(LoraError, match="was trained on the base 'sdxl', not on 'mini'") as error:
        render(story, settings.but(output=str(tmp_path)), other)
    assert "\n" not in str(error.value)
    save_file(
        {
            name.replace("_attentions_0_", "_attentions_9_"): tensor
            for name, tensor in tensors.items()
        },
        other,
    )
    with pytest.raises(LoraError, match="have no place in the base 'mini'"):
        render(story, settings.but(output=str(tmp_path)), other)
    save_file(
        {
            name: torch.ones(len(tensor), 5) if "lora_down" in name else tensor
            for name, tensor in tensors.items()
        },
        other,
    )
    with pytest.raises(LoraError, match="does not fit the base 'mini'"):
        render(story, settings.but(output=str(tmp_path)), other)


def test_a_missing_lora_is_one_sentence(trained, tmp_path):
    settings, story, *_ = trained
    with pytest.raises(LoraError, match="There is no LoRA at"):
        render(story, settings.but(output=str(tmp_path)), tmp_path / "none.safetensors")


def test_a_lora_has_the_hash_that_a1111_gives_it(drawn):
    """Its tensors' alone: the same LoRA with other metadata is the same to A1111."""
    _, _, lora, pictures = drawn
    content = lora.path.read_bytes()
    expected = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    assert lora_file.data_digest(lora.path) == expected == pictures.panels[0].lora.tensors_digest
    with Image.open(pictures.paths[0]) as image:
        assert f'Lora hashes: "story: {expected[:12]}"' in image.text["parameters"]


def test_pictures_of_an_earlier_version_are_made_anew_with_a_word(tmp_path, capsys):
    settings = Settings(
        base="mini",
        output=str(tmp_path),
        resolution=64,
        num_inference_steps=3,
        character="shared",
    )
    folder = tmp_path / "base"
    folder.mkdir()
    panels = json.loads((VERSION_1 / "story.json").read_text(encoding="utf-8"))["panels"][2:]
    for panel in panels:
        (folder / panel["file"]).write_bytes(bytes(panel["bytes"]))
    (folder / "heroine.png").write_bytes(b"of an earlier version")
    artifacts.write_manifest(folder, "render", "f" * 64, panels=panels)

    story = Story([panels[0]["prompt"], panels[1]["prompt"]], "blurry")
    pictures = render(story, settings, None)
    said = capsys.readouterr().out
    assert "made anew: an earlier version drew these" in said and "drew 2 of 2 panels" in said
    assert not (folder / "heroine.png").exists()
    assert not (folder / "panel-2-reference.png").exists()
    assert np.ptp(pixels(pictures.paths[1])) > 0

    render(story, settings, None)
    said = capsys.readouterr().out
    assert "nothing to do" in said and "made anew" not in said


def test_a_manifest_that_cannot_be_read_draws_anew(trained, tmp_path, capsys):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    one = Story(list(story)[:1], "模糊")
    pictures = render(one, settings, lora)
    manifest = pictures.folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["panels"][0]["seed"] = "42"
    manifest.write_text(json.dumps(content), encoding="utf-8")
    render(one, settings, lora)
    assert "drew 1 of 1 panels" in capsys.readouterr().out.splitlines()[-1]


def test_text_encoder_bits_are_in_the_fingerprint(trained):
    settings, story, _, lora = trained
    run = run_on(MINI, settings)
    quantised = panel_records(replace(run, text_encoder_bits=8), story, lora.path)[0]
    assert quantised.text_encoder_bits == 8
    assert quantised.fingerprint() != panel_records(run, story, lora.path)[0].fingerprint()
