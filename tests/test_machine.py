import os

import pytest
import torch

from storyboard import artifacts, check
from storyboard.errors import ResourceError, SettingsError


def test_the_table_names_what_matters(make_settings):
    text = str(check(make_settings()))
    for word in ("cores", "torch", "device", "free", "MB of weights present", "training about"):
        assert word in text


def test_too_little_disk_stops_the_run_here(make_settings, monkeypatch):
    monkeypatch.setattr(
        artifacts.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9})()
    )
    with pytest.raises(ResourceError, match="lacks 1.0 GB of the 2 GB a run needs") as error:
        check(make_settings())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shared", [False, True])
def test_weights_are_charged_to_the_disk_of_their_cache(
    make_settings, monkeypatch, tmp_path, shared
):
    """18 GB of Kolors and 2 GB of outputs: on two disks of 19 GB they fit, on one they do not."""
    monkeypatch.delenv("STORYBOARD_HUB", raising=False)
    monkeypatch.setenv("STORYBOARD_CACHE", str(tmp_path / "notes"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "storyboard.models.memory.check", lambda base, settings: None
    )  # no card is needed for this
    monkeypatch.setattr(artifacts, "disk_of", lambda folder: 1 if shared else str(folder))
    monkeypatch.setattr(
        artifacts.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 19 * 10**9})()
    )
    settings = make_settings(base="kolors")
    if not shared:
        assert "19 GB free for outputs; 19 GB free for weights" in str(check(settings))
        return
    with pytest.raises(
        ResourceError,
        match="lacks 0.8 GB of the 20 GB a run needs there: .* set output or MODELSCOPE_CACHE to",
    ) as error:
        check(settings)
    assert "\n" not in str(error.value)


def test_a_missing_recipe_stops_the_run_here(make_settings):
    with pytest.raises(SettingsError, match="no recipe 'none'"):
        check(make_settings(recipe="none"))


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        ("470.82.01, 7.5", "and the NVIDIA driver 470.82.01 runs CUDA 11 (for torch<2.8 that"),
        ("550.54.14, 8.6", "and the NVIDIA driver 550.54.14 runs CUDA 12 (for torch<2.11 that"),
        ("390.157", "CPU: the NVIDIA driver 390.157 is older than 450"),
        ("580.65.06, 9.0", "does not see the card, though the driver runs its CUDA: see whether"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the card here can be used")
def test_a_card_that_torch_cannot_use_is_told_with_the_torch_that_can(
    make_settings, monkeypatch, tmp_path, answer, advice
):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    (device,) = (value for name, value in check(make_settings()).rows if name == "device")
    assert advice in device
