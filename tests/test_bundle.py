import getpass
import io
import json
import re
import time
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from PIL import Image

from storyboard import Pair, Story, bundle, clean, collect, render, save_workflow, score
from storyboard.errors import BundleError, RenderingError
from storyboard.exporting import data_card, page
from storyboard.exporting.bundle import check_private


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """(settings, pictures, lora, report, bundle) of a short run."""
    settings, story, _, lora = trained
    report = clean(collect(settings), settings)
    settings = settings.but(output=str(tmp_path_factory.mktemp("bundled")))
    pictures = render(story, settings, lora)
    return settings, pictures, lora, report, bundle(pictures, lora, settings, report)


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_bundle_holds_all_and_repeats_byte_for_byte(made):
    settings, pictures, lora, report, found = made
    first = found.path.read_bytes()
    names = list(contents(found.path))
    assert (
        names
        == sorted(names)
        == [
            "LICENSES.md",
            "README.md",
            "data_card.json",
            "lora.safetensors",
            "panel-1.png",
            "panel-2.png",
            "panel-3.png",
            "story.json",
            "story.pdf",
            "story.png",
        ]
    )
    assert contents(found.path)["lora.safetensors"] == lora.path.read_bytes()
    assert bundle(pictures, lora, settings, report).path.read_bytes() == first


def test_pictures_that_others_were_drawn_over_are_refused_where_they_are_used(trained, tmp_path):
    settings, story, captions, lora = trained
    settings = settings.but(output=str(tmp_path))
    pictures = render(story, settings, lora)
    now = render(Story([*story[:2], "猫"], story.negative_prompt), settings, lora)
    for use in (
        lambda: bundle(pictures, lora, settings),
        lambda: score(pictures, settings, captions),
        lambda: str(Pair(now, pictures)),
        lambda: save_workflow(pictures),
        pictures._repr_html_,
    ):
        with pytest.raises(RenderingError, match="drawn over since, panel 3 is another one: run"):
            use()
    render(story, settings, lora)
    assert bundle(pictures, lora, settings).path.is_file()


def test_a_bundles_cards_say_what_was_done(made):
    _, pictures, _, report, found = made
    files = contents(found.path)
    _, front, card = files["README.md"].decode().split("---\n", 2)
    front = yaml.safe_load(front)
    assert (
        front["license"] == "cc-by-4.0"
        and front["pipeline_tag"] == "text-to-image"
        and "lora" in front["tags"]
    )
    assert [example["output"]["url"] for example in front["widget"]] == [
        path.name for path in pictures.paths
    ] and front["widget"][0]["text"] == pictures.panels[0].prompt
    assert "紫色短发女孩，微笑" in card and pictures.panels[0].lora.digest in card
    data = json.loads(files["data_card.json"])
    assert (
        data["pictures"]["found"]
        == report.total
        == sum(data["pictures"][key] for key in ("kept", "dropped", "unreadable"))
    )
    assert [step["operator"] for step in data["funnel"]] == [
        step.operator for step in report.operators
    ]
    assert "Wischofsky" in files["LICENSES.md"].decode()


def text_of(name, content):
    """The text of a bundle's file, nothing of a PDF.

    All of JSON and Markdown, the header of safetensors, a PNG's chunks (iTXt may be compressed).
    """
    if name.endswith(".png"):
        with Image.open(io.BytesIO(content)) as image:
            return "\n".join(image.text.values())
    if name.endswith(".safetensors"):
        return content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
    return content.decode() if name.endswith((".json", ".md")) else ""


def names(user, text, ours):
    """Whether ``text`` holds the user's name in a path, or as a word that is none of ``ours``."""
    text = re.sub(r"https?://[^\s\"')>]+", "", text)
    # a Chinese character next to it makes it no other word
    word = rf"(?<![A-Za-z0-9_]){re.escape(user)}(?![A-Za-z0-9_])"
    # with the folder before it: models/mini is ours where /home/mini is not
    path = re.compile(rf"[\w.-]*[/\\]{word}")
    if set(path.findall(text)) - set(path.findall(ours)):
        return True
    return bool(re.search(word, text)) and not re.search(word, ours)


def test_a_bundle_gives_away_no_path_name_or_token(made):
    settings, pictures, _, _, found = made
    private = {str(Path.home()) + "/", settings.output, str(Path(__file__).resolve().parents[1])}
    user = getpass.getuser()
    private |= {user} if len(user) > 4 else set()  # a short one may be part of any word
    here = Path(__file__).resolve().parents[1]
    ours = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("storyboard", "recipes", "data")
        for path in (here / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".json", ".jsonl", ".md")
    )
    ours += (here / "NOTICE.md").read_text(encoding="utf-8") + "\n".join(
        panel.prompt + " " + panel.negative_prompt for panel in pictures.panels
    )
    for name, content in contents(found.path).items():
        text = text_of(name, content)
        assert not [word for word in private if word.encode() in content or word in text], name
        assert not names(user, text, ours), name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/ann/x", True),
        (r"D:\\ann", True),
        ('"/mnt/ann"', True),
        ("by ann", True),
        ("由ann制作", True),
        ('{"author": "ann"}', True),
        ("/home/anna", False),
        ("annotated, ann_2, Joann", False),
        ("https://example.com/ann/x", False),
    ],
)
def test_a_short_user_name_is_found_where_it_stands_alone(text, told):
    assert names("ann", text, "") == told
    assert names("ann", text, "ann is a word of ours") == (told and ("/" in text or "\\" in text))


def test_a_bundle_with_a_token_in_a_prompt_is_refused_without_showing_it(made, monkeypatch):
    settings, _, lora, _, _ = made
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    pictures = render(
        Story(["anime girl hf_secretsecret"]), settings.but(output=settings.output + "-token"), lora
    )
    with pytest.raises(BundleError, match="a token") as caught:
        bundle(pictures, lora, settings)
    assert "hf_secretsecret" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "/home/anna/models/a.safetensors",
        '{"a": "/Users/anna"}',
        r'"C:\\Users\\anna\\x"',
        r"D:\Users\anna",
        "/root/x",
        "hf_" + "a1" * 17,
        "ms-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f",
        '"/mnt/set"',
        "/mnt/set/1.png",
    ],
)
def test_what_a_bundle_must_not_give_away(content):
    with pytest.raises(BundleError, match="^a.json holds") as caught:
        check_private({"a.json": content.encode()}, ("/mnt/set", "sample"))
    assert "anna" not in str(caught.value)


def test_what_a_bundle_may_say():
    text = "https://example.com/home/anna, sample, /tmp, hf_hub, 女孩/home, ms-dos, /mnt/settings"
    check_private({"a.json": text.encode()}, ("/mnt/set", "sample"))


def test_a_bundles_data_card_names_models_of_a_recipe_without_their_folders(made, tmp_path):
    settings, _, lora, report, _ = made
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "process:\n  - image_text_similarity_filter:\n      hf_clip: /data/anna/clip-vit\n"
    )
    card = json.dumps(data_card.build(settings.but(recipe=str(recipe)), lora.path, report))
    assert '"clip-vit"' in card and "anna" not in card and "mine.yaml" in card


def test_a_bundle_of_pictures_by_another_lora_is_refused(made, tmp_path):
    settings, pictures, lora, _, _ = made
    other = tmp_path / "lora.safetensors"
    other.write_bytes(lora.path.read_bytes() + b" ")
    with pytest.raises(BundleError, match="were not drawn with"):
        bundle(pictures, other, settings)


def test_the_bundles_page_shows_chinese_and_stays_in_its_lines(made):
    face = page.font(40)
    assert face.getmask("猫").getbbox() and bytes(face.getmask("猫")) != bytes(face.getmask("狗"))
    lines = page.wrapped(
        "二次元，紫色短发女孩，抱着小猫，a girl with an umbrella in the rain，家里", face, 300
    )
    assert (
        len(lines) > 2
        and all(face.getlength(line) <= 345 for line in lines)
        and not any(line[0] in "，。 " for line in lines)
    )
    assert "umbrella" in " ".join(lines)
    assert page.wrapped("猫🐱 and🎈dog", face, 3000) == [
        "猫 anddog"
    ]  # no box for what the font lacks
    assert page.wrapped("❤️ 👩‍👩‍👧 1️⃣ caf\u00e9 e\u0301 ①「한」", face, 3000) == [
        "1 caf\u00e9 e\u0301 ①「한」"
    ] and page.wrapped("🎈🎈", face, 300) == [""]
    _, pictures, _, _, found = made
    drawn = page.draw(pictures.paths * 3, ["长" * 400] * 9, "")
    assert (
        drawn.size == page.PAGE
        and contents(found.path)["story.pdf"].count(b"/Type /Page\n")
        + contents(found.path)["story.pdf"].count(b"/Type /Page ")
        <= 1
    )


@pytest.mark.parametrize("sign", ["长", "a ", "!", "🎈", "i"])
def test_the_page_takes_no_longer_for_a_caption_that_never_ends(sign):
    began = time.process_time()
    for side in (380, 1589):  # of a picture of eight, and of one alone
        text, face = page.fitted(sign * (1_200_000 // len(sign)), side, int(side * page.CAPTION))
        assert face.size == page.SIZES[-1] or sign == "🎈"
        assert text.endswith("…") or sign == "🎈"
    assert time.process_time() - began < 30


def test_long_lines_break_where_each_letter_was_measured():
    face = page.font(20)
    text = "a girl, wide 女孩，" * 60 + "WAVE fi ffl Ta." * 40
    lines = page.wrapped(text, face, 300)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    for line, following in pairwise(lines):
        word = re.match(r"[!-~]*|.", following)[0] or following[:1]
        assert face.getlength(line) <= 300 + 8 * 20
        assert face.getlength(f"{line} {word}") > 300 - 20
