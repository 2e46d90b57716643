"""Our path against the libraries alone, on tiny random weights of the real classes and layouts."""

import pytest
import torch

from storyboard import train
from storyboard.models import conditioning, memory
from storyboard.rendering import sampling
from storyboard.training.loss import diffusion_loss, timestep_weights
from storyboard.training.pipeline import TrainingPipeline
from tests.parity import NAMES, alone, encode, of_diffusers, ours

# at 64 the deepest level of the tiny SD 1.5 is one pixel, whose normalisation magnifies rounding
SIDE = 128


@pytest.mark.parametrize("negative", ["", "模糊 blurry"])
@pytest.mark.parametrize("name", NAMES)
def test_render_parity_with_diffusers_alone(hub, make_settings, name, negative):
    base, settings = hub(name), make_settings(base=name)
    pipe, drawn = of_diffusers(name, base.folder), {}
    for prompt in ("紫色短发女孩，微笑", "a girl with short purple hair"):
        drawn[prompt] = alone(pipe, prompt, negative)
        assert (ours(base, settings, prompt, negative) - drawn[prompt]).abs().max() < 1e-4
    first, second = drawn.values()
    assert first.std() > 0.05
    assert (first - second).abs().max() > 0.01  # a test that could fail: prompts do matter


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


@pytest.fixture
def v_base(hub, tmp_path, monkeypatch):
    """(name, layout, zero terminal SNR) -> the tiny base as a v-prediction model, and a folder of it for diffusers."""
    monkeypatch.setenv(weights.CACHE, str(tmp_path / "cache"))

    def make(name, layout, zero):
        import diffusers

        source, folder = hub(name).folder, tmp_path / "v"
        shutil.copytree(source, folder)
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(
            json.dumps(
                json.loads(path.read_text())
                | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": zero}
            )
        )
        if layout == "folder":
            return weights.fetch(bases.get(str(folder))), folder
        pipe = getattr(diffusers, bases.get(name).pipeline).from_pretrained(
            source, variant="fp16", **({"safety_checker": None} if name == "sd15" else {})
        )
        keys = {key: torch.tensor([]) for key in ("v_pred", "ztsnr") if zero or key == "v_pred"}
        file = tmp_path / "noob.safetensors"
        save_file(
            {
                key: tensor.contiguous()
                for key, tensor in (original_layout.single_file(pipe) | keys).items()
            },
            file,
        )
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


@pytest.mark.parametrize(("name", "layout", "zero"), V_CASES)
def test_v_prediction_pictures_parity_with_diffusers(v_base, make_settings, name, layout, zero):
    base, folder = v_base(name, layout, zero)
    prompt, negative = "a girl with short purple hair", "blurry"
    settings = make_settings(base=str(base.checkpoint or base.folder))
    pipe = of_diffusers(name, folder)
    assert (
        pipe.scheduler.config.prediction_type == "v_prediction"
        and pipe.scheduler.config.rescale_betas_zero_snr == zero
    )
    if zero:  # as the paper has it: timesteps are trailing, and the first is the last of training
        pipe.scheduler = type(pipe.scheduler).from_config(
            pipe.scheduler.config, use_karras_sigmas=False, timestep_spacing="trailing"
        )
    side = 128  # at 64 the deepest level of the tiny SD 1.5 is one pixel, whose normalisation magnifies rounding
    drawn = alone(pipe, prompt, negative, side=side)
    if zero:
        assert (
            pipe.scheduler.timesteps[0] == base.num_train_timesteps - 1
            and pipe.scheduler.sigmas[0] > 4000
        )
    assert (
        ours(base, settings, prompt, negative, side=side) - drawn
    ).abs().max() < 1e-4 and drawn.std() > 0.05
    wrong = ours(
        weights.fetch(bases.get(name)),
        settings.but(output=settings.output + "-2"),
        prompt,
        negative,
        side=side,
    )
    assert (wrong - drawn).abs().max() > 0.01  # the same weights taken for a model of noise


@pytest.mark.parametrize(("name", "layout", "zero"), V_CASES)
def test_v_prediction_loss_parity_with_diffusers(v_base, make_settings, name, layout, zero):
    """Target and weight of diffusers' own ``get_velocity``, down to the timestep without any signal."""
    import diffusers

    base, folder = v_base(name, layout, zero)
    pipe = TrainingPipeline.load(base, ("unet",), "cpu", torch.float32)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    last = base.num_train_timesteps - 1
    timesteps = torch.tensor([3, 500, last])
    said = conditioning.encode(run_on(base, make_settings()), ["a cat"])["a cat"]
    embeds = {
        "prompt_embeds": said.tokens.expand(3, -1, -1),
        "pooled_prompt_embeds": said.pooled.expand(3, -1),
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


def test_clip_skip_pictures_parity_with_diffusers(hub, make_settings):
    base, settings = hub("sd15"), make_settings(base="sd15", clip_skip=2)
    prompt, negative = "a girl with short purple hair", "blurry"
    pipe = of_diffusers("sd15", base.folder)
    object.__setattr__(
        pipe.text_encoder, "text_model", pipe.text_encoder
    )  # where its clip_skip looks for the last norm; transformers 5 has no such part
    # its negative prompt is read at the last layer whatever clip_skip says; A1111, kohya and ComfyUI read both alike
    unwanted = pipe.encode_prompt(
        negative,
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        clip_skip=1,
    )[0]
    drawn = pipe(
        prompt=[prompt],
        negative_prompt_embeds=unwanted,
        clip_skip=1,
        generator=[torch.Generator("cpu").manual_seed(7)],
        num_inference_steps=3,
        guidance_scale=4.0,
        height=128,
        width=128,
        output_type="pt",
    ).images[0]
    assert (ours(base, settings, prompt, negative, side=128) - drawn).abs().max() < 1e-4
    assert (
        ours(base, settings.but(clip_skip=None), prompt, negative, side=128) - drawn
    ).abs().max() > 1e-3
