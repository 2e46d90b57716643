import csv
import functools
import itertools
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from storyboard import Story, artifacts, train
from storyboard.errors import ResourceError, SettingsError, TrainingError
from storyboard.models import bases, conditioning
from storyboard.models.run import run_on
from storyboard.training import cache, loop
from storyboard.training.pipeline import TrainingPipeline
from storyboard.training.stage import inject

MINI = bases.get("mini")


def shrink(settings, tmp_path, **changes):
    """The trained fixture's settings, writing elsewhere, its cache at hand."""
    again = settings.but(output=str(tmp_path / "again"), **changes)
    if (settings.folder / "cache").exists() and "resolution" not in changes:
        shutil.copytree(settings.folder / "cache", again.folder / "cache")
    return again


def test_losses_are_written_with_the_schedule(trained):
    settings, _, _, lora = trained
    with open(lora.path.parent / "loss.csv", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["step"]) for row in rows] == list(range(1, settings.train_steps + 1))
    assert all(0 < float(row["loss"]) < 10 for row in rows)


def test_panels_are_drawn_at_the_start_and_three_times_along_the_way(trained):
    settings, story, _, lora = trained
    assert [shot["step"] for shot in lora.previews] == [0, 4, 8, 12]
    assert all(
        (lora.path.parent / name).is_file() for shot in lora.previews for name in shot["pictures"]
    )
    first, last = lora.previews[0]["pictures"][0], lora.previews[-1]["pictures"][0]
    assert (lora.path.parent / first).read_bytes() != (lora.path.parent / last).read_bytes()


def test_nothing_is_trained_twice_not_even_for_another_story(trained, capsys):
    settings, _, captions, lora = trained
    written = lora.path.stat().st_mtime_ns
    again = train(captions, settings, Story(["quite another"]))
    assert (
        again == lora
        and again.path.stat().st_mtime_ns == written
        and "train: nothing to do" in capsys.readouterr().out
    )


def test_the_same_seed_gives_the_same_file_and_another_seed_another(trained, tmp_path):
    settings, story, captions, lora = trained
    assert train(captions, shrink(settings, tmp_path), story).digest == lora.digest
    other = train(captions, settings.but(output=str(tmp_path / "other"), seed=1), None)
    assert other.digest != lora.digest


def test_broken_off_it_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch, capsys):
    settings, _, captions, lora = trained
    again = shrink(settings, tmp_path)
    real = loop.diffusion_loss
    calls = []

    def breaks_at_the_eighth(*arguments, **named):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(loop, "diffusion_loss", breaks_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        train(captions, again)
    assert not (again.folder / "lora").exists()
    monkeypatch.setattr(loop, "diffusion_loss", real)
    resumed = train(captions, again)
    assert "going on from step 6" in capsys.readouterr().out
    mine, whole = load_file(resumed.path), load_file(lora.path)
    assert (
        all(torch.equal(mine[name], whole[name]) for name in whole)
        and resumed.losses == lora.losses
    )
    assert [path.read_bytes() for path in resumed.checkpoints[:-1]] == [
        path.read_bytes() for path in lora.checkpoints[:-1]
    ]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_earlier_lora(trained, tmp_path, monkeypatch):
    settings, _, captions, _ = trained
    again = shrink(settings, tmp_path, train_steps=2)
    before = train(captions, again).digest
    monkeypatch.setattr(
        loop, "diffusion_loss", lambda *a, **k: torch.tensor(float("nan"), requires_grad=True)
    )
    with pytest.raises(
        TrainingError, match="The loss is nan at step 1 of 3.*halve learning_rate"
    ) as error:
        train(captions, again.but(train_steps=3))
    assert (
        "\n" not in str(error.value)
        and artifacts.digest_of_file(again.folder / "lora" / "lora.safetensors") == before
    )


def test_more_pictures_a_step_than_there_are(trained, tmp_path):
    settings, _, captions, _ = trained
    with pytest.raises(SettingsError, match="train_batch_size=1000 is more than the"):
        train(captions, settings.but(train_batch_size=1000, output=str(tmp_path)))


def test_a_full_disk_is_found_before_training(trained, tmp_path, monkeypatch):
    settings, _, captions, _ = trained
    monkeypatch.setattr(
        artifacts.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})()
    )
    with pytest.raises(ResourceError, match="lacks"):
        train(captions, settings.but(output=str(tmp_path)))


def test_loss_parity_with_diffsynth(make_settings):
    from diffsynth.diffusion.loss import FlowMatchSFTLoss

    settings = make_settings()
    pipe = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    said = conditioning.encode(run_on(MINI, settings), ["a cat"])["a cat"]
    one = {
        "prompt_embeds": said.tokens[None],
        "pooled_prompt_embeds": said.pooled[None],
        "add_time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]),
    }
    with torch.no_grad():
        torch.manual_seed(7)
        theirs = FlowMatchSFTLoss(pipe, input_latents=latents, **one).item()
        torch.manual_seed(7)
        chosen = pipe.scheduler.timesteps[torch.randint(0, 1100, (1,))].long()
        assert loop.diffusion_loss(
            pipe, latents, torch.randn_like(latents), chosen, **one
        ).item() == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_weights_add_a_share_of_the_error_in_the_picture(prediction_type):
    """Whatever is predicted, from it and the noisy latents follows the picture, whose error the weight adds ``high_noise`` times."""
    generator = torch.Generator().manual_seed(0)
    latents, noise, wrong = (
        torch.randn(4, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    alphas = torch.tensor([0.9, 0.5, 0.1, 0.02], dtype=torch.float64)[:, None]
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    target = loop.training_target(latents, noise, alphas, prediction_type)
    predicted = target + wrong
    if prediction_type == "epsilon":
        picture = (noisy - (1 - alphas).sqrt() * predicted) / alphas.sqrt()
    else:
        picture = alphas.sqrt() * noisy - (1 - alphas).sqrt() * predicted
    weights = loop.timestep_weights(alphas, 0.3, prediction_type)
    assert torch.allclose(
        weights * (predicted - target) ** 2,
        (predicted - target) ** 2 + 0.3 * (picture - latents) ** 2,
    )


def gradients(pipe, settings, cached, at_once):
    """LoRA gradients of step 0's batch, how many pictures went at once, and the loss."""
    drawn = loop.draw_batch(cached, *loop.batches(cached, 4, 0, 0)[0], pipe, 0, 0)
    named = [parameter for parameter in pipe.unet.parameters() if parameter.requires_grad]
    weights = torch.ones(pipe.base.num_train_timesteps)
    compute = functools.partial(
        loop._gradients, pipe, torch.amp.GradScaler("cpu", enabled=False), weights
    )
    value, used = loop._accumulate(compute, torch.optim.SGD(named), drawn, at_once)
    return torch.cat([parameter.grad.flatten() for parameter in named]), used, value


def test_out_of_memory_halves_the_batch_and_keeps_the_gradients(trained, monkeypatch, capsys):
    settings, _, captions, _ = trained
    cached = cache.prepare(captions, run_on(MINI, settings))
    pipe = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)
    inject(pipe, settings)
    whole, used, value = gradients(pipe, settings, cached, 4)
    assert used == 4
    real = pipe.model_fn

    def small(latents, **named):
        if len(latents) > 1:
            raise torch.OutOfMemoryError("too many")
        return real(latents=latents, **named)

    pipe.model_fn = small
    parts, used, again = gradients(pipe, settings, cached, 4)
    assert (
        used == 1
        and again == pytest.approx(value, rel=1e-4)
        and torch.allclose(parts, whole, rtol=1e-3, atol=1e-6)
    )
    assert (
        "out of memory, going on with 2 pictures at a time (4 a step as before)"
        in capsys.readouterr().out
    )

    def never(**_):
        raise torch.OutOfMemoryError("nothing fits")

    pipe.model_fn = never
    with pytest.raises(ResourceError, match="too small for one picture.*gradient_checkpointing"):
        gradients(pipe, settings, cached, 4)


def test_a_run_that_runs_out_of_memory_goes_on_from_its_step(trained, tmp_path, monkeypatch):
    settings, _, captions, lora = trained
    again = shrink(settings, tmp_path)
    real, calls = loop.diffusion_loss, []

    def full_once(pipe, latents, *arguments, **named):
        calls.append(len(latents))
        if len(calls) == 5:
            raise torch.OutOfMemoryError("too many")
        return real(pipe, latents, *arguments, **named)

    monkeypatch.setattr(loop, "diffusion_loss", full_once)
    halved = train(captions, again)
    assert calls[:8] == [4, 4, 4, 4, 4, 2, 2, 2] and halved.losses == pytest.approx(
        lora.losses, rel=1e-2
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_two_hundred_steps_without_nan_in_every_precision(hub, make_settings, captions, precision):
    hub("sd15")
    lora = train(
        captions,
        make_settings(
            base="sd15",
            precision=precision,
            train_steps=200,
            train_batch_size=2,
            rank=4,
            learning_rate=1e-3,
        ),
    )
    assert len(lora.losses) == 200 and np.isfinite(lora.losses).all()
    assert {tensor.dtype for name, tensor in load_file(lora.path).items()} == {torch.float32}


def test_gradient_checkpointing_gives_the_same_lora(hub, make_settings, captions, tmp_path):
    hub("sdxl")
    plain, saving = (
        train(
            captions,
            make_settings(
                base="sdxl", gradient_checkpointing=wanted, output=str(tmp_path / str(wanted))
            ),
        )
        for wanted in (False, True)
    )
    ours, theirs = load_file(plain.path), load_file(saving.path)
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-6) for name in ours)


def test_injection_touches_the_asked_modules_alone(trained):
    settings = trained[0]
    pipe = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)
    inject(pipe, settings)
    trainable = [
        name for name, parameter in pipe.unet.named_parameters() if parameter.requires_grad
    ]
    assert trainable and all(".lora_A." in name or ".lora_B." in name for name in trainable)
    assert {parameter.dtype for parameter in pipe.unet.parameters() if parameter.requires_grad} == {
        torch.float32
    }


def test_the_cache_holds_every_picture_once_in_its_bucket(trained):
    settings, _, captions, _ = trained
    cached = cache.prepare(captions, run_on(MINI, settings))
    assert len(cached) == len(captions) and all(
        torch.isfinite(said.tokens).all() for said in cached.embeddings
    )
    for (height, width), latents in cached.latents.items():
        assert latents.shape[1:] == (4, height // 8, width // 8)
        assert cached.time_ids[height, width][:, 4:].unique(dim=0).tolist() == [[height, width]]


def test_a_picture_covers_the_bucket_nearest_in_shape():
    pixels, bucket, crop = cache.fit(Image.new("RGB", (320, 480)), cache.buckets(192, 32))
    assert bucket == (224, 160) and pixels.shape == (224, 160, 3) and crop == (8, 0)


@pytest.mark.parametrize(("resolution", "step"), [(192, 32), (512, 64), (1024, 64)])
def test_buckets_have_about_the_same_area(resolution, step):
    found = cache.buckets(resolution, step)
    assert (resolution, resolution) in found and len(found) > 2
    for height, width in found:
        assert height % step == width % step == 0 and max(height, width) / min(height, width) <= 2
        assert 0.75 < height * width / resolution**2 < 1.34


def test_an_epoch_sees_every_picture_once_and_repeats_for_its_seed(trained):
    cached = cache.prepare(trained[2], run_on(MINI, trained[0]))
    order = loop.batches(cached, 4, seed=3, epoch=1)
    seen = sorted((bucket, i) for bucket, indices in order for i in indices.tolist())
    assert seen == sorted(
        (bucket, i) for bucket, latents in cached.latents.items() for i in range(len(latents))
    )
    same, other = loop.batches(cached, 4, 3, 1), loop.batches(cached, 4, 3, 2)
    flat = lambda batches: [(bucket, indices.tolist()) for bucket, indices in batches]
    assert flat(same) == flat(order) != flat(other)


@pytest.mark.parametrize("seed", [0, 156680208700286, 2**63 - 65])
def test_any_seed_gives_an_order_of_its_own(trained, seed):
    cached = cache.prepare(trained[2], run_on(MINI, trained[0]))
    flat = lambda number: [indices.tolist() for _, indices in loop.batches(cached, 4, number, 0)]
    assert flat(seed) == flat(seed) != flat(seed - 1 if seed else 1)


def test_a_preview_that_fails_does_not_stop_the_training(trained, tmp_path, monkeypatch, capsys):
    from storyboard.errors import RenderingError
    from storyboard.rendering import sampling

    def fails(*_, **__):
        raise RenderingError("it came out blank")

    settings, story, captions, lora = trained
    monkeypatch.setattr(sampling, "draw", fails)
    again = train(captions, shrink(settings, tmp_path), story)
    assert (
        again.digest == lora.digest
        and "no preview at step 0: it came out blank" in capsys.readouterr().out
    )


def test_learning_rate_warms_up_and_falls():
    rates = [loop.learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1.0 and rates.index(1.0) == 4
    assert all(a >= b for a, b in itertools.pairwise(rates)) and rates[-1] < 0.03


def test_timestep_weights_add_the_error_in_the_picture_and_have_a_ceiling():
    snr = torch.tensor([100.0, 5.0, 1.0, 0.1, 1e-4])
    assert torch.equal(loop.timestep_weights(snr / (1 + snr), high_noise=0.0), torch.ones(5))
    raised = loop.timestep_weights(snr / (1 + snr), high_noise=0.3)
    assert torch.allclose(raised, torch.tensor([1.003, 1.06, 1.3, 4.0, loop.MAX_WEIGHT]), rtol=1e-3)
