"""Steps of training: cache, batches, loss, gradients, learning rate."""

import functools
import itertools
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

from storyboard.errors import ResourceError
from storyboard.models import bases, conditioning
from storyboard.models.run import run_on
from storyboard.training import batches, cache, encoding, loop, loss, schedule
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.injection import inject
from storyboard.training.making import _fingerprint
from storyboard.training.pipeline import TrainingPipeline

MINI = bases.get("mini")


@pytest.fixture
def run(trained):
    """The run of the trained fixture."""
    return run_on(MINI, trained[0])


@pytest.fixture
def cached(trained, run):
    """Its cache."""
    return cache.prepare(trained[2], run)


@pytest.fixture
def pipe():
    """mini's UNet."""
    return TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)


def test_loss_parity_with_diffsynth(make_settings, pipe):
    from diffsynth.diffusion.loss import FlowMatchSFTLoss

    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    embedding = conditioning.encode(run_on(MINI, make_settings()), ["a cat"])["a cat"]
    inputs = {
        "prompt_embeds": embedding.tokens[None],
        "pooled_prompt_embeds": embedding.pooled[None],
        "add_time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]),
    }
    with torch.no_grad():
        torch.manual_seed(7)
        theirs = FlowMatchSFTLoss(pipe, input_latents=latents, **inputs).item()
        torch.manual_seed(7)
        timesteps = pipe.scheduler.timesteps[torch.randint(0, 1100, (1,))].long()
        ours = loss.diffusion_loss(pipe, latents, torch.randn_like(latents), timesteps, **inputs)
    assert ours.item() == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_weights_add_a_share_of_the_error_in_the_picture(prediction_type):
    """The picture follows from the prediction and the noisy latents; so does its error."""
    generator = torch.Generator().manual_seed(0)
    latents, noise, error = (
        torch.randn(4, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    alphas = torch.tensor([0.9, 0.5, 0.1, 0.02], dtype=torch.float64)[:, None]
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    target = loss.training_target(latents, noise, alphas, prediction_type)
    prediction = target + error
    if prediction_type == "epsilon":
        picture = (noisy - (1 - alphas).sqrt() * prediction) / alphas.sqrt()
    else:
        picture = alphas.sqrt() * noisy - (1 - alphas).sqrt() * prediction
    weights = loss.timestep_weights(alphas, 0.3, prediction_type)
    expected = (prediction - target) ** 2 + 0.3 * (picture - latents) ** 2
    assert torch.allclose(weights * (prediction - target) ** 2, expected)


def test_timestep_weights_have_a_ceiling():
    snr = torch.tensor([100.0, 5.0, 1.0, 0.1, 1e-4])
    alphas_cumprod = snr / (1 + snr)
    assert torch.equal(loss.timestep_weights(alphas_cumprod, high_noise=0.0), torch.ones(5))
    raised = loss.timestep_weights(alphas_cumprod, high_noise=0.3, max_weight=40.0)
    assert torch.allclose(raised, torch.tensor([1.003, 1.06, 1.3, 4.0, 40.0]), rtol=1e-3)


def gradients(pipe, cached, micro_batch_size):
    """LoRA gradients of step 0's batch, the micro batch size that fitted, and the loss."""
    whole = (each for each in batches.epoch_batches(cached, 4, 0, 0) if len(each[1]) == 4)
    bucket, indices = next(whole)
    batch = batches.draw_batch(cached, bucket, indices, pipe, 0, 0)
    parameters = list(loop.trainable(pipe.unet).values())
    weights = torch.ones(pipe.base.num_train_timesteps)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    add = functools.partial(loop._add_gradients, pipe, scaler, weights)
    optimizer, weighted = torch.optim.SGD(parameters), [(batch, 1.0)]
    value, fitted = loop._accumulate(add, optimizer, weighted, micro_batch_size)
    return torch.cat([parameter.grad.flatten() for parameter in parameters]), fitted, value


def test_out_of_memory_halves_the_batch_and_keeps_the_gradients(run, cached, pipe, capsys):
    inject(pipe, Hyperparameters.of(run))
    whole, fitted, value = gradients(pipe, cached, 4)
    assert fitted == 4
    real = pipe.model_fn

    def one_at_a_time(latents, **inputs):
        if len(latents) > 1:
            raise torch.OutOfMemoryError("too many")
        return real(latents=latents, **inputs)

    pipe.model_fn = one_at_a_time
    parts, fitted, again = gradients(pipe, cached, 4)
    assert fitted == 1
    assert again == pytest.approx(value, rel=1e-4)
    assert torch.allclose(parts, whole, rtol=1e-3, atol=1e-6)
    printed = capsys.readouterr().out
    assert "out of memory, going on with 2 pictures at a time (4 a step as before)" in printed

    def never(**_):
        raise torch.OutOfMemoryError("nothing fits")

    pipe.model_fn = never
    with pytest.raises(ResourceError, match="too small for one picture.*gradient_checkpointing"):
        gradients(pipe, cached, 4)


def test_injection_touches_the_asked_modules_alone(run, pipe):
    inject(pipe, Hyperparameters.of(run))
    parameters = loop.trainable(pipe.unet)
    assert parameters
    assert all(".lora_A." in name or ".lora_B." in name for name in parameters)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}


def test_the_cache_holds_every_picture_once_in_its_bucket(trained, cached):
    assert len(cached) == len(trained[2])
    assert all(torch.isfinite(embedding.tokens).all() for embedding in cached.embeddings)
    for (height, width), latents in cached.latents.items():
        assert latents.shape[1:] == (4, height // 8, width // 8)
        targets = cached.time_ids[height, width][:, 4:].unique(dim=0)
        assert targets.tolist() == [[height, width]]


def test_a_picture_covers_the_bucket_nearest_in_shape():
    pixels, bucket, crop = encoding.fit(Image.new("RGB", (320, 480)), encoding.buckets(192, 32))
    assert bucket == (224, 160)
    assert pixels.shape == (224, 160, 3)
    assert crop == (8, 0)


@pytest.mark.parametrize(("resolution", "step"), [(192, 32), (512, 64), (1024, 64)])
def test_buckets_have_about_the_same_area(resolution, step):
    sizes = encoding.buckets(resolution, step)
    assert (resolution, resolution) in sizes
    assert len(sizes) > 2
    for height, width in sizes:
        assert height % step == width % step == 0
        assert max(height, width) / min(height, width) <= 2
        assert 0.75 < height * width / resolution**2 < 1.34


def flat(order):
    """Batches that can be compared."""
    return [(bucket, indices.tolist()) for bucket, indices in order]


def test_an_epoch_sees_every_picture_once_and_repeats_for_its_seed(cached):
    order = flat(batches.epoch_batches(cached, 4, seed=3, epoch=1))
    seen = sorted((bucket, i) for bucket, indices in order for i in indices)
    assert seen == sorted(
        (bucket, i) for bucket, latents in cached.latents.items() for i in range(len(latents))
    )
    assert order == flat(batches.epoch_batches(cached, 4, 3, 1))
    assert order != flat(batches.epoch_batches(cached, 4, 3, 2))


def test_any_step_finds_its_batch(cached):
    epoch = len(batches.epoch_batches(cached, 4, 0, 0))
    whole = flat(itertools.islice(batches.batches_from(cached, 4, 0, 0), 3 * epoch))
    for step in (1, epoch - 1, epoch, epoch + 1, 2 * epoch):
        rest = flat(itertools.islice(batches.batches_from(cached, 4, 0, step), epoch))
        assert rest == whole[step : step + epoch]


@pytest.mark.parametrize("seed", [0, 156680208700286, 2**63 - 65])
def test_any_seed_gives_an_order_of_its_own(cached, seed):
    order = flat(batches.epoch_batches(cached, 4, seed, 0))
    assert order == flat(batches.epoch_batches(cached, 4, seed, 0))
    assert order != flat(batches.epoch_batches(cached, 4, seed - 1 if seed else 1, 0))


def test_dropped_captions_are_empty(cached, pipe):
    bucket, indices = batches.epoch_batches(cached, 4, 0, 0)[0]
    batch = batches.draw_batch(cached, bucket, indices, pipe, 0, 0, caption_dropout=1.0)
    empty = cached.embeddings[batches.EMPTY_CAPTION].tokens
    assert all(torch.equal(tokens, empty) for tokens in batch["prompt_embeds"])


def test_learning_rate_warms_up_and_falls():
    rates = [schedule.learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == 1.0
    assert rates.index(1.0) == 4
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert rates[-1] < 0.03


def test_every_hyperparameter_is_in_the_fingerprint(trained, run):
    captions = trained[2]
    before = Hyperparameters.of(run)
    fingerprints = {_fingerprint(captions, run, before)}
    for name, value in asdict(before).items():
        changed = replace(before, **{name: f"{value} changed"})
        fingerprints.add(_fingerprint(captions, run, changed))
    assert len(fingerprints) == 1 + len(asdict(before))
