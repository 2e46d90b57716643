"""Pictures of other tools, as those write their texts: what a story takes from each."""

import json

import pytest
from PIL import Image

from storyboard import Story
from storyboard.errors import SettingsError
from tests.other_pictures import graph, png, stealth, with_comment

A1111 = (
    "photo of a duck\nNegative prompt: monochrome\n"
    "Steps: 15, Sampler: UniPC, CFG scale: 5, Seed: 235284042, Size: 512x400, Model: real"
)
FOOOCUS = {
    "prompt": "a smiling goldfish",
    "negative_prompt": "",
    "seed": "6952411511246973023",
    "steps": 30,
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "styles": "['Fooocus V2']",
    "loras": [],
    "metadata_scheme": "fooocus",
}
SWARM = {
    "sui_image_params": {
        "prompt": "a fox<lora:style:0.8>",
        "negativeprompt": "blurry",
        "seed": 305223794,
        "steps": 25,
        "cfgscale": 1.0,
        "sampler": "euler",
        "swarm_version": "0.9.1.1",
    }
}
INVOKE_3 = {
    "positive_prompt": "digital artwork, oil painting",
    "negative_prompt": "grainy+, photo, noisy++",
    "seed": 3293022630,
    "steps": 35,
    "scheduler": "euler",
    "ipAdapters": [{"weight": 0.45}],
}
INVOKE_2 = {
    "app_version": "2.3.0",
    "image": {
        "prompt": [{"prompt": "woman, (skin), grain [rendering, glowing eyes]", "weight": 1.0}],
        "steps": 50,
        "seed": 2980747362,
        "sampler": "k_lms",
    },
}
DREAM = '"woman, (skin), grain [rendering, glowing eyes]" -s 50 -S 2980747362 -W 512 -C 5 -A k_lms'
NOVELAI = {"steps": 50, "sampler": "k_euler_ancestral", "seed": 2253955223, "uc": "lowres"}
NOVELAI_4 = {
    "prompt": "two girls",
    "steps": 28,
    "seed": 5,
    "sampler": "k_euler",
    "v4_prompt": {
        "caption": {
            "base_caption": "two girls",
            "char_captions": [{"char_caption": "red hair"}, {"char_caption": "blue hair"}],
        }
    },
    "v4_negative_prompt": {"caption": {"base_caption": "bad", "char_captions": []}},
}
TENSOR_ART = {"prompt": "a boat", "negativePrompt": "fog", "seed": "9", "steps": 20}
SINGLE = {"prompt": "a hill", "negative__prompt": "rain", "seed": "12", "steps": "30"}


@pytest.mark.parametrize(
    ("tool", "chunks", "panel", "facts"),
    [
        ("A1111", {"parameters": A1111}, ("photo of a duck", "monochrome", 235284042), {}),
        (
            "Fooocus",
            {"parameters": FOOOCUS, "fooocus_scheme": "fooocus"},
            ("a smiling goldfish", "", 6952411511246973023),
            {"steps": 30, "sampler": "dpmpp_2m_sde_gpu"},
        ),
        (
            "SwarmUI",
            {"parameters": SWARM},
            ("a fox", "blurry", 305223794),
            {"steps": 25, "sampler": "euler"},
        ),
        (
            "InvokeAI",
            {"invokeai_metadata": INVOKE_3},
            ("digital artwork, oil painting", "grainy+, photo, noisy++", 3293022630),
            {"steps": 35, "scheduler": "euler"},
        ),
        (
            "InvokeAI",
            {"Dream": DREAM, "sd__metadata": INVOKE_2},
            ("woman, (skin), grain", "rendering, glowing eyes", 2980747362),
            {"steps": 50, "sampler": "k_lms"},
        ),
        (
            "InvokeAI",
            {"Dream": DREAM},
            ("woman, (skin), grain", "rendering, glowing eyes", 2980747362),
            {"steps": "50", "sampler": "k_lms", "width": "512", "cfg_scale": "5"},
        ),
        (
            "NovelAI",
            {"Software": "NovelAI", "Description": "cat,  space", "Comment": NOVELAI},
            ("cat,  space", "lowres", 2253955223),
            {"steps": 50, "sampler": "k_euler_ancestral"},
        ),
        (
            "NovelAI",
            {"Software": "NovelAI", "Description": "two girls", "Comment": NOVELAI_4},
            ("two girls, red hair, blue hair", "bad", 5),
            {"steps": 28},
        ),
        ("TensorArt", {"generation_data": TENSOR_ART}, ("a boat", "fog", 9), {"steps": 20}),
        (
            "A tool that writes single facts",
            SINGLE,
            ("a hill", "rain", 12),
            {"steps": "30"},
        ),
        (
            "Midjourney",
            {
                "Description": "a red barn --ar 16:9 --seed 44 --v 6 "
                "Job ID: 0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f"
            },
            ("a red barn", "", 44),
            {},
        ),
        ("ComfyUI", {"prompt": graph()}, ("a cat, (night:1.2)", "blurry", 7), {"steps": 20}),
    ],
)
def test_each_tools_png(tmp_path, tool, chunks, panel, facts):
    story = Story.from_png(png(tmp_path / "a.png", **chunks))
    assert (story[0].prompt, story[0].negative_prompt, story[0].seed) == panel
    settings = story.settings[0]
    assert settings["tool"] == tool
    assert {name: settings[name] for name in facts} == facts


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.png"])
@pytest.mark.parametrize(
    ("prefix", "encoding"),
    [
        (b"UNICODE\0", "utf-16-be"),
        (b"UNICODE\0", "utf-16-le"),
        (b"UNICODE\0", "utf-16"),
        (b"ASCII\0\0\0", "utf-8"),
        (b"", "utf-8"),
    ],
)
def test_a_user_comment_in_each_encoding(tmp_path, name, prefix, encoding):
    text = A1111.replace("a duck", "a duck, 二次元")
    path = with_comment(tmp_path / name, prefix + text.encode(encoding))
    story = Story.from_png(path)
    assert (story[0].prompt, story[0].seed) == ("photo of a duck, 二次元", 235284042)
    assert story.settings[0]["Steps"] == "15" and story.settings[0]["Sampler"] == "UniPC"


def test_a_user_comment_of_a_camera_is_no_prompt(tmp_path):
    path = with_comment(tmp_path / "a.jpg", b"ASCII\0\0\0Screenshot")
    with pytest.raises(SettingsError, match=r"a.jpg does not say how it was made"):
        Story.from_png(path)


@pytest.mark.parametrize(
    ("content", "panel"),
    [
        (SWARM, ("a fox", "blurry", 305223794)),
        (FOOOCUS, ("a smiling goldfish", "", 6952411511246973023)),
        (graph(), ("a cat, (night:1.2)", "blurry", 7)),
        ({"c": "a boat", "uc": "fog", "seed": 3}, ("a boat", "fog", 3)),
        ({"Comment": json.dumps(NOVELAI), "Description": "cat"}, ("cat", "lowres", 2253955223)),
    ],
)
def test_json_in_a_user_comment(tmp_path, content, panel):
    path = with_comment(tmp_path / "a.jpg", b"ASCII\0\0\0" + json.dumps(content).encode())
    story = Story.from_png(path)
    assert (story[0].prompt, story[0].negative_prompt, story[0].seed) == panel


def test_comfyui_webp_holds_its_graph_in_tags_that_name_cameras(tmp_path):
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(graph())
    exif[0x010F] = "workflow:{}"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", exif=exif)
    assert Story.from_png(tmp_path / "a.webp")[0].seed == 7


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF '
    'xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description '
    'xmlns:exif="http://ns.adobe.com/exif/1.0/"><exif:UserComment><r:Alt><r:li>{}</r:li></r:Alt>'
    "</exif:UserComment></r:Description></r:RDF></x:xmpmeta>"
)


def test_draw_things_writes_xmp(tmp_path):
    content = json.dumps({"c": "a boat", "uc": "fog", "seed": 3, "steps": 8})
    path = png(tmp_path / "a.png", itxt=True, **{"XML:com.adobe.xmp": XMP.format(content)})
    story = Story.from_png(path)
    assert (story[0].prompt, story[0].seed, story.settings[0]["steps"]) == ("a boat", 3, 8)


@pytest.mark.parametrize(
    "name", [b"stealth_pngcomp", b"stealth_pnginfo", b"stealth_rgbcomp", b"stealth_rgbinfo"]
)
@pytest.mark.parametrize("text", [A1111, json.dumps({"parameters": "x", "Comment": "{}"})])
def test_text_in_the_pixels(tmp_path, name, text):
    path = stealth(tmp_path / "a.png", text, name, side=96)
    if text is A1111:
        assert Story.from_png(path)[0].seed == 235284042
    else:
        assert Story.from_png(path)[0].prompt == "x"


def test_the_place_of_text_in_pixels_depends_on_no_shape(tmp_path):
    path = stealth(tmp_path / "a.png", A1111, side=41)
    assert Story.from_png(path)[0].prompt == "photo of a duck"


def test_the_picture_decides_not_its_name(tmp_path):
    path = png(tmp_path / "a.png", parameters=A1111)
    path.rename(tmp_path / "a.jpg")
    assert Story.from_png(tmp_path / "a.jpg")[0].seed == 235284042


def test_what_a_story_cannot_do_is_said(tmp_path, capsys):
    png(tmp_path / "a.png", parameters=SWARM)
    png(tmp_path / "b.png", parameters=FOOOCUS)
    png(tmp_path / "c.png", invokeai_metadata=INVOKE_3)
    story = Story.from_png([tmp_path / name for name in ("a.png", "b.png", "c.png")])
    said = capsys.readouterr().out
    for settings, word in zip(story.settings, ("<lora:style:0.8>", "styles", "cat++"), strict=True):
        assert any(word in note for note in settings["notes"])
        assert all(note in said for note in settings["notes"])


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1])
def test_a_seed_that_no_panel_takes_is_said(tmp_path, seed):
    story = Story.from_png(png(tmp_path / "a.png", parameters=FOOOCUS | {"seed": seed}))
    assert story[0].seed is None and story.settings[0]["seed"] == seed
    assert any(str(seed) in note for note in story.settings[0]["notes"])


@pytest.mark.parametrize("seed", [-1, "-1", "", None])
def test_a_seed_that_means_random_is_none(tmp_path, seed):
    story = Story.from_png(png(tmp_path / "a.png", parameters=FOOOCUS | {"seed": seed}))
    assert story[0].seed is None
