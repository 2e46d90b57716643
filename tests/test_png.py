"""What PNGs say of themselves: our record, A1111's text, and stories read back from either."""

import json
import re

import pytest
from PIL import Image, ImageFile, PngImagePlugin

from storyboard import Panel, Story, png
from storyboard.errors import SettingsError
from storyboard.other_tools import a1111
from storyboard.records import BaseRecord, LoraRecord, PanelRecord
from tests.test_records import VERSION_1, WHOLE

RECORD = PanelRecord(
    prompt="a",
    negative_prompt="b",
    seed=1,
    width=8,
    height=8,
    steps=2,
    guidance_scale=4.5,
    base=BaseRecord(name="mini", family="kolors", pipeline="KolorsPipeline", fingerprint="f" * 64),
)


def saved(path, **chunks: str):
    """A picture with iTXt chunks."""
    info = PngImagePlugin.PngInfo()
    for name, text in chunks.items():
        info.add_itxt(name, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def picture_with_parameters(path, text, chunk="add_text"):
    info = PngImagePlugin.PngInfo()
    if text is not None:
        getattr(info, chunk)("parameters", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_parameters_without_negative_prompt_or_lora():
    assert png.parameters(RECORD.model_copy(update={"negative_prompt": ""})) == (
        "a\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, Seed: 1, "
        "Size: 8x8, Model hash: ffffffffff, Model: mini, RNG: CPU"
    )


def test_parameters_with_all_that_a_record_holds():
    assert png.parameters(WHOLE.model_copy(update={"prompt": "a"})).endswith(
        "Model: own, RNG: CPU, Clip skip: 2, Noise Schedule: Zero Terminal SNR, "
        'Lora hashes: "story: cccccccccccc"'
    )


def read_by_a1111(text):
    """The last line of A1111's text, as the web UI reads it.

    (modules/infotext_utils.py, parse_generation_parameters and unquote)
    """
    pairs = re.findall(
        r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', text.splitlines()[-1]
    )
    return {
        name: json.loads(value) if value[:1] == value[-1:] == '"' else value
        for name, value in pairs
    }


@pytest.mark.parametrize(
    "name", ["mini", "my, base", "v2: final", 'a "quoted" one', "二次元：甲，乙", "a\\b, c"]
)
def test_parameters_are_read_by_a1111_as_they_are(name):
    record = RECORD.model_copy(
        update={
            "base": RECORD.base.model_copy(update={"name": name}),
            "lora": LoraRecord(digest="a" * 64, tensors_digest="b" * 64),
        }
    )
    text = png.parameters(record)
    read = read_by_a1111(text)
    assert (read["Model"], read["RNG"], read["Seed"]) == (name, "CPU", "1")
    assert (read["Lora hashes"], read["Sampler"]) == ("story: bbbbbbbbbbbb", "DPM++ 2M")

    ours = a1111.parsed(text)
    assert (ours.settings["Model"], ours.seed) == (name, 1)
    assert (ours.prompt, ours.negative_prompt) == ("a", "b")


def test_a_record_is_read_back_from_its_png(tmp_path):
    info = png.info(WHOLE, {"prompt": "{}"})
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert png.read(tmp_path / "a.png") == WHOLE
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["prompt"] == "{}" and image.text["parameters"].startswith("二次元，微笑")


def test_a_png_of_version_1_is_read():
    record = png.read(VERSION_1 / "panel-2.png")
    assert record.prompt == "女孩" and record.character.method == "shared"
    story = Story.from_png(VERSION_1 / "panel-2.png")
    assert story.panels == (Panel("女孩", "blurry", 43),)
    assert story.settings[0]["steps"] == 3


@pytest.mark.parametrize(
    ("record", "field"), [('{"prompt": "a"}', "negative_prompt"), ("{", "line 1 column 2")]
)
def test_a_damaged_record_is_an_error_that_names_the_field(tmp_path, record, field):
    path = saved(tmp_path / "a.png", storyboard=record, parameters="a cat")
    with pytest.raises(SettingsError, match=rf"damaged record of its story \(.*{field}"):
        png.read(path)


def test_a_chunk_of_the_same_name_by_another_program_is_no_record(tmp_path):
    path = saved(tmp_path / "a.png", storyboard='"scene 3"', parameters="a cat")
    assert png.read(path).prompt == "a cat"


A1111 = """masterpiece, (girl:1.2), Note: rain
second line <lora:style:0.8>
Negative prompt: blurry,
low quality
""" + ", ".join(
    [
        "Steps: 20",
        "Sampler: DPM++ 2M",
        "Schedule type: Karras",
        "CFG scale: 7.5",
        "Seed: 4294967295",
        "Size: 512x768",
        "Model hash: 6ce0161689",
        'Lora hashes: "style: 1a2b, other: 3c4d"',
        'Hashes: {"model": "6ce0", "vae": "73"}',
        "Hires upscaler: R-ESRGAN 4x+",
        "Version: v1.10.1",
    ]
)


@pytest.mark.parametrize("chunk", ["add_text", "add_itxt"])
def test_a_story_from_png_of_a1111(tmp_path, chunk):
    story = Story.from_png(picture_with_parameters(tmp_path / "a.png", A1111, chunk))
    assert story.panels == (
        Panel(
            "masterpiece, (girl:1.2), Note: rain\nsecond line",
            "blurry,\nlow quality",
            4294967295,
        ),
    )
    assert story.settings[0] == {
        "Steps": "20",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7.5",
        "Size": "512x768",
        "Model hash": "6ce0161689",
        "Lora hashes": "style: 1a2b, other: 3c4d",
        "Hashes": '{"model": "6ce0", "vae": "73"}',
        "Hires upscaler": "R-ESRGAN 4x+",
        "Version": "v1.10.1",
        "tool": "A1111",
        "notes": [
            "<lora:style:0.8> names a LoRA of another file: taken out of the prompt",
            "'Hires upscaler' of its settings (hires fix, a second pass) is not part of a story",
        ],
    }


@pytest.mark.parametrize(
    ("text", "panel"),
    [
        ("只有提示词", Panel("只有提示词", "", None)),
        ("a cat\nNegative prompt: dog", Panel("a cat", "dog", None)),
        ("a cat\nSteps: 5, Sampler: Euler a, CFG scale: 7, Seed: 3", Panel("a cat", "", 3)),
        ("scene: night, mood: calm", Panel("scene: night, mood: calm", "", None)),
    ],
)
def test_a_story_from_png_with_parts_left_out(tmp_path, text, panel):
    path = picture_with_parameters(tmp_path / "a.png", text, "add_itxt")
    assert Story.from_png([path]).panels == (panel,)


def test_a_story_from_png_in_utf8_where_latin_1_is_due(tmp_path):
    text = "紫色短发女孩".encode().decode("latin-1")
    story = Story.from_png(picture_with_parameters(tmp_path / "a.png", text))
    assert story.panels[0].prompt == "紫色短发女孩"


def test_a_story_from_a_png_that_is_cut_off_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as importing Data-Juicer does
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a prompt")
    noise = Image.effect_noise((64, 64), 80)
    noise.save(tmp_path / "a.png", pnginfo=texts)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SettingsError, match="b.png is no whole PNG"):
        Story.from_png(tmp_path / "b.png")


def test_a_story_from_png_that_says_nothing(tmp_path):
    with pytest.raises(SettingsError, match="does not say how it was made"):
        Story.from_png(picture_with_parameters(tmp_path / "a.png", None))

    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(SettingsError, match="b.png is no whole PNG"):
        Story.from_png(tmp_path / "b.png")

    text = "Negative prompt: x\nSteps: 5, Sampler: Euler a, CFG scale: 7, Seed: 3"
    with pytest.raises(SettingsError, match="a.png: A1111 wrote no prompt into it"):
        Story.from_png(picture_with_parameters(tmp_path / "a.png", text))


def test_a_story_from_png_of_our_own(tmp_path):
    record = RECORD.model_copy(update={"prompt": "猫\nNegative prompt: 狗", "seed": 5})
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=png.info(record))
    story = Story.from_png([tmp_path / "a.png", str(tmp_path / "a.png")])
    assert story.panels == (Panel("猫\nNegative prompt: 狗", "b", 5),) * 2
    assert story.settings[1]["steps"] == 2
    assert not {"prompt", "negative_prompt", "seed"} & story.settings[1].keys()
