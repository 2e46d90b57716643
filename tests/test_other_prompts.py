"""Prompts of A1111 and of others that a story cannot say word by word."""

import pytest

from storyboard import Story, prompts
from storyboard.other_tools import a1111, comfyui_syntax, prompt_syntax
from tests.other_pictures import png

SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 3, Size: 512x512"


def read(tmp_path, prompt, settings=SETTINGS):
    story = Story.from_png(png(tmp_path / "a.png", parameters=f"{prompt}\n{settings}", itxt=True))
    return story[0], story.settings[0].get("notes", [])


@pytest.mark.parametrize(
    ("written", "prompt", "note"),
    [
        ("a cat <lora:style:0.8>", "a cat", "<lora:style:0.8> names a LoRA of another file"),
        ("<lyco:x:1><lora:y:1> a cat", "a cat", "<lyco:x:1>, <lora:y:1>"),
        ("a cat <hypernet:x:1>", "a cat", "<hypernet:x:1> names what only that tool reads"),
        ("a cat, BREAK, a dog", "a cat, a dog", "BREAK starts a new chunk"),
        ("a cat\nBREAK\na dog", "a cat, a dog", "BREAK"),
        ("a cat :1.2 AND a dog :0.8", "a cat, a dog", "AND composes several prompts"),
        ("a [cat:dog:0.75] here", "a cat here", "[cat:dog:0.75] changes words"),
        ("a [cat:dog:0.25] here", "a dog here", "[cat:dog:0.25]"),
        ("a [cat:dog:16] here", "a cat here", "[cat:dog:16]"),
        ("a [cat:dog:5] here", "a dog here", "[cat:dog:5]"),
        ("a cat[ in a hat:0.25]", "a cat in a hat", "[ in a hat:0.25]"),
        ("a cat[ in a hat:0.75]", "a cat", "[ in a hat:0.75]"),
        ("a cat[ in a hat::0.75]", "a cat in a hat", "[ in a hat::0.75]"),
        ("a cat[ in a hat::0.25]", "a cat", "[ in a hat::0.25]"),
        ("a [cat|dog|cow] here", "a cat here", "[cat|dog|cow]"),
        ("a [(red:1.2) cat:dog:0.5]", "a (red:1.2) cat", "changes words"),
        ("a [[cat:dog:0.25]:cow:0.5]", "a dog", "in 2 places"),
        ("(a cat, night", "(a cat, night)", "a bracket without its partner"),
        ("a cat), night", "a cat\\), night", "a bracket without its partner"),
        ("[a cat, (night", "[a cat, (night)]", "a bracket without its partner"),
        ("(a [cat) here]", "(a [cat\\) here])", "a bracket without its partner"),
    ],
)
def test_what_a_story_cannot_say_is_taken_out_and_said(tmp_path, written, prompt, note):
    panel, notes = read(tmp_path, written)
    assert panel.prompt == prompt
    assert any(note in each for each in notes), notes


@pytest.mark.parametrize(
    "prompt",
    [
        "a (cat:1.2), [night], \\(1:20\\)",
        "[cat] at [dusk:dawn]",
        "a BREAKFAST for ANDY",
        "ratio 16:9 | b",
        "i <3 you, a <b> c",
        "女孩，微笑",
    ],
)
def test_what_a_story_says_too_stays_as_it_is(tmp_path, prompt):
    panel, notes = read(tmp_path, prompt)
    assert panel.prompt == prompt and not notes


def test_the_negative_prompt_is_read_alike(tmp_path):
    panel, notes = read(tmp_path, "a cat\nNegative prompt: <lora:bad:1> blurry, (text")
    assert panel.negative_prompt == "blurry, (text)" and len(notes) == 2


@pytest.mark.parametrize(
    "further",
    [
        "\nTemplate: a {cat|dog}\nNegative Template: blurry",
        "\nTemplate: a {cat|dog}, Steps: 3, Seed: 9,\n__animals__\nNegative Template:",
    ],
)
def test_templates_behind_the_settings(tmp_path, further):
    panel, _ = read(tmp_path, "a cat\nNegative prompt: blurry", SETTINGS + further)
    assert (panel.prompt, panel.negative_prompt, panel.seed) == ("a cat", "blurry", 3)


def test_templates_are_kept_in_settings():
    made = a1111.parsed(f"a cat\n{SETTINGS}\nTemplate: a {{cat}}\nx\nNegative Template: b")
    assert made.settings["Template"] == "a {cat}\nx"
    assert made.settings["Negative Template"] == "b" and made.settings["Steps"] == "20"


def test_settings_with_commas_quotes_and_json():
    line = (
        'Steps: 5, Model: "my, model", ControlNet 0: "Module: canny, Weight: 1", '
        'Hashes: {"a": "1, 2"}, Note: x: y, Clip skip: 2, Hires upscale: 2, Seed: 4'
    )
    made = a1111.parsed(f"a cat\n{line}")
    assert made.seed == 4 and made.settings == {
        "Steps": "5",
        "Model": "my, model",
        "ControlNet 0": "Module: canny, Weight: 1",
        "Hashes": '{"a": "1, 2"}',
        "Note": "x: y",
        "Clip skip": "2",
        "Hires upscale": "2",
    }
    said = " ".join(made.notes)
    assert all(word in said for word in ("ControlNet 0", "Clip skip", "hires fix"))


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a (cat:1.2), (night)", "a (cat:1.2), (night)"),
        ("[cat] (a:1.3)", "\\[cat\\] (a:1.3)"),
        ("((a:1.2) b:1.3)", "(a:1.2)( b:1.3)"),
        ("a) (b", "a\\) \\(b"),
        ("(a:nan)", "(a:nan)"),
    ],
)
def test_comfyui_weights_stay_where_both_read_them_alike(text, prompt):
    assert comfyui_syntax.kept_or_from_clip(text) == prompt
    prompts.check(prompt)


def test_balanced_leaves_a_weight_out_of_range_for_its_own_message():
    assert prompt_syntax.balanced("(a:99)") == ("(a:99)", [])
