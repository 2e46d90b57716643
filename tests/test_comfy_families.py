"""Any family gets a graph, and no two nodes of a graph have one number."""

from dataclasses import replace

import pytest

from storyboard import workflow
from storyboard.errors import SettingsError
from storyboard.exporting.comfyui import numbers, reading
from storyboard.models import bases, families
from storyboard.models.families import NodeType
from storyboard.models.families import registry as family_registry
from storyboard.story import MAX_PANELS
from tests.comfy_graphs import V_PREDICTION, changed, drawn, follow, panels, read_again

PACK = {"cnr_id": "made-up-pack"}


@pytest.fixture
def made_up():
    """A family whose loaders have the numbers that LoRA, sampling and ControlNets usually have."""
    sd15 = families.by_name("sd15")
    nodes = replace(
        sd15.comfyui,
        loaders={
            "1": ("MadeUpLoader", "unet_name"),
            "2": ("MadeUpEncoderLoader", "encoder_name"),
            "3": ("VAELoader", "vae_name"),
            "5": ("MadeUpLoader", "unet_name"),
        },
        model=("1", 0),
        clip=("2", 0),
        vae=("3", 0),
        text=("MadeUpEncode", "encoder", "words"),
        folder_loader=None,
        files={"vae_name": "made-up-vae.safetensors"},
        note="Needs the made-up pack.",
        pack="the made-up pack",
        pack_nodes={
            "MadeUpLoader": NodeType({"unet_name": "COMBO"}, ("MODEL",), PACK),
            "MadeUpEncoderLoader": NodeType({"encoder_name": "COMBO"}, ("CLIP",), PACK),
            "MadeUpEncode": NodeType(
                {"encoder": "CLIP", "words": "STRING"}, ("CONDITIONING",), PACK
            ),
        },
    )
    family = families.register(replace(sd15, name="made-up", title="Made Up", comfyui=nodes))
    bases.register(replace(bases.get("sd15"), name="made-up-1", family=family, comfy_files={}))
    yield family
    bases.forget("made-up-1")
    family_registry.forget("made-up")


def of_made_up(some):
    base = {"name": "made-up-1", "family": "made-up"}
    return [changed(panel, base=base) for panel in some]


def test_comfy_draws_a_family_that_only_a_test_knows(made_up):
    some = of_made_up(panels("sd15", guidance_end=0.6))
    some[1] = follow(some[1], 2, "edges", end=0.5)
    some[2] = follow(some[2], 3, "depth")
    some[3] = drawn(
        changed(some[3], prompt="a {cat}, a dog"), 154, {"prompt": ("a {cat}, ", "a dog")}
    )
    some = [changed(panel, clip_skip=2, **V_PREDICTION) for panel in some]
    made = workflow(some)
    api = made["api"]
    classes = [node["class_type"] for node in api.values()]
    for class_type in ("LoraLoaderModelOnly", "ModelSamplingDiscrete", "CLIPSetLastLayer"):
        assert classes.count(class_type) == 1
    assert classes.count("ControlNetLoader") == 2 and classes.count("MadeUpEncode") == 17
    assert api["2"]["inputs"] == {"encoder_name": "made-up-1.safetensors"}
    assert api["3"]["inputs"] == {"vae_name": "made-up-vae.safetensors"}
    assert "Needs the made-up pack." in api["1"]["_meta"]["note"]
    packs = {node["type"]: node["properties"].get("cnr_id") for node in made["ui"]["nodes"]}
    assert packs["MadeUpEncode"] == "made-up-pack" and packs["KSampler"] == "comfy-core"
    positions = [tuple(node["pos"]) for node in made["ui"]["nodes"]]
    assert len(set(positions)) == len(positions)
    for form in made.values():
        assert workflow(**read_again(form)) == made
    assert reading.read_story(made["ui"])[3].prompt == "a {cat}, a dog"


def test_comfy_refuses_a_family_that_is_not_registered():
    with pytest.raises(SettingsError, match="Panel 1 is of the family 'made-up', which is not"):
        workflow(of_made_up(panels("sd15")))


@pytest.mark.parametrize("name", ["kolors", "sdxl", "sd15"])
def test_comfy_numbers_are_those_of_the_version_before(name):
    shared = numbers.shared_nodes(families.by_name(name))
    assert [shared[control] for control in numbers.CONTROLNETS] == ["5", "6", "7", "8", "9"]
    assert shared["lora"] == "2"


def test_comfy_numbers_do_not_collide(made_up, monkeypatch):
    monkeypatch.setattr(numbers, "CONTROLNETS", (*numbers.CONTROLNETS, "normals", "lines"))
    for family in families.known():
        shared = numbers.shared_nodes(family)
        own = [*family.comfyui.loaders, *shared.values()]
        of_panels = [
            numbers.panel_node(panel, part)
            for panel in range(1, MAX_PANELS + 1)
            for part in numbers.Part
        ]
        used = own + of_panels
        assert len(set(used)) == len(used)
        assert all(numbers.panel_and_part(int(number))[0] == 0 for number in own)


def test_comfy_loaders_of_a_family_have_one_digit(made_up):
    wrong = replace(made_up, comfyui=replace(made_up.comfyui, loaders={"12": ("VAELoader", "x")}))
    with pytest.raises(ValueError, match="'made-up' must number its ComfyUI loaders from 1 to 9"):
        numbers.shared_nodes(wrong)
