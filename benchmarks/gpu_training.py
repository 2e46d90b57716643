"""Section of ``benchmarks.gpu``: training steps at full size, ours and the peers'."""

import contextlib
import csv
import io
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks import full_size, gpu_bases, lora_step, training_contenders
from benchmarks.side_by_side import fresh
from storyboard.models.base import Base
from storyboard.models.run import Run

STEPS = 12  # training steps that are timed
DRY_STEPS = 4
WARM_STEPS = 3  # at the start, which do not count
PEER_STEPS = 8
PEER_SECONDS = 35  # at least so many must be left for a peer
STEP_SECONDS = 8


def training(card) -> None:
    """Kolors: a LoRA step for 1 to 8 pictures, gradient checkpointing or not."""
    base = gpu_bases.fetched(card, "kolors")
    if card.dry:
        measure_steps(card, base, plain=(1, 2), checkpointed=(1,))
    else:
        measure_steps(card, base, plain=(1, 2, 4, 8), checkpointed=(1, 4))


def peers(card) -> None:
    """Kolors: our LoRA step of one picture, DiffSynth's loop and diffusers' script beside it."""
    base = gpu_bases.fetched(card, "kolors")
    measure_steps(card, base, plain=(1,), checkpointed=())
    for peer in ("diffsynth", "diffusers"):
        if card.left() < PEER_SECONDS and not card.dry:
            card.note(f"{peer}'s loop", "no time left")
            continue
        _peer(card, base, peer)


def measure_steps(card, base: Base, plain: tuple[int, ...], checkpointed: tuple[int, ...]) -> None:
    """Seconds, peak and share of the matrix rate of our training step.

    Args:
        plain, checkpointed: Pictures in a step, without and with gradient checkpointing.
    """
    run = gpu_bases.run(card, base)
    pipe = lora_step.load(run)
    rate = _matrix_rate(card, run)
    for checkpointing, sizes in ((False, plain), (True, checkpointed)):
        if checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        else:
            pipe.unet.disable_gradient_checkpointing()
        title = "checkpointing" if checkpointing else "plain"
        flops = lora_step.flops(pipe, full_size.random_cache(pipe, run.resolution, 1), 1)
        card.note(f"{base.name} step, work, {title}", flops / 1e12, "TFLOP a picture")

        graphs = (False, True) if card.device == "cuda" and not checkpointing else (False,)
        for size in sizes:
            if card.left() < STEP_SECONDS and not card.dry:
                card.note(f"{base.name} step of {size}, {title}", "no time left")
                continue
            for cuda_graphs in graphs:
                suffix = ", CUDA graphs" if cuda_graphs else ""
                name = f"{base.name} step of {size}, {title}{suffix}"
                seconds = _timed_steps(card, pipe, run, size, name, cuda_graphs)
                if seconds and rate:
                    share = 100 * flops * size / seconds / rate
                    card.note(f"{name}, share of the matrix rate", share, "%")
        if card.device == "cuda" and not checkpointing:
            _compare_losses(card, pipe, run)


def _matrix_rate(card, run: Run) -> float | None:
    """Floating point operations a second of a matrix product on the card, in the run's type."""
    import torch

    if card.device != "cuda":
        return None
    side = 8192
    left, right = (torch.randn(side, side, device="cuda", dtype=run.plan.dtype) for _ in range(2))
    return 2 * side**3 / card.seconds(lambda: left @ right, 10)


def _timed_steps(card, pipe, run: Run, size: int, name: str, cuda_graphs: bool) -> float | None:
    """Median seconds of a step of ``size`` pictures, all at once; None if they do not fit."""
    folder = fresh(card.work / "steps")
    steps = DRY_STEPS if card.dry else STEPS
    run = replace(run, train_steps=steps, train_batch_size=size)
    cache = full_size.random_cache(pipe, run.resolution, size)
    times: list[float] = []

    def note_time(_step) -> None:
        times.append(time.perf_counter())

    output = io.StringIO()
    with card.peak(f"{name}, peak"), contextlib.redirect_stdout(output):
        lora_step.optimise(
            pipe,
            cache,
            run,
            folder,
            note_time,
            micro_batch_size=size,
            cuda_graphs=cuda_graphs,
        )
    if "out of memory" in output.getvalue():
        card.note(name, "out of memory")
        return None
    seconds = float(median(np.diff(times)[WARM_STEPS:]))
    card.note(name, seconds, "s")
    card.note(f"{name}, a picture", seconds / size, "s")
    return seconds


def _compare_losses(card, pipe, run: Run) -> None:
    """The same steps from the same LoRA with and without CUDA graphs: how far losses differ."""
    folder = card.work / "steps"
    run = replace(run, train_steps=6, train_batch_size=2)
    cache = full_size.random_cache(pipe, run.resolution, 2)
    trained = {
        name: parameter
        for name, parameter in pipe.unet.named_parameters()
        if parameter.requires_grad
    }
    start = {name: parameter.detach().clone() for name, parameter in trained.items()}

    losses: dict[bool, list[float]] = {False: [], True: []}
    for cuda_graphs, curve in losses.items():
        for name, parameter in trained.items():
            parameter.data.copy_(start[name])

        def note_loss(step, curve=curve) -> None:
            curve.append(step.loss)

        lora_step.optimise(
            pipe,
            cache,
            run,
            fresh(folder),
            note_loss,
            micro_batch_size=2,
            cuda_graphs=cuda_graphs,
        )
    pairs = zip(losses[False][1:], losses[True][1:], strict=True)  # the first is before any step
    card.note(
        f"{pipe.base.name}, losses with CUDA graphs, largest difference",
        max(abs(one - other) for one, other in pairs),
        f"of {losses[False][-1]:.3f}",
    )


class _Clock:
    """A ``training_contenders.Watch`` that notes the time of every step."""

    cost = 0.0

    def __init__(self, card) -> None:
        self.card = card
        self.times: list[float] = []

    def after_step(self, _samples: int, _unet) -> None:
        self.card.synchronize()
        self.times.append(time.perf_counter())


def _peer(card, base: Base, peer: str) -> None:
    """DiffSynth's own loop or diffusers' script: everything encoded in the loop, batch 1."""
    from accelerate.state import AcceleratorState

    folder = fresh(card.work / "peer")
    output = folder / "run"
    output.mkdir()
    run = gpu_bases.run(card, base, output=str(output), train_batch_size=1, train_steps=PEER_STEPS)
    _write_pictures(folder / "train", run.resolution)
    clock = _Clock(card)
    task = training_contenders.Task(
        run,
        folder / "train",
        samples=4 if card.dry else PEER_STEPS,
        peer_learning_rate=1e-4,
        watch=lambda: clock,
    )
    # one state a process, which keeps the first peer's precision
    AcceleratorState._reset_state(reset_partial_state=True)
    with card.peak(f"{base.name}, {peer}'s loop, peak"):
        training_contenders.CONTENDERS[peer](task)
    card.note(
        f"{base.name}, {peer}'s loop, a picture",
        float(median(np.diff(clock.times)[1:])),
        "s, batch 1, no checkpointing, text and VAE in the loop",
    )


def _write_pictures(folder: Path, side: int, count: int = 4) -> None:
    """A folder of pictures that are smooth noise, with ``metadata.csv``."""
    (folder / "images").mkdir(parents=True)
    rows = [["image", "prompt"]]
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        name = f"images/{number}.png"
        Image.fromarray(noise).resize((side, side), Image.BICUBIC).save(folder / name)
        rows.append([name, f"二次元，第{number}张"])
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows(rows)
