"""The stage: ``train`` from captions to a LoRA."""

import csv
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from storyboard import Story, artifacts, train
from storyboard.errors import RenderingError, ResourceError, SettingsError, TrainingError
from storyboard.training import loop, making


def elsewhere(settings, tmp_path, **changes):
    """The trained fixture's settings, writing elsewhere, with a copy of its cache."""
    again = settings.but(output=str(tmp_path / "again"), **changes)
    if (settings.folder / "cache").exists() and "resolution" not in changes:
        shutil.copytree(settings.folder / "cache", again.folder / "cache")
    return again


def test_what_trains_is_loaded_where_something_is_to_be_trained():
    code = "import sys; from storyboard import train; assert 'diffsynth' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_losses_are_written_with_the_schedule(trained):
    settings, _, _, lora = trained
    with (lora.path.parent / "loss.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["step"]) for row in rows] == list(range(1, settings.train_steps + 1))
    assert all(0 < float(row["loss"]) < 10 for row in rows)


def test_panels_are_drawn_at_the_start_and_three_times_along_the_way(trained):
    lora = trained[3]
    folder = lora.path.parent
    assert [preview["step"] for preview in lora.previews] == [0, 4, 8, 12]
    names = [name for preview in lora.previews for name in preview["pictures"]]
    assert all((folder / name).is_file() for name in names)
    assert (folder / names[0]).read_bytes() != (folder / names[-3]).read_bytes()


def test_nothing_is_trained_twice_not_even_for_another_story(trained, capsys):
    settings, _, captions, lora = trained
    written = lora.path.stat().st_mtime_ns
    again = train(captions, settings, Story(["quite another"]))
    assert again == lora
    assert again.path.stat().st_mtime_ns == written
    assert "train: nothing to do" in capsys.readouterr().out


def test_a_lora_of_an_earlier_release_is_trained_anew_with_a_word(trained, tmp_path, capsys):
    settings, _, captions, lora = trained
    again = elsewhere(settings, tmp_path)
    shutil.copytree(lora.path.parent, again.folder / "lora")
    manifest = artifacts.read_manifest(again.folder / "lora")
    del manifest["release"], manifest["hyperparameters"], manifest["checksum"]
    artifacts.write_json(again.folder / "lora" / "manifest.json", manifest | {"fingerprint": "0"})
    assert train(captions, again).digest == lora.digest
    printed = capsys.readouterr().out
    assert f"train: {again.folder / 'lora'} is of an earlier release, it is made anew" in printed


def test_the_same_seed_gives_the_same_file_and_another_seed_another(trained, tmp_path):
    settings, story, captions, lora = trained
    assert train(captions, elsewhere(settings, tmp_path), story).digest == lora.digest
    other = train(captions, settings.but(output=str(tmp_path / "other"), seed=1), None)
    assert other.digest != lora.digest


def test_interrupted_it_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch, capsys):
    settings, _, captions, lora = trained
    again = elsewhere(settings, tmp_path)
    real = loop.diffusion_loss
    calls = []

    def interrupted_at_the_eighth(*arguments, **named):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(loop, "diffusion_loss", interrupted_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        train(captions, again)
    assert not (again.folder / "lora").exists()
    monkeypatch.setattr(loop, "diffusion_loss", real)
    resumed = train(captions, again)
    assert "going on from step 6" in capsys.readouterr().out
    tensors, expected = load_file(resumed.path), load_file(lora.path)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert resumed.losses == lora.losses
    checkpoints = [path.read_bytes() for path in resumed.checkpoints[:-1]]
    assert checkpoints == [path.read_bytes() for path in lora.checkpoints[:-1]]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_earlier_lora(trained, tmp_path, monkeypatch):
    settings, _, captions, _ = trained
    again = elsewhere(settings, tmp_path, train_steps=2)
    before = train(captions, again).digest

    def not_finite(*_, **__):
        return torch.tensor(float("nan"), requires_grad=True)

    monkeypatch.setattr(loop, "diffusion_loss", not_finite)
    message = "The loss is nan at step 1 of 3.*halve learning_rate"
    with pytest.raises(TrainingError, match=message) as error:
        train(captions, again.but(train_steps=3))
    assert "\n" not in str(error.value)
    assert artifacts.digest_of_file(again.folder / "lora" / "lora.safetensors") == before


def test_more_pictures_a_step_than_there_are(trained, tmp_path):
    settings, _, captions, _ = trained
    with pytest.raises(SettingsError, match="train_batch_size=1000 is more than the"):
        train(captions, settings.but(train_batch_size=1000, output=str(tmp_path)))


def test_a_full_disk_is_found_before_training(trained, tmp_path, monkeypatch):
    settings, _, captions, _ = trained
    monkeypatch.setattr(
        artifacts.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})()
    )
    with pytest.raises(ResourceError, match="lacks") as refused:
        train(captions, settings.but(output=str(tmp_path)))

    # as much as a training really keeps, beside the LoRA
    asked = int(re.search(r"lacks ([\d,]+) MB", str(refused.value))[1].replace(",", "")) * 10**6
    files = (settings.folder / "cache").rglob("*.safetensors")
    assert 0.8 < sum(path.stat().st_size for path in files) / (asked - making.BYTES) < 1.1


def test_a_run_that_runs_out_of_memory_goes_on_from_its_step(trained, tmp_path, monkeypatch):
    settings, _, captions, lora = trained
    again = elsewhere(settings, tmp_path)
    real, calls = loop.diffusion_loss, []

    def full_once(pipe, latents, *arguments, **named):
        calls.append(len(latents))
        if len(calls) == 5:
            raise torch.OutOfMemoryError("too many")
        return real(pipe, latents, *arguments, **named)

    monkeypatch.setattr(loop, "diffusion_loss", full_once)
    halved = train(captions, again)
    assert calls[:8] == [4, 4, 4, 4, 4, 2, 2, 2]
    assert halved.losses == pytest.approx(lora.losses, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_two_hundred_steps_without_nan_in_every_precision(hub, make_settings, captions, precision):
    hub("sd15")
    lora = train(
        captions,
        make_settings(
            base="sd15",
            precision=precision,
            train_steps=200,
            train_batch_size=1,
            rank=4,
            learning_rate=1e-3,
        ),
    )
    assert len(lora.losses) == 200
    assert np.isfinite(lora.losses).all()
    assert {tensor.dtype for tensor in load_file(lora.path).values()} == {torch.float32}


@pytest.mark.slow
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


def test_a_preview_that_fails_does_not_stop_the_training(trained, tmp_path, monkeypatch, capsys):
    from storyboard.rendering import sampling

    def fails(*_, **__):
        raise RenderingError("it came out blank")

    settings, story, captions, lora = trained
    monkeypatch.setattr(sampling, "draw", fails)
    again = train(captions, elsewhere(settings, tmp_path), story)
    assert again.digest == lora.digest
    assert "no preview at step 0: it came out blank" in capsys.readouterr().out
