"""Bases that predict v, against diffusers alone."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from storyboard.models import bases, conditioning, weights
from storyboard.models.run import run_on
from storyboard.training.loss import diffusion_loss, timestep_weights
from storyboard.training.pipeline import TrainingPipeline
from tests import original_layout
from tests.parity import alone, of_diffusers, ours
from tests.test_parity import SIDE


@pytest.fixture
def v_base(hub, tmp_path, monkeypatch):
    """(name, layout, zero terminal SNR) -> the tiny base predicting v, and its folder."""
    monkeypatch.setenv(weights.CACHE, str(tmp_path / "cache"))

    def make(name, layout, zero):
        source, folder = hub(name).folder, tmp_path / "v"
        shutil.copytree(source, folder)
        path = folder / "scheduler" / "scheduler_config.json"
        predicts_v = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": zero}
        path.write_text(json.dumps(json.loads(path.read_text()) | predicts_v))
        if layout == "folder":
            return weights.fetch(bases.get(str(folder))), folder
        pipe = of_diffusers(name, source)
        keys = {key: torch.tensor([]) for key in ("v_pred", "ztsnr") if zero or key == "v_pred"}
        file = tmp_path / "noob.safetensors"
        tensors = original_layout.single_file(pipe) | keys
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
        return weights.fetch(bases.get(str(file))), folder

    return make


V_CASES = [
    ("sdxl", "folder", True),
    ("sdxl", "file", True),
    ("sdxl", "file", False),
    ("sd15", "folder", False),
    ("sd15", "file", True),
    ("kolors", "folder", True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout", "zero"), V_CASES)
def test_v_prediction_pictures_parity_with_diffusers(v_base, make_settings, name, layout, zero):
    base, folder = v_base(name, layout, zero)
    prompt, negative = "a girl with short purple hair", "blurry"
    settings = make_settings(base=str(base.checkpoint or base.folder))
    pipe = of_diffusers(name, folder)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.scheduler.config.rescale_betas_zero_snr == zero
    if zero:  # timesteps are trailing, and the first is the last of training (arXiv:2305.08891)
        pipe.scheduler = type(pipe.scheduler).from_config(
            pipe.scheduler.config, use_karras_sigmas=False, timestep_spacing="trailing"
        )
    drawn = alone(pipe, prompt, negative, side=SIDE)
    if zero:
        assert (
            pipe.scheduler.timesteps[0] == base.num_train_timesteps - 1
            and pipe.scheduler.sigmas[0] > 4000
        )
    mine = ours(base, settings, prompt, negative, side=SIDE)
    assert (mine - drawn).abs().max() < 1e-4 and drawn.std() > 0.05

    # the same weights taken for a model of noise
    of_noise = weights.fetch(bases.get(name))
    elsewhere = settings.but(output=settings.output + "-2")
    wrong = ours(of_noise, elsewhere, prompt, negative, side=SIDE)
    assert (wrong - drawn).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout", "zero"), V_CASES)
def test_v_prediction_loss_parity_with_diffusers(v_base, make_settings, name, layout, zero):
    """Target and weight of diffusers' ``get_velocity``, down to the timestep without signal."""
    import diffusers

    base, folder = v_base(name, layout, zero)
    pipe = TrainingPipeline.load(base, ("unet",), "cpu", torch.float32)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    last = base.num_train_timesteps - 1
    timesteps = torch.tensor([3, 500, last])
    embedding = conditioning.encode(run_on(base, make_settings()), ["a cat"])["a cat"]
    embeds = {
        "prompt_embeds": embedding.tokens.expand(3, -1, -1),
        "pooled_prompt_embeds": embedding.pooled.expand(3, -1),
    }
    time_ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 3)
    weights_of_loss = timestep_weights(
        torch.tensor(pipe.scheduler.alphas_cumprod), base.high_noise_weight, base.prediction_type
    )
    with torch.no_grad():
        loss = diffusion_loss(
            pipe, latents, noise, timesteps, weights_of_loss, add_time_ids=time_ids, **embeds
        ).item()
        theirs = of_diffusers(name, folder)
        scheduler = diffusers.DDPMScheduler.from_config(theirs.scheduler.config)
        added = (
            {"text_embeds": embeds["pooled_prompt_embeds"], "time_ids": time_ids}
            if name != "sd15"
            else None
        )
        predicted = theirs.unet(
            scheduler.add_noise(latents, noise, timesteps),
            timesteps,
            encoder_hidden_states=embeds["prompt_embeds"],
            added_cond_kwargs=added,
        ).sample
        target = scheduler.get_velocity(latents, noise, timesteps)
    assert loss == pytest.approx(torch.nn.functional.mse_loss(predicted, target).item(), abs=1e-5)
    assert (scheduler.alphas_cumprod[last] == 0) == zero
    assert loss != pytest.approx(torch.nn.functional.mse_loss(predicted, noise).item(), abs=1e-2)
