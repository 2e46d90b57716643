"""Our path against the libraries alone, on tiny random weights of the real classes and layouts."""

import pytest
import torch

from storyboard import train
from storyboard.models import conditioning, memory
from storyboard.rendering import sampling
from storyboard.training.loss import diffusion_loss
from storyboard.training.pipeline import TrainingPipeline
from tests.parity import NAMES, alone, encode, of_diffusers, ours

# at 64 the deepest level of the tiny SD 1.5 is one pixel, whose normalisation magnifies rounding
SIDE = 128


@pytest.mark.slow
@pytest.mark.parametrize("negative", ["", "模糊 blurry"])
@pytest.mark.parametrize("name", NAMES)
def test_render_parity_with_diffusers_alone(hub, make_settings, name, negative):
    base, settings = hub(name), make_settings(base=name)
    pipe, drawn = of_diffusers(name, base.folder), {}
    for prompt in ("紫色短发女孩，微笑", "a girl with short purple hair"):
        drawn[prompt] = alone(pipe, prompt, negative)
        # of 0 to 1; torch 2.6 rounds one of them a little over 1e-4 apart, 2.15 none
        assert (ours(base, settings, prompt, negative) - drawn[prompt]).abs().max() < 2e-4
    first, second = drawn.values()
    assert first.std() > 0.05
    assert (first - second).abs().max() > 0.01  # a test that could fail: prompts do matter


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_guidance_end_parity_with_diffusers_cutoff(hub, make_settings, name):
    """diffusers' callback is right for a single picture; ours must be so in a batch, too."""
    from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback

    base, settings = hub(name), make_settings(base=name)
    pipe = of_diffusers(name, base.folder)
    prompts = ["a girl with short purple hair", "a boy in the rain"]
    embeddings = encode(base, settings, [*prompts, "blurry"])
    mine = sampling.load_pipeline(base, memory.plan(base, settings))
    positive, negative = [embeddings[prompt] for prompt in prompts], [embeddings["blurry"]] * 2

    def draw(guidance_scale=30.0, **end):
        latents = sampling.denoise(mine, positive, negative, [7, 8], 64, 4, guidance_scale, **end)
        return sampling.decode(mine, latents)

    pictures, whole = draw(guidance_end=0.25), draw()
    callback = SDCFGCutoffCallback if name == "sd15" else SDXLCFGCutoffCallback
    for picture, prompt, seed in zip(pictures, prompts, (7, 8), strict=True):
        # the steps after this one go without
        cutoff = callback(cutoff_step_ratio=None, cutoff_step_index=0)
        latents = pipe(
            prompt=[prompt],
            negative_prompt=["blurry"],
            generator=[torch.Generator("cpu").manual_seed(seed)],
            num_inference_steps=4,
            guidance_scale=30.0,
            height=64,
            width=64,
            output_type="latent",
            callback_on_step_end=cutoff,
            callback_on_step_end_tensor_inputs=cutoff.tensor_inputs,
        ).images
        assert (sampling.decode(pipe, latents)[0] - picture).abs().max() < 1e-4
    assert (pictures - whole).abs().max() > 1e-3
    assert (draw(guidance_end=0.0) - draw(guidance_scale=1.0)).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_trained_lora_in_diffusers_alone_parity(hub, make_settings, captions, name):
    base = hub(name)
    settings = make_settings(base=name, train_steps=10, learning_rate=1e-2, rank=4, alpha=2.0)
    lora = train(captions, settings)
    prompt, negative = "a girl with short purple hair", "blurry"
    pipe = of_diffusers(name, base.folder)
    plain = alone(pipe, prompt, negative, side=SIDE)
    pipe.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name)
    changed = alone(pipe, prompt, negative, side=SIDE)
    mine = ours(base, settings, prompt, negative, lora.path, side=SIDE)
    assert (mine - changed).abs().max() < 1e-4
    assert (changed - plain).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_loss_parity_with_diffusers_models_and_scheduler(hub, make_settings, name):
    import diffusers

    base, settings = hub(name), make_settings(base=name)
    pipe = TrainingPipeline.load(base, ("unet",), "cpu", torch.float32)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([3, 500, base.num_train_timesteps - 1])
    prompts = ["紫色短发女孩", "a cat", ""]
    embeddings = encode(base, settings, prompts)
    tokens, pooled = conditioning.stack(embeddings[prompt] for prompt in prompts)
    time_ids = torch.tensor(
        [[64.0, 64, 0, 0, 64, 64], [80, 64, 8, 0, 64, 64], [64, 80, 0, 8, 64, 64]]
    )
    with torch.no_grad():
        loss = diffusion_loss(
            pipe,
            latents,
            noise,
            timesteps,
            prompt_embeds=tokens,
            pooled_prompt_embeds=pooled,
            add_time_ids=time_ids,
        ).item()

        theirs = of_diffusers(name, base.folder)
        scheduler = diffusers.DDPMScheduler.from_config(theirs.scheduler.config)
        encoded = [
            theirs.encode_prompt(
                prompt or None if name == "sdxl" else prompt,
                device="cpu",
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
            for prompt in prompts[:2]
        ]
        empty = theirs.encode_prompt(
            "x", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
        )[1:4:2]  # as for no negative prompt
        added = None
        if name != "sd15":
            added = {
                "text_embeds": torch.cat([encoded[0][2], encoded[1][2], empty[1]]),
                "time_ids": time_ids,
            }
        noise_pred = theirs.unet(
            scheduler.add_noise(latents, noise, timesteps),
            timesteps,
            encoder_hidden_states=torch.cat([encoded[0][0], encoded[1][0], empty[0]]),
            added_cond_kwargs=added,
        ).sample
    assert loss == pytest.approx(torch.nn.functional.mse_loss(noise_pred, noise).item(), abs=1e-5)
