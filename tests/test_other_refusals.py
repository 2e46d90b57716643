"""Texts of other tools that are damaged, of another form, or too long."""

import os
import time
from contextlib import suppress

import pytest
from PIL import Image

from storyboard import Story
from storyboard.errors import SettingsError
from tests.other_pictures import png, stealth
from tests.test_other_tools import A1111, FOOOCUS

DEEP = '{"a":' * 200_000
HUGE = '{"prompt": "a", "seed": ' + "9" * 5000 + "}"


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ({"parameters": FOOOCUS | {"seed": "7" * 5000}}, "seed .* more than 20 digits"),
        ({"parameters": HUGE}, "parameters text is damaged JSON"),
        ({"parameters": FOOOCUS | {"seed": 1.5}}, "seed .* is 1.5, no whole number"),
        ({"parameters": FOOOCUS | {"seed": [1]}}, "seed .* is a list"),
        ({"parameters": FOOOCUS | {"prompt": ["a"]}}, r"prompt .* is a list, no text"),
        ({"parameters": FOOOCUS | {"prompt": None}}, "Fooocus wrote no prompt"),
        ({"parameters": A1111.replace("235284042", "5" * 5000)}, "Seed has more than 20 digits"),
        ({"parameters": A1111.replace("235284042", "none at all")}, "Seed is 'none at all'"),
        ({"parameters": '{"width": 8}'}, "a tool that is not known .'width'"),
        ({"parameters": '{"prompt": "a cat'}, "parameters text is damaged JSON"),
        ({"parameters": DEEP}, "nested without end"),
        ({"parameters": {"sui_image_params": [1]}}, "sui_image_params is a list"),
        ({"invokeai_metadata": "null"}, "wrote no prompt"),
        ({"invokeai_metadata": "[1]"}, "invokeai_metadata text is a list"),
        ({"sd__metadata": {"image": {"prompt": [None, 3]}}}, "image.prompt .* is a number"),
        ({"Dream": "-s 50"}, "Dream text has no prompt in quotes"),
        ({"Software": "NovelAI", "Comment": "{"}, "Comment text is damaged JSON"),
        ({"Software": "NovelAI", "Comment": {"v4_prompt": {"caption": 3}}}, "v4_prompt.caption"),
        ({"workflow": {"nodes": []}}, "the canvas alone"),
        ({"Software": "GIMP"}, "does not say how it was made.*It holds Software"),
        ({"parameters": " \n"}, "does not say how it was made"),
    ],
)
def test_what_cannot_be_read_says_file_and_field(tmp_path, chunks, reason):
    with pytest.raises(SettingsError, match=rf"a.png.*{reason}") as caught:
        Story.from_png(png(tmp_path / "a.png", **chunks))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_damaged_text_in_the_pixels(tmp_path):
    path = stealth(tmp_path / "a.png", A1111)
    with Image.open(path) as image:
        cut = image.crop((0, 0, 12, 64))
    cut.save(tmp_path / "cut.png")
    with pytest.raises(
        SettingsError, match=r"cut.png: the text in its pixels .* is damaged, cut off"
    ):
        Story.from_png(tmp_path / "cut.png")


def test_a_pipe_or_a_folder_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, tmp_path / "none.png"):
        with pytest.raises(SettingsError, match=rf"{path.name}: there is no such file"):
            Story.from_png(path)


LONG = {
    "names": "a" * 200_000,
    "words": "a, " * 70_000,
    "colons": "a: b " * 40_000,
    "pairs": "a: b, " * 35_000,
    "open quotes": 'a: "b, ' * 30_000,
    "open brackets": "a: [" * 50_000,
    "JSON": 'a: ["b", ' * 20_000,
    "tags": "<lora:a" * 30_000,
    "spaces": "a" + " " * 200_000 + "BREAK",
    "closing": ")" * 200_000,
    "editing": "[a:b:0.5]" * 20_000,
    "nested editing": "[" * 20_000 + "a" + ":b:0.5]" * 20_000,
    "lines": "Steps: 1,\n" * 20_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_texts_take_linear_time(tmp_path, text):
    path = png(tmp_path / "a.png", parameters=f"x {text}\nSteps: 5, {text}, Seed: 3")
    began = time.process_time()
    with suppress(SettingsError):
        Story.from_png(path)
    assert time.process_time() - began < 10


def test_a_text_that_is_longer_than_is_read(tmp_path):
    path = png(tmp_path / "a.png", parameters="a " * (9 * 2**20))
    with pytest.raises(SettingsError, match=r"a.png: its text 'parameters' has 18,874,368 char"):
        Story.from_png(path)
