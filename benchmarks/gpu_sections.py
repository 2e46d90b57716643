"""Sections of ``benchmarks.gpu``: rates of the card and mini; the list of all sections."""

import json
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import gpu_drawing, gpu_levers, gpu_training

SIDE = 8192  # of the matrices whose product is timed
COPIED = 4 * 2**30  # bytes


def rates(card) -> None:
    """What the card can do at most: products of matrices, convolutions, copies."""
    import torch

    side, device = (256 if card.dry else SIDE), card.device
    if card.device == "cuda":
        card.note("memory", torch.cuda.mem_get_info()[1] / 2**30, "GiB")
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        rate = 2e-12 * side**3 / card.seconds(partial(torch.matmul, left, right), 10)
        card.note(f"matrix {name}", rate, "TFLOP/s")
    torch.backends.cuda.matmul.allow_tf32 = False
    size = COPIED // 4096 if card.dry else COPIED
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rate = 2e-12 * len(source) / card.seconds(lambda: target.copy_(source), 10)
    card.note("copy", rate, "TB/s read and written")
    _convolutions(card)


def _convolutions(card) -> None:
    import torch

    channels, pixels = (32, 16) if card.dry else (320, 128)
    like = {"device": card.device, "dtype": torch.bfloat16}
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1, **like)
    inputs = torch.randn(8, channels, pixels, pixels, **like)
    flops = 2 * 9 * inputs.numel() * channels
    layouts = {
        "channels first": torch.contiguous_format,
        "channels last": torch.channels_last,
    }
    for name, layout in layouts.items():
        convolution.to(memory_format=layout)
        work = partial(convolution, inputs.contiguous(memory_format=layout))
        with torch.no_grad():
            rate = 1e-12 * flops / card.seconds(work, 10)
        card.note(f"convolution bf16 {name}", rate, "TFLOP/s")


def make_pack(outputs: Path, pack: Path) -> None:
    """Put into ``pack`` what a card's machine needs of the run in ``outputs``.

    The LoRA, the story with its pictures, the captions that were kept, the scores.
    """
    pack.mkdir(parents=True, exist_ok=True)
    shutil.copy(outputs / "lora" / "lora.safetensors", pack)
    shutil.copy(outputs / "story" / "story.json", pack)
    for path in (outputs / "story").glob("panel-?.png"):
        shutil.copy(path, pack)
    rows = [
        json.loads(line)
        for line in (outputs / "cleaned" / "metadata.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    (pack / "cleaned.json").write_text(
        json.dumps({row["id"]: row["text"] for row in rows}, ensure_ascii=False), encoding="utf-8"
    )
    scores = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((outputs / "scores").glob("*.json"))
    }
    (pack / "scores.json").write_text(json.dumps(scores, ensure_ascii=False), encoding="utf-8")
    print(f"{pack}: {sum(path.stat().st_size for path in pack.iterdir()) / 1e6:.1f} MB")


def mini(card) -> None:
    """The carried LoRA draws the CPU's pictures; a LoRA trained on the card scores as the CPU's."""
    from storyboard import Panel, Story, collect, render, score

    if card.dry:
        _dry_pack(card)
    settings = _mini_settings(card)
    panels = json.loads((card.pack / "story.json").read_text(encoding="utf-8"))["panels"]
    story = Story(
        [Panel(panel["prompt"], panel["negative_prompt"], panel["seed"]) for panel in panels]
    )
    kept = json.loads((card.pack / "cleaned.json").read_text(encoding="utf-8"))
    captions = _kept(collect(settings), kept)
    card.note("pictures kept on the CPU", len(captions))

    carried = score(_drawn_as_on_the_cpu(card, story, settings), settings, captions)
    trained = settings.but(output=str(card.work / "trained"))
    pictures = render(story, trained, _trained(card, captions, trained, story))
    here = score(pictures, trained, captions)
    for measure in ("match", "style", "coherence"):
        card.note(f"{measure}, trained here", here.value(measure))
        card.note(f"{measure}, carried LoRA", carried.value(measure))
    shutil.copy(pictures.grid, card.output / "mini-story.png")


def _drawn_as_on_the_cpu(card, story, settings):
    """Draw with the carried LoRA in both precisions and compare; the pictures in fp32."""
    from storyboard import render

    lora = card.pack / "lora.safetensors"
    by_precision = {}
    for precision in ("fp32", "bf16"):
        own = settings.but(precision=precision, output=str(card.work / precision))
        render(story, own, lora)  # once to load libraries and kernels
        shutil.rmtree(own.folder / "story")
        began = time.perf_counter()
        pictures = render(story, own, lora)
        seconds = time.perf_counter() - began
        unit = "s, loading counted, text encoded before"
        card.note(f"eight panels {precision}", seconds, unit)

        on_the_cpu = [card.pack / path.name for path in pictures.paths]
        largest, mean = _differences(pictures.paths, on_the_cpu)
        card.note(f"largest difference from the CPU {precision}", largest, "of 255")
        card.note(f"mean difference from the CPU {precision}", mean, "of 255")
        by_precision[precision] = pictures
    return by_precision["fp32"]


def _trained(card, captions, settings, story):
    """A LoRA trained on the card, its time and loss noted."""
    from storyboard import train
    from storyboard.models.run import resolve

    run = resolve(settings)
    began = time.perf_counter()
    with card.peak("peak training"):
        lora = train(captions, settings, story)
    seconds = time.perf_counter() - began
    steps = f"{run.train_steps} steps of {run.train_batch_size}"
    card.note("training", seconds, f"s, {steps}, caching and previews counted")
    last = max(1, len(lora.losses) // 10)
    card.note("loss", sum(lora.losses[-last:]) / last, "mean of the last tenth")
    return lora


def _mini_settings(card):
    from storyboard import Settings

    small = {"resolution": 64, "train_steps": 4, "num_inference_steps": 3} if card.dry else {}
    return Settings(base="mini", output=str(card.work / "mini"), **small)


def _kept(collected, texts: dict[str, str]):
    """The collected pictures that the CPU's cleaning kept, with its captions.

    Data-Juicer may not be on the card's machine.
    """
    from dataclasses import replace

    from storyboard.data.captions import Captions, digest_of

    rows = [replace(row, text=texts[row.id]) for row in collected.rows if row.id in texts]
    return Captions(collected.folder, rows, [], digest_of(collected.folder, rows))


def _dry_pack(card) -> None:
    """A pack from a short run without cleaning."""
    from storyboard import Panel, Story, collect, render, train

    settings = _mini_settings(card).but(output=str(card.work / "dry"))
    captions = collect(settings)
    captions = _kept(captions, {row.id: row.text for row in captions.rows[:12]})
    story = Story(
        [
            Panel("二次元，紫色短发女孩，微笑", seed=1),
            Panel("anime, a boy with short red hair", seed=2),
        ],
        "模糊",
    )
    render(story, settings, train(captions, settings))
    (settings.folder / "cleaned").mkdir()
    (settings.folder / "cleaned" / "metadata.jsonl").write_text(
        "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in captions.rows),
        encoding="utf-8",
    )
    card.pack = card.work / "pack"
    make_pack(settings.folder, card.pack)


def _differences(paths: list[Path], others: list[Path]) -> tuple[int, float]:
    """Largest and mean difference of two sets of pictures, in 255ths."""
    apart = [
        np.abs(np.asarray(Image.open(one), dtype=int) - np.asarray(Image.open(other), dtype=int))
        for one, other in zip(paths, others, strict=True)
    ]
    return int(max(each.max() for each in apart)), float(np.mean([each.mean() for each in apart]))


SECTIONS = {  # name -> seconds at most, function; the most important first
    "rates": (30, rates),
    "peers": (120, gpu_training.peers),
    "mini": (110, mini),
    "drawing": (150, gpu_drawing.drawing),
    "training": (150, gpu_training.training),
    "levers": (80, gpu_levers.levers),
    "text": (40, gpu_drawing.text),
    "others": (90, gpu_drawing.others),
}
