"""Training that is kept along the way, ended by its budget, killed, and brought back."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from storyboard import Story, artifacts, check, render, restore, train
from storyboard.errors import KeepingError, TimeBudgetError
from storyboard.keeping import folder as keeping_folder
from storyboard.training import loop, saving
from tests.conftest import ROOT


@pytest.fixture
def again(trained, tmp_path, place):
    """The trained fixture's settings on a machine that keeps, its cache copied."""
    settings = trained[0].but(output=str(tmp_path / "outputs"), keep_in=place)
    with_cache(trained, settings)
    return settings


def with_cache(trained, settings):
    shutil.copytree(trained[0].folder / "cache", settings.folder / "cache")


def wiped(trained, settings):
    """What a host does to the output folder; the cache is copied to save the tests' time."""
    shutil.rmtree(settings.folder)
    with_cache(trained, settings)


def ended_at(monkeypatch, step):
    """Training is interrupted in ``step``."""
    real, calls = loop.diffusion_loss, []

    def loss(*arguments, **named):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(loop, "diffusion_loss", loss)


def test_a_budget_that_is_over_ends_training_and_a_call_goes_on(trained, again, capsys):
    """Without a budget, with one, wiped in between or not: the same LoRA."""
    _, story, captions, lora = trained
    hurried = again.but(time_budget="0.01s")
    message = (
        r"The time budget of 0.01s ended training at step 1 of 12; its state is in .*"
        r" and kept in .*story: run this cell again to go on from there, on another machine after"
    )
    with pytest.raises(TimeBudgetError, match=message) as error:
        train(captions, hurried, story)
    assert "\n" not in str(error.value)
    assert not (again.folder / "lora").exists(), "no half LoRA for later cells"

    wiped(trained, again)
    restore(again)
    with pytest.raises(TimeBudgetError, match="at step 2 of 12"):
        train(captions, hurried, story)
    assert "train: going on from step 1" in capsys.readouterr().out

    wiped(trained, again)
    restore(again)
    assert train(captions, again, story).digest == lora.digest
    assert "train: going on from step 2" in capsys.readouterr().out


def test_neither_budget_nor_place_trains_again(trained, again, place, capsys):
    _, story, captions, lora = trained
    shutil.copytree(lora.path.parent, again.folder / "lora")
    assert train(captions, again.but(time_budget=0.01), story).digest == lora.digest
    printed = capsys.readouterr().out
    assert "train: nothing to do" in printed and f"are kept in {place}" in printed


def test_what_is_finished_is_kept(trained, again, tmp_path):
    _, story, captions, lora = trained
    train(captions, again, story)
    back = again.but(output=str(tmp_path / "back"))
    restore(back)
    assert artifacts.digest_of_file(tmp_path / "back" / "lora" / "lora.safetensors") == lora.digest
    assert not (tmp_path / "back" / ".checkpoint").exists()
    assert train(captions, back, story).digest == lora.digest


def test_what_is_drawn_is_kept(trained, again, place, capsys):
    _, story, _, lora = trained
    pictures = render(story, again, lora)
    assert f"are kept in {place}" in capsys.readouterr().out
    (kept,) = (place / "story").glob("panel-1-0001-*.png")
    assert kept.read_bytes() == pictures.paths[0].read_bytes()


def test_a_place_that_fails_does_not_end_training(trained, again, place, monkeypatch, capsys):
    _, story, captions, lora = trained
    usage = type("Usage", (), {"total": 10**9, "free": 0})
    monkeypatch.setattr(keeping_folder.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(artifacts, "free_space_needed", lambda folder, needed: None)
    assert train(captions, again, story).digest == lora.digest
    printed = capsys.readouterr().out
    line = f"train: what is made is not kept: {place} lacks"
    assert printed.count(line) == 2, "when it began to fail, and at the end"
    assert printed.rstrip().splitlines()[-1].startswith(line)


def test_a_place_that_comes_back_is_used(trained, again, place, monkeypatch, capsys):
    _, _, captions, _ = trained
    real, calls = keeping_folder._copy, []

    def away_at_first(source, target):
        calls.append(target)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(keeping_folder, "_copy", away_at_first)
    train(captions, again)
    printed = capsys.readouterr().out
    assert printed.count("not kept") == 1
    assert printed.count(f"are kept in {place}") == 2, "when it went well again, and at the end"


def test_a_run_that_forgot_to_restore_is_told_before_it_trains(trained, again, monkeypatch):
    _, story, captions, _ = trained
    with pytest.raises(TimeBudgetError):
        train(captions, again.but(time_budget="0.01s"), story)
    wiped(trained, again)
    monkeypatch.setattr(loop, "diffusion_loss", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(KeepingError, match=r"was not made of .*run restore\(settings\) first"):
        train(captions, again, story)


def test_a_drive_that_is_not_mounted_is_told_before_it_trains(trained, again, tmp_path):
    with pytest.raises(KeepingError, match="mount the drive"):
        train(trained[2], again.but(keep_in=tmp_path / "MyDrive" / "story"))
    with pytest.raises(KeepingError, match="mount the drive"):
        check(again.but(keep_in=tmp_path / "MyDrive" / "story"))


def test_results_do_not_depend_on_when_the_state_is_written(trained, again, monkeypatch, capsys):
    """After every step; interrupted in the eighth, wiped, and gone on from the seventh."""
    _, story, captions, lora = trained
    monkeypatch.setattr(saving, "SECONDS", 0.0)
    monkeypatch.setattr(saving, "LARGEST_SHARE", float("inf"))
    with monkeypatch.context() as patch:
        ended_at(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            train(captions, again, story)
    wiped(trained, again)
    restore(again)
    resumed = train(captions, again, story)
    assert "train: going on from step 7" in capsys.readouterr().out
    assert resumed.path.read_bytes() == lora.path.read_bytes()
    assert resumed.losses == lora.losses
    checkpoints = [path.read_bytes() for path in resumed.checkpoints]
    assert checkpoints == [path.read_bytes() for path in lora.checkpoints]


# Hangs in the middle of training, in a step that is after a copy, until it is killed.
CHILD = """
import sys, time
import storyboard
from storyboard.training import loop

output, place = sys.argv[1:]
settings = storyboard.Settings(
    output=output, keep_in=place, resolution=64, train_steps=12, train_batch_size=4,
    num_inference_steps=4,
)
story = storyboard.Story(["二次元，紫色短发女孩，微笑"])
captions = storyboard.clean(storyboard.collect(settings), settings).captions
real, calls = loop.diffusion_loss, []

def loss(*arguments, **named):
    calls.append(1)
    if len(calls) == 8:
        print("in the middle", flush=True)
        time.sleep(3600)
    return real(*arguments, **named)

loop.diffusion_loss = loss
storyboard.train(captions, settings, story)
"""


@pytest.mark.slow
def test_a_killed_run_whose_folder_is_deleted_ends_in_the_same_lora(trained, tmp_path, place):
    settings, _, captions, lora = trained
    output = tmp_path / "outputs"
    for name in ("collected", "cleaned", "cache"):  # the child finds them done
        shutil.copytree(settings.folder / name, output / name)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(output), str(place)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert any(line == "in the middle\n" for line in process.stdout)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL

    again = settings.but(output=output, keep_in=place)
    wiped(trained, again)
    restore(again)
    resumed = train(captions, again, Story(["another story"]))
    assert resumed.path.read_bytes() == lora.path.read_bytes()
    assert resumed.losses == lora.losses
