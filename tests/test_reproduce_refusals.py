import zipfile

import pytest

from storyboard import Panel, Reference, Story, bundle, render, reproduce
from storyboard.errors import BundleError
from tests.bundles import format_1, rewritten, story_of, with_story
from tests.conftest import picture


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    """Bundles by what their panels follow: nothing, edges, panel 1's character."""
    settings, _, _, lora = trained
    folder = tmp_path_factory.mktemp("drawn")
    picture(3, 100).save(folder / "sketch.png")
    followed = Panel("女孩，微笑", reference=Reference(folder / "sketch.png", end=0.5))

    def made(name, panels, **changes):
        own = settings.but(output=str(folder / name), num_inference_steps=2, **changes)
        return bundle(render(Story(panels), own, lora), lora, own)

    return {
        "plain": made("plain", ["女孩", "男孩"]),
        "edges": made("edges", ["女孩", followed]),
        "shared": made("shared", ["女孩", "男孩", "女孩，海边"], character="shared"),
    }


@pytest.fixture(scope="module")
def made(drawn):
    return drawn["plain"]


def nested(content, path):
    """Where in a record the last name of ``path`` stands, and that name."""
    *outer, last = path.split(".")
    for name in outer:
        content = content[name]
    return content, last


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
    ("field", "value", "message"),
    [
        ("drawn.file", "../panel-1.png", "panel 1: drawn.file"),
        ("drawn.file", "panel-2.png", "the file of panel 1"),
        ("drawn.row", 9, "panel 1: drawn"),
        ("drawn.batch", 10**9, "panel 1: drawn.batch"),
        ("drawn.text_length", 10**9, "panel 1: drawn.text_length"),
        ("drawn.vae_tiling", "yes", "panel 1: drawn.vae_tiling"),
        ("drawn", None, "panel 1 lacks drawn"),
        ("seed", -1, "panel 1: seed"),
        ("seed", 2**63, r"Panel\(seed="),
        ("prompt", " ", "has nothing to draw"),
        ("width", 32, "panel 1 is no square"),
        ("steps", 0, "panel 1: steps"),
        ("precision", None, "panel 1 lacks precision"),
        ("base.name", "/etc", "panel 2 has another base"),
        ("base.fingerprint", None, "panel 1 lacks base.fingerprint"),
        ("lora.digest", "5", "panel 1: lora.digest"),
        ("lora.text_encoder", "yes", "panel 1: lora.text_encoder"),
        ("clip_skip", 2, "panel 2 has another clip_skip"),
        ("versions", {"torch": "2\n"}, "panel 1: versions.torch"),
        ("guidance_scale", float("nan"), "panel 1: guidance_scale"),
        ("more", 1, "panel 1: more"),
    ],
)
def test_reproduce_trusts_no_field_of_story_json(made, tmp_path, field, value, message):
    story = story_of(made)
    record, name = nested(story["panels"][0], field)
    record[name] = value
    if field in ("width", "precision", "base.fingerprint"):  # the same in all panels
        for panel in story["panels"]:
            record, name = nested(panel, field)
            record[name] = value
    with pytest.raises(BundleError, match=message):
        reproduce(with_story(made, tmp_path / "bad.zip", story))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("file", "../panel-1.png", "panel 1"),
        ("row", 9, "panel 1"),
        ("seed", -1, "seed"),
        ("batch", 10**9, "panel 1"),
        ("base", "/etc", "panel 2"),
        ("text_length", 10**9, "panel 1"),
        ("lora", "5", "panel 1"),
        ("lora", None, "panel 1|panel 2"),
        ("versions", {"torch": "2\n"}, "panel 1"),
        ("lora_text_encoder", "yes", "panel 1"),
    ],
)
def test_reproduce_trusts_no_field_of_format_1(made, tmp_path, field, value, message):
    story = format_1(story_of(made))
    story["panels"][0][field] = value
    with pytest.raises(BundleError, match=message):
        reproduce(with_story(made, tmp_path / "bad.zip", story))


@pytest.mark.parametrize(
    "story",
    [
        [],
        {"format": 2},
        {"format": True, "panels": []},
        {"format": 2, "panels": []},
        {"format": 2, "panels": [1]},
        {"format": 2, "panels": {}},
        {"format": 1, "panels": [{}], "settings": None},
        {"format": 1, "panels": [1], "settings": {}},
    ],
)
def test_reproduce_refuses_a_story_json_of_another_form(made, tmp_path, story):
    with pytest.raises(BundleError, match="story.json of .* is not as bundle.. writes it"):
        reproduce(with_story(made, tmp_path / "bad.zip", story))


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


@pytest.mark.parametrize(
    ("kind", "index", "field", "value", "message"),
    [
        ("edges", 1, "reference.file", "../panel-2-reference.png", "reference.file"),
        ("edges", 1, "reference.file", "panel-1-reference.png", "reference of panel 2"),
        ("edges", 1, "reference.model", "../mine", "reference of panel 2"),
        ("edges", 1, "reference.strength", 9, "strength=9"),
        ("edges", 1, "reference.control", "x", "reference.control"),
        ("edges", 1, "reference.controlnet", "x", "reference.controlnet"),
        ("edges", 1, "reference.controlnet", None, "reference of panel 2"),
        ("edges", 0, "lora.strength", 9, "lora_strength=9"),
        ("shared", 1, "character.method", "x", "character.method"),
        ("shared", 1, "character.file", "../character.png", "character.file"),
        ("shared", 2, "character.strength", 2, "the character"),
        ("shared", 2, "character", None, "the character"),
        ("shared", 1, "drawn.row", 0, "the character"),
    ],
)
def test_reproduce_trusts_no_reference_character_or_strength(
    drawn, tmp_path, kind, index, field, value, message
):
    story = story_of(drawn[kind])
    record, name = nested(story["panels"][index], field)
    record[name] = value
    with pytest.raises(BundleError, match=message):
        reproduce(with_story(drawn[kind], tmp_path / "bad.zip", story))


def test_reproduce_refuses_a_bundle_of_another_format(made, tmp_path):
    story = story_of(made) | {"format": 3}
    with pytest.raises(BundleError, match="format 3, this Storyboard reads 1 and 2"):
        reproduce(with_story(made, tmp_path / "new.zip", story))
