import json
import shutil
import zipfile

import pytest

from storyboard import Panel, Reference, Story, bundle, render, reproduce
from storyboard.errors import BundleError
from storyboard.models import bases
from tests.bundles import format_1, story_of, with_story
from tests.conftest import picture


@pytest.fixture(scope="module")
def guided(trained, tmp_path_factory):
    """A bundle whose panels follow edges, a picture, and panel 1's character."""
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
def test_reproduce_draws_panels_with_references_and_a_shared_character_identically(
    guided, tmp_path, kind, panels
):
    found = guided[kind]
    assert "panel-2-reference.png" in found.files and b"sketch" not in found.path.read_bytes()
    with zipfile.ZipFile(found.path) as archive:
        card = archive.read("README.md").decode()
    assert "reference: [edges](panel-2-reference.png)" in card
    assert ("角色一致 character consistency: shared" in card) == (kind == "shared")
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


@pytest.mark.parametrize(("kind", "panels"), [("plain", 5), ("shared", 4)])
def test_reproduce_makes_references_and_characters_of_format_1_identical(
    guided, tmp_path, kind, panels
):
    story = format_1(story_of(guided[kind]))
    assert ("heroine" in story["panels"][1]) == (kind == "shared")
    result = reproduce(with_story(guided[kind], tmp_path / "before.zip", story))
    assert result.verdicts == ["identical"] * panels and result.changed == []
