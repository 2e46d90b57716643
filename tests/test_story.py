import pytest
from PIL import Image, PngImagePlugin

from storyboard import Panel, Story, png
from storyboard.errors import SettingsError


def test_strings_become_panels_and_inherit_the_negative_prompt():
    story = Story(["一", Panel("二", negative_prompt="丑", seed=7)], negative_prompt="模糊")
    assert story.resolved(seed=10) == [
        {"prompt": "一", "negative_prompt": "模糊", "seed": 10},
        {"prompt": "二", "negative_prompt": "丑", "seed": 7},
    ]


def test_a_panel_keeps_its_seed_when_others_are_edited():
    before, after = Story(["a", "b", "c"]).resolved(5), Story(["a", "x", "c"]).resolved(5)
    assert [panel["seed"] for panel in before] == [panel["seed"] for panel in after] == [5, 6, 7]


def test_an_empty_negative_prompt_is_kept_empty():
    assert (
        Story([Panel("a", negative_prompt="")], negative_prompt="模糊").resolved(0)[0][
            "negative_prompt"
        ]
        == ""
    )


@pytest.mark.parametrize("count", [1, 8, 64])
def test_one_to_sixty_four_panels(count):
    assert len(Story(["a"] * count)) == count


@pytest.mark.parametrize(
    ("panels", "said"),
    [
        ([], "has 0 panels: give it 1 to 64"),
        (["a"] * 65, "has 65 panels"),
        ("a", "takes a list"),
        ([3], "Panel 1 of the story is int"),
    ],
)
def test_a_story_that_cannot_be_says_why(panels, said):
    with pytest.raises(SettingsError, match=said):
        Story(panels)


def test_a_storys_negative_prompt_is_text():
    with pytest.raises(SettingsError, match="negative_prompt=None"):
        Story(["a"], negative_prompt=None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": "  "}, "nothing to draw"),
        ({"prompt": "a", "seed": -1}, "seed=-1"),
        ({"prompt": "a", "seed": "x"}, "seed='x'"),
        ({"prompt": "a", "negative_prompt": 3}, "negative_prompt=3"),
        ({}, "nothing to draw"),
        ({"prompt": "()"}, "nothing to draw"),
        ({"prompt": None}, "prompt=None"),
        ({"subject": 3}, "subject=3"),
    ],
)
def test_a_panel_that_cannot_be_says_why(arguments, said):
    with pytest.raises(SettingsError, match=said):
        Panel(**arguments)


@pytest.mark.parametrize(
    ("panel", "prompt"),
    [
        (
            Panel(
                subject="紫色短发女孩",
                details="微笑，",
                modifiers="高清",
                style="二次元",
                artist="宫崎骏",
            ),
            "紫色短发女孩，微笑，高清，二次元，宫崎骏",
        ),
        (Panel(artist="by nobody", subject="a girl"), "a girl, by nobody"),
        (Panel("a (cat:1.2),", details="in rain"), "a (cat:1.2), in rain"),
        (Panel(" a,b ，"), "a,b ，"),
        (Panel(subject="(a", details="b:1.2)"), "(a, b:1.2)"),
    ],
)
def test_a_prompt_is_joined_from_its_parts(panel, prompt):
    assert Story([panel]).resolved(0)[0]["prompt"] == prompt


def test_what_panels_share_stands_before_each():
    story = Story(
        ["微笑", Panel("难过", details="教室", seed=3)],
        "模糊",
        common="紫色短发女孩",
        trigger="二次元",
    )
    assert story.resolved(1) == [
        {"prompt": "二次元，紫色短发女孩，微笑", "negative_prompt": "模糊", "seed": 1},
        {"prompt": "二次元，紫色短发女孩，难过，教室", "negative_prompt": "模糊", "seed": 3},
    ]
    assert Story(["smiling"], trigger="anime").resolved(0)[0]["prompt"] == "anime, smiling"
    assert Panel("a", "b", 3) == Panel("a", negative_prompt="b", seed=3)


@pytest.mark.parametrize(
    "shared",
    [
        {"common": "(a"},
        {"trigger": "a)"},
        {"negative_prompt": "[a"},
        {"common": 3},
        {"trigger": None},
    ],
)
def test_what_panels_share_is_checked(shared):
    with pytest.raises(SettingsError, match="must be text|that is never"):
        Story(["a"], **shared)


def picture_saying(path, text, chunk="add_text"):
    info = PngImagePlugin.PngInfo()
    if text is not None:
        getattr(info, chunk)("parameters", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


A1111 = """masterpiece, (girl:1.2), Note: rain
second line <lora:style:0.8>
Negative prompt: blurry,
low quality
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 4294967295, Size: 512x768, Model hash: 6ce0161689, Lora hashes: "style: 1a2b, other: 3c4d", Hashes: {"model": "6ce0", "vae": "73"}, Hires upscaler: R-ESRGAN 4x+, Version: v1.10.1"""


@pytest.mark.parametrize("chunk", ["add_text", "add_itxt"])
def test_a_story_from_png_of_a1111(tmp_path, chunk):
    story = Story.from_png(picture_saying(tmp_path / "a.png", A1111, chunk))
    assert story.panels == (
        Panel(
            "masterpiece, (girl:1.2), Note: rain\nsecond line <lora:style:0.8>",
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
    assert Story.from_png([picture_saying(tmp_path / "a.png", text, "add_itxt")]).panels == (panel,)


def test_a_story_from_png_in_utf8_where_latin_1_is_due(tmp_path):
    assert (
        Story.from_png(
            picture_saying(tmp_path / "a.png", "紫色短发女孩".encode().decode("latin-1"))
        )
        .panels[0]
        .prompt
        == "紫色短发女孩"
    )


def test_a_story_from_png_that_says_nothing(tmp_path):
    with pytest.raises(SettingsError, match="does not say how it was made"):
        Story.from_png(picture_saying(tmp_path / "a.png", None))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(SettingsError, match="b.png is no whole PNG"):
        Story.from_png(tmp_path / "b.png")
    with pytest.raises(SettingsError, match="a.png: Panel"):
        Story.from_png(
            picture_saying(
                tmp_path / "a.png",
                "Negative prompt: x\nSteps: 5, Sampler: Euler a, CFG scale: 7, Seed: 3",
            )
        )


def test_a_story_from_png_of_our_own(tmp_path):
    panel = {
        "prompt": "猫\nNegative prompt: 狗",
        "negative_prompt": "模糊",
        "seed": 5,
        "steps": 4,
        "sampler": "DPM++ 2M",
        "schedule_type": "Karras",
        "guidance_scale": 2.0,
        "width": 64,
        "height": 64,
        "base_fingerprint": "0" * 64,
        "base": "mini",
        "pipeline": "KolorsPipeline",
        "lora": None,
    }
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=png.info(panel))
    story = Story.from_png([tmp_path / "a.png", str(tmp_path / "a.png")])
    assert (
        story.panels == (Panel("猫\nNegative prompt: 狗", "模糊", 5),) * 2
        and story.settings[1]["steps"] == 4
    )
