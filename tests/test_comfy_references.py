from pathlib import Path

import pytest
import torch

from storyboard import workflow
from storyboard.errors import SettingsError
from storyboard.exporting.comfyui import reading
from storyboard.models import bases
from storyboard.rendering import sampling
from tests.comfy_graphs import FAMILIES, changed, follow, panels, read_again
from tests.comfy_rules import check_api, check_ui


@pytest.mark.parametrize("base", FAMILIES)
@pytest.mark.parametrize("guidance_end", [1.0, 0.6, 0.1])
def test_comfy_carries_controlnets_and_pictures_to_start_from(base, guidance_end):
    some = panels(base, guidance_end)
    some[1], some[2], some[3] = (
        follow(some[1], 2, "edges", end=0.5),
        follow(some[2], 3, "image", strength=0.37),
        follow(some[3], 4, "depth", strength=1.0),
    )
    some[4] = follow(some[4], 5, "image", strength=0.01)
    made = workflow(some, models={"edges": "mine.safetensors"})
    check_api(made["api"])
    check_ui(made["ui"])
    for form in made.values():
        assert workflow(**read_again(form)) == made
        story = reading.read_story(form)
        assert [
            panel.reference
            and (
                panel.reference.control,
                Path(panel.reference.picture).name,
                panel.reference.prepared,
            )
            for panel in story
        ] == [
            None,
            ("edges", "panel-2-reference.png", True),
            ("image", "panel-3-reference.png", False),
            ("depth", "panel-4-reference.png", True),
            ("image", "panel-5-reference.png", False),
            None,
            None,
            None,
        ]
    api = made["api"]
    assert api["5"]["inputs"] == {"control_net_name": "mine.safetensors"} and api["6"][
        "inputs"
    ] == {"control_net_name": f"{base}-depth.safetensors"}
    assert ("MZ_" in api["5"]["class_type"]) == (FAMILIES[base][0] == "kolors")
    first = api["33"]["inputs"]
    assert (
        api[first["latent_image"][0]]["class_type"] == "VAEEncode"
        and first["start_at_step"] == 25 - int(25 * (1 - 0.37))
        and first["add_noise"] == "enable"
    )
    negative = (
        api["2010"]["inputs"]["conditioning"]
        if guidance_end < 1
        else api["23"]["inputs"]["negative"]
    )
    assert (api["23"]["inputs"]["positive"], negative) == (["28", 0], ["28", 1]) and api["28"][
        "inputs"
    ]["strength"] == 0.8
    assert "models/controlnet" in next(
        node["widgets_values"][0] for node in made["ui"]["nodes"] if node["type"] == "Note"
    )


@pytest.mark.parametrize("base", ["kolors", "sdxl"])
@pytest.mark.parametrize("steps", [8, 25])
def test_comfy_ends_a_controlnet_at_the_step_where_ours_ends(base, steps):
    """ComfyUI takes a step if its sigma is at least that of timestep 999 (1 - end_percent)."""
    sampler = sampling.scheduler(bases.get(base))
    sampler.set_timesteps(steps)
    trained = ((1 - sampler.alphas_cumprod) / sampler.alphas_cumprod).sqrt().log()
    for wanted in range(steps + 1):
        end = wanted / steps
        percent = workflow([follow(changed(panels(base)[0], steps=steps), 1, "edges", end=end)])[
            "api"
        ]["18"]["inputs"]["end_percent"]
        if percent <= 0:
            assert wanted == 0
            continue
        at = torch.tensor((1 - percent) * 999)
        low, high = int(at.floor()), int(at.ceil())
        least = (
            0
            if percent >= 1
            else ((1 - at.frac()) * trained[low] + at.frac() * trained[high]).exp().item()
        )
        taken = sum(sigma >= least for sigma in sampler.sigmas[:-1].tolist())
        assert taken == wanted or (
            base == "kolors"
            and sampler.timesteps[wanted] > 998
            and taken == int((sampler.timesteps >= 998).sum())
        )


def test_comfy_refuses_two_controlnets_of_a_kind_and_character_consistency():
    some = panels("sdxl")
    character = {"method": "shared", "strength": 1.0, "source": "0" * 64}
    with pytest.raises(SettingsError, match="Two ControlNets follow edges"):
        workflow([follow(some[0], 1, "edges"), follow(some[1], 2, "edges", controlnet="other")])
    with pytest.raises(SettingsError, match="Panel 2 is drawn with character consistency"):
        workflow([some[0], changed(some[1], character=character)])
    graph = workflow([follow(some[0], 1, "image")])["api"]
    graph["17"]["inputs"]["image"] = "../secret.png"
    with pytest.raises(SettingsError, match="no graph that Storyboard made"):
        reading.read_story(graph)
