import itertools
import json
import shutil

import pytest
import torch

from storyboard import workflow
from storyboard.errors import SettingsError
from storyboard.exporting.comfyui import reading
from storyboard.models import bases, conditioning
from storyboard.models.run import run_on
from storyboard.rendering import sampling
from tests.comfy_graphs import V_PREDICTION, changed, follow, note, panels, read_again
from tests.comfy_rules import check_api, check_ui


def active(percent, sampler):
    """Whether a conditioning is there, step by step, that ends or begins at ``percent``.

    comfy/samplers.py, get_area_and_mult.
    """
    trained = ((1 - sampler.alphas_cumprod) / sampler.alphas_cumprod).sqrt().log()
    at = torch.tensor((1 - percent) * 999)
    border = (
        ((1 - at.frac()) * trained[int(at.floor())] + at.frac() * trained[int(at.ceil())])
        .exp()
        .item()
    )
    sigmas = sampler.sigmas[:-1].tolist()
    return [sigma >= border for sigma in sigmas], [sigma <= border for sigma in sigmas]


@pytest.mark.parametrize("base", ["kolors", "sdxl", "sd15"])
@pytest.mark.parametrize("control", [None, "edges", "image"])
def test_comfy_ends_guidance_in_one_sampler(base, control):
    """Where guidance ends the negative becomes the positive, so that cfg changes nothing."""
    panel = panels(base, guidance_end=0.6)[0]
    api = workflow([follow(panel, 1, control, strength=0.4) if control else panel])["api"]
    samplers = [node for node in api.values() if node["class_type"].startswith("KSampler")]
    assert (
        len(samplers) == 1
        and samplers[0]["inputs"]["cfg"] == 5.0
        and samplers[0]["inputs"].get("end_at_step", 25) >= 25
    )
    both = api[samplers[0]["inputs"]["negative"][0]]["inputs"]
    ranged, same = (api[both[f"conditioning_{side}"][0]]["inputs"] for side in (1, 2))
    sides = [["18", 0], ["18", 1]] if control == "edges" else [["10", 0], ["11", 0]]
    assert (
        samplers[0]["inputs"]["positive"] == same["conditioning"] == sides[0]
        and ranged["conditioning"] == sides[1]
    )
    assert (ranged["start"], same["end"]) == (0.0, 1.0) and ranged["end"] == same["start"]
    sampler = sampling.scheduler(bases.get(base))
    sampler.set_timesteps(25)
    negative, positive = active(ranged["end"], sampler)
    assert negative == [step < 15 for step in range(25)] and positive == [
        step >= 15 for step in range(25)
    ]
    assert reading.read(api)["pictures"][0].guidance_end == 0.6


@pytest.mark.parametrize(
    ("base", "facts", "sampling", "layer"),
    [
        ("sdxl", V_PREDICTION, ["v_prediction", True, "simple"], None),
        (
            "sdxl",
            {"base": {"prediction_type": "v_prediction"}, "schedule_type": "Karras"},
            ["v_prediction", False, "karras"],
            None,
        ),
        ("sd15", {"clip_skip": 2}, None, -2),
        ("sd15", {"clip_skip": 1}, None, None),
        ("sdxl", {"clip_skip": 2}, None, None),
        ("sdxl", {"clip_skip": 3}, None, -3),
        ("sd15", V_PREDICTION | {"clip_skip": 2}, ["v_prediction", True, "simple"], -2),
    ],
)
def test_comfy_is_told_what_the_base_predicts_and_which_layer_of_clip_is_read(
    base, facts, sampling, layer
):
    some = [changed(panel, **facts) for panel in panels(base)]
    some[1] = follow(some[1], 2, "edges", end=0.5)
    made = workflow(some)
    check_api(made["api"])
    check_ui(made["ui"])
    for form in made.values():
        again = workflow(**read_again(form))
        assert json.dumps(again, sort_keys=True) == json.dumps(made, sort_keys=True)
    for place in range(1, 9):
        sampler = made["api"][f"{place}3"]["inputs"]
        model, clip = (
            made["api"][source]
            for source in (sampler["model"][0], made["api"][f"{place}0"]["inputs"]["clip"][0])
        )
        if sampling:
            assert [
                model["inputs"].get("sampling"),
                model["inputs"].get("zsnr"),
                sampler["scheduler"],
            ] == sampling
            model = made["api"][model["inputs"]["model"][0]]
        assert "Lora" in model["class_type"] and clip["inputs"].get("stop_at_clip_layer") == layer
    assert ("predicts v" in note(made)) == bool(sampling)


def test_comfy_has_no_graph_for_a_kolors_that_predicts_v_and_none_for_two_ways_of_reading():
    with pytest.raises(SettingsError, match="Panel 1 is drawn by a Kolors that predicts v"):
        workflow([changed(panels("kolors")[0], **V_PREDICTION)])
    one, other = panels("sd15", count=2)
    with pytest.raises(SettingsError, match="panels of one base, one LoRA and one clip_skip"):
        workflow([one, changed(other, clip_skip=2)])


def drawn_by_comfy(unet, tokens, added, noise, steps, guidance_scale):
    """ComfyUI's dpmpp_2m and simple on ModelSamplingDiscrete(v_prediction, zsnr).

    comfy/model_sampling.py, samplers.py, k_diffusion/sampling.py.
    """
    alphas = torch.cumprod(
        1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
    ).sqrt()
    alphas = ((alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])) ** 2
    alphas[-1] = 4.8973451890853435e-08
    trained = ((1 - alphas) / alphas).sqrt().float()
    sigmas = [trained[-(1 + int(step * len(trained) / steps))] for step in range(steps)] + [
        torch.tensor(0.0)
    ]

    def denoised(x, sigma):
        timestep = (sigma.log() - trained.log()).abs().argmin()
        v = unet(
            torch.cat([x] * 2) / (sigma**2 + 1).sqrt(),
            timestep,
            encoder_hidden_states=tokens,
            added_cond_kwargs=added,
        ).sample
        negative, positive = (
            x / (sigma**2 + 1) - each * sigma / (sigma**2 + 1).sqrt() for each in v.chunk(2)
        )
        return negative + guidance_scale * (positive - negative)

    x, old = noise * (1 + sigmas[0] ** 2).sqrt(), None
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        found = new = denoised(x, sigma)
        if old is not None and following > 0:
            ratio = (sigmas[step - 1] / sigma).log() / (sigma / following).log()
            new = (1 + 1 / (2 * ratio)) * found - old / (2 * ratio)
        x = following / sigma * x + (1 - following / sigma) * new
        old = found
    return x


@pytest.mark.slow
def test_comfy_draws_v_prediction_with_zero_terminal_snr_as_we_do(hub, tmp_path, make_settings):
    folder = tmp_path / "v"
    shutil.copytree(hub("sdxl").folder, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
        )
    )
    base, settings = bases.get(str(folder)), make_settings(base=str(folder))
    run = run_on(base, settings)
    embeds = conditioning.encode(run, ["a girl in the rain", "blurry"])
    pipe = sampling.load_pipeline(base, run.plan)
    ours = sampling.denoise(
        pipe, [embeds["a girl in the rain"]], [embeds["blurry"]], [7], 64, 8, 4.0
    )
    tokens, pooled = conditioning.stack([embeds["blurry"], embeds["a girl in the rain"]])
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    with torch.no_grad():
        theirs = drawn_by_comfy(
            pipe.unet,
            tokens,
            added,
            torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)),
            8,
            4.0,
        )
    pictures = [sampling.decode(pipe, latents) / 2 + 0.5 for latents in (ours, theirs)]
    assert (pictures[0] - pictures[1]).abs().max() < 1 / 255
