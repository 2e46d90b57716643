"""Sections of ``gpu.py`` on models of full size: Kolors, SDXL and SD 1.5 with random weights, made on the card."""

import argparse
import contextlib
import csv
import io
import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks import full_size, rendering
from benchmarks import training as training_benchmark
from benchmarks.side_by_side import fresh
from storyboard.models.run import run_on

STEPS = 12  # training steps that are timed; the first two do not count
PEER_STEPS = 8
PROMPTS = 8
DRAWN = 50  # steps of the peers' drawing, their default


def weights(card, name: str):
    """The base ``name``, its weights written once below ``card.work`` if they are not there, as if a hub had sent them."""
    from storyboard.models import bases
    from storyboard.models import weights as hub

    os.environ["STORYBOARD_HUB"] = str(card.work / "hub")
    if not (card.work / "hub" / bases.get(name).modelscope).is_dir():
        began = time.perf_counter()
        if card.dry:
            from tests import tiny

            tiny.build(name, card.work / "hub")
        else:
            full_size.write(name, card.work / "hub", "cuda")
        card.note(f"{name}: random weights made and written", time.perf_counter() - began, "s")
    return hub.fetch(bases.get(name))


def settings(card, name: str, **changes):
    """What a person would set for ``name`` on this card; in tiny where it is dry."""
    from storyboard import Settings

    small = {"resolution": 64, "num_inference_steps": 3} if card.dry else {}
    return Settings(base=name, output=str(card.work / "runs" / name), **small | changes)


def story(panels: int):
    """So many panels of different prompts."""
    from storyboard import Panel, Story

    return Story(
        [
            Panel(f"二次元，紫色短发女孩，第{place}格，白色衣服，教室，微笑", seed=place)
            for place in range(1, panels + 1)
        ],
        "模糊，低质量",
    )


def training(card) -> None:
    """Kolors: a LoRA step for 1, 2, 4, 8 pictures with and without gradient checkpointing; the peers' loops."""
    base = weights(card, "kolors")
    _steps(card, base, *(((1, 2), (1,)) if card.dry else ((1, 2, 4, 8), (1, 4))))
    for peer in ("diffsynth", "diffusers"):
        if card.left() < 35 and not card.dry:
            card.note(f"{peer}'s loop", "no time left")
            continue
        _peer(card, base, peer)


def _steps(card, base, plain: tuple[int, ...], checkpointed: tuple[int, ...]) -> None:
    """Seconds, peak and share of the matrix rate of our training step, of so many pictures without and with gradient checkpointing."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from storyboard.models import memory
    from storyboard.training import loop
    from storyboard.training.pipeline import TrainingPipeline
    from storyboard.training.stage import inject

    chosen = settings(card, base.name)
    plan = memory.plan(base, chosen)
    pipe = TrainingPipeline.load(base, ("unet",), plan.device, plan.dtype)
    inject(pipe, chosen)
    rate = None
    if card.device == "cuda":
        left, right = (torch.randn(8192, 8192, device="cuda", dtype=plan.dtype) for _ in range(2))
        rate = 2 * 8192**3 / card.seconds(lambda: left @ right, 10)
        del left, right
    for checkpointing, sizes in ((False, plain), (True, checkpointed)):
        (
            pipe.unet.enable_gradient_checkpointing
            if checkpointing
            else pipe.unet.disable_gradient_checkpointing
        )()
        said = "checkpointing" if checkpointing else "plain"
        cached = full_size.random_cache(pipe, chosen.resolution, 1)
        bucket, indices = loop.batches(cached, 1, 0, 0)[0]
        with FlopCounterMode(display=False) as counter:
            loop.diffusion_loss(
                pipe, **loop.draw_batch(cached, bucket, indices, pipe, 0, 0)
            ).backward()
        work = counter.get_total_flops()
        card.note(f"{base.name} step, work, {said}", work / 1e12, "TFLOP a picture")
        for size in sizes:
            if card.left() < 8 and not card.dry:
                card.note(f"{base.name} step of {size}, {said}", "no time left")
                continue
            for cuda_graphs in (
                (False, True) if card.device == "cuda" and not checkpointing else (False,)
            ):
                name = f"{base.name} step of {size}, {said}{', CUDA graphs' if cuda_graphs else ''}"
                seconds = _timed_steps(card, pipe, chosen, size, name, cuda_graphs)
                if seconds and rate:
                    card.note(
                        f"{name}, share of the matrix rate", 100 * work * size / seconds / rate, "%"
                    )
        if card.device == "cuda" and not checkpointing:
            _same_losses(card, pipe, chosen)


def _timed_steps(card, pipe, chosen, size: int, name: str, cuda_graphs: bool) -> float | None:
    """Median seconds of a step of ``size`` pictures, all in the UNet at once; None if they do not fit."""
    from storyboard.training import loop

    folder = fresh(card.work / "steps")
    again = chosen.but(train_steps=4 if card.dry else STEPS, train_batch_size=size)
    cached = full_size.random_cache(pipe, chosen.resolution, size)
    times, said = [], io.StringIO()
    watch = lambda _step: times.append(time.perf_counter())
    with card.peak(f"{name}, peak"), contextlib.redirect_stdout(said):
        loop.optimise(
            pipe, cached, again, folder, folder / "checkpoint.safetensors", size, watch, cuda_graphs
        )
    if "out of memory" in said.getvalue():
        card.note(name, "out of memory")
        return None
    seconds = float(median(np.diff(times)[3:]))
    card.note(name, seconds, "s")
    card.note(f"{name}, a picture", seconds / size, "s")
    return seconds


def _same_losses(card, pipe, chosen) -> None:
    """The same steps from the same LoRA with and without CUDA graphs: how far the losses are apart."""
    from storyboard.training import loop

    folder, losses = card.work / "steps", {}
    again = chosen.but(train_steps=6, train_batch_size=2)
    cached = full_size.random_cache(pipe, chosen.resolution, 2)
    named = {
        name: parameter
        for name, parameter in pipe.unet.named_parameters()
        if parameter.requires_grad
    }
    start = {name: parameter.detach().clone() for name, parameter in named.items()}
    for cuda_graphs in (False, True):
        for name, parameter in named.items():
            parameter.data.copy_(start[name])
        kept = losses[cuda_graphs] = []
        watch = lambda step, kept=kept: kept.append(step.loss)
        loop.optimise(
            pipe,
            cached,
            again,
            fresh(folder),
            folder / "checkpoint.safetensors",
            2,
            watch,
            cuda_graphs,
        )
    apart = max(abs(one - other) for one, other in zip(losses[False][1:], losses[True][1:]))
    card.note(
        f"{pipe.base.name}, losses with CUDA graphs, largest difference",
        apart,
        f"of {losses[False][-1]:.3f}",
    )


class _Clock:
    """Stands where training.py measures the validation loss: notes the time of every step."""

    cost = 0.0

    def __init__(self, card) -> None:
        self.card, self.times = card, []

    def seen(self, _samples: int, _unet) -> None:
        self.card.synchronize()
        self.times.append(time.perf_counter())


def _peer(card, base, peer: str) -> None:
    """DiffSynth's own loop or diffusers' script over pictures of the base's size: everything encoded in the loop, one picture a step."""
    from storyboard.models import memory

    chosen = settings(card, base.name, train_batch_size=1, train_steps=PEER_STEPS)
    folder = fresh(card.work / "peer")
    _pictures(folder / "train", chosen.resolution)
    clock = _Clock(card)
    arguments = argparse.Namespace(samples=4 if card.dry else PEER_STEPS, peer_learning_rate=1e-4)
    own = chosen.but(output=str(folder / "run"))
    own.folder.mkdir(parents=True)
    run = {"diffsynth": training_benchmark.diffsynth, "diffusers": training_benchmark.diffusers}[
        peer
    ]
    with card.peak(f"{base.name}, {peer}'s loop, peak"):
        run(base, memory.plan(base, own), own, folder, arguments, lambda: clock)
    card.note(
        f"{base.name}, {peer}'s loop, a picture",
        float(median(np.diff(clock.times)[1:])),
        "s, batch 1, no checkpointing, text and VAE in the loop",
    )


def _pictures(folder: Path, side: int, count: int = 4) -> None:
    """A Captions folder of pictures that are smooth noise."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for place in range(count):
        small = np.random.default_rng(place).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side), Image.BICUBIC).save(
            folder / "images" / f"{place}.png"
        )
        rows.append([f"images/{place}.png", f"二次元，第{place}张"])
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows([["image", "prompt"], *rows])


def drawing(card) -> None:
    """Eight Kolors panels: ours, a plain diffusers loop, DiffSynth's pipeline (one panel, times eight)."""
    base = weights(card, "kolors")
    _ours(card, base)
    for peer, panels in (("diffsynth", 1), ("diffusers", 1)):
        if card.left() < 35 and not card.dry:
            card.note(f"{base.name}, {peer}", "no time left")
            continue
        _peer_panels(card, base, peer, panels)


def _ours(card, base) -> None:
    """Eight panels by ``render``: all of it once, then its parts."""
    import torch

    from storyboard import render
    from storyboard.models import conditioning, memory
    from storyboard.rendering import sampling

    chosen = settings(card, base.name)
    plan = memory.plan(base, chosen)
    began = time.perf_counter()
    with card.peak(f"{base.name}, eight panels, peak"):
        render(story(PROMPTS), chosen, None)
    card.note(
        f"{base.name}, eight panels, first time",
        time.perf_counter() - began,
        f"s, loading and text encoding counted, {plan}",
    )
    said = conditioning.encode(
        replace(run_on(base, chosen), plan=plan),
        [
            text
            for panel in story(PROMPTS).resolved(chosen.seed)
            for text in (panel.prompt, panel.negative_prompt)
        ],
    )
    began = time.perf_counter()
    pipe = sampling.load_pipeline(base, plan)
    card.synchronize()
    card.note(f"{base.name}, UNet and VAE loaded", time.perf_counter() - began, "s")
    panels = story(PROMPTS).resolved(chosen.seed)
    at_once = plan.render_micro_batch_size

    def denoise():
        batches = [panels[start : start + at_once] for start in range(0, PROMPTS, at_once)]
        return torch.cat(
            [
                sampling.denoise(
                    pipe,
                    [said[panel.prompt] for panel in batch],
                    [said[panel.negative_prompt] for panel in batch],
                    [panel.seed for panel in batch],
                    chosen.resolution,
                    chosen.num_inference_steps,
                    chosen.guidance_scale,
                    chosen.guidance_end,
                )
                for batch in batches
            ]
        )

    latents = denoise()
    denoised = card.seconds(denoise, 3, 0)
    decoded = card.seconds(
        lambda: [sampling.decode(pipe, latent[None]) for latent in latents], 3, 1
    )
    card.note(
        f"{base.name}, eight panels denoised",
        denoised,
        f"s, {chosen.num_inference_steps} steps, {at_once} at once",
    )
    card.note(f"{base.name}, eight panels decoded", decoded, "s, VAE in fp32")
    card.note(f"{base.name}, eight panels, warm", denoised + decoded, "s")


def _peer_panels(card, base, peer: str, panels: int) -> None:
    """Seconds a panel of the peer's own way (rendering.py), 50 steps; loading and the first panel shown apart."""
    from storyboard.models import memory

    chosen = settings(card, base.name).but(output=str(fresh(card.work / "peer")))
    draw = {"diffusers": rendering.diffusers, "diffsynth": rendering.diffsynth}[peer]
    rendering.STEPS = 3 if card.dry else DRAWN
    began = time.time()
    with card.peak(f"{base.name}, {peer}, peak"):
        paths = draw(base, memory.plan(base, chosen), chosen, story(panels + 1), None)
    saved = [path.stat().st_mtime for path in paths]  # a panel is saved when it is drawn
    card.note(f"{base.name}, {peer}, loading and the first panel", saved[0] - began, "s")
    card.note(
        f"{base.name}, {peer}, eight panels",
        8 * (saved[-1] - saved[0]) / panels,
        f"s, {rendering.STEPS} steps, {panels} measured, times {8 // panels}",
    )


def text(card) -> None:
    """Kolors' text encoder loaded, used, freed."""
    import torch

    from storyboard.models import conditioning, memory

    base = weights(card, "kolors")
    chosen = settings(card, base.name).but(output=str(card.work / "text"))
    plan = memory.plan(base, chosen)
    card.note("text encoder on the CPU", plan.text_encoder_on_cpu)
    card.free()
    before = torch.cuda.memory_allocated() if card.device == "cuda" else 0
    words = [
        text
        for panel in story(PROMPTS).resolved(0)
        for text in (panel.prompt, panel.negative_prompt)
    ]
    began = time.perf_counter()
    with card.peak("text encoder, peak"):
        conditioning.encode(replace(run_on(base, chosen), plan=plan), words)
    card.note("text encoder loaded, nine prompts, freed", time.perf_counter() - began, "s")
    card.free()
    after = torch.cuda.memory_allocated() if card.device == "cuda" else 0
    card.note("left on the card afterwards", (after - before) / 2**20, "MiB")


def others(card) -> None:
    """SDXL and SD 1.5, shorter."""
    for name in ("sdxl", "sd15"):
        if card.left() < 30 and not card.dry:
            card.note(name, "no time left")
            continue
        base = weights(card, name)
        _steps(card, base, *(((1,), ()) if card.dry else ((4,), (4,))))
        _ours(card, base)


def levers(card) -> None:
    """One at a time, on Kolors' UNet as four panels with guidance see it, and on the VAE."""
    import torch

    from storyboard.models import memory
    from storyboard.rendering import sampling

    base = weights(card, "kolors")
    chosen = settings(card, base.name)
    pipe = sampling.load_pipeline(base, memory.plan(base, chosen))
    unet, vae, rows, side = pipe.unet, pipe.vae, 8, chosen.resolution // 8
    inputs = _unet_inputs(base, unet, rows, side)

    def forward():
        with torch.no_grad():
            return unet(**inputs).sample

    plain = card.seconds(forward)
    card.note("UNet, 8 rows, as it is (channels first)", 1000 * plain, "ms")
    tried = {
        "cudnn.benchmark": (
            lambda: setattr(torch.backends.cudnn, "benchmark", True),
            lambda: setattr(torch.backends.cudnn, "benchmark", False),
        ),
        "channels last": (
            lambda: unet.to(memory_format=torch.channels_last),
            lambda: unet.to(memory_format=torch.contiguous_format),
        ),
        "fused QKV": (unet.fuse_qkv_projections, unet.unfuse_qkv_projections),
    }
    for name, (on, off) in tried.items():
        on()
        seconds = card.seconds(forward)
        off()
        card.note(f"UNet, {name}", plain / seconds, "times as fast")
    _decoding(card, vae, side)
    if card.device == "cuda":
        card.note("UNet, CUDA graph", plain / card.seconds(_graph(forward)), "times as fast")
    if card.left() > 60 or card.dry:
        began = time.perf_counter()
        if not card.dry:
            unet.compile_repeated_blocks(fullgraph=True)
        forward()
        card.synchronize()
        card.note("UNet, regional compile, time to compile", time.perf_counter() - began, "s")
        card.note("UNet, regional compile", plain / card.seconds(forward), "times as fast")
    _optimizers(card)


def _unet_inputs(base, unet, rows: int, side: int) -> dict:
    """Random inputs of one forward pass of ``rows`` latents of ``side`` x ``side``."""
    import torch

    config, like = unet.config, {"device": unet.device, "dtype": unet.dtype}
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return {
        "sample": torch.randn(rows, 4, side, side, **like),
        "timestep": torch.tensor(500, device=unet.device),
        "encoder_hidden_states": torch.randn(
            rows, base.text_length, config.encoder_hid_dim, **like
        ),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, pooled, **like),
            "time_ids": torch.full((rows, 6), 8.0 * side, **like),
        },
    }


def _decoding(card, vae, side: int) -> None:
    """The VAE on one picture: precision, tiles, and how far the picture moves."""
    import torch

    latent = torch.randn(1, 4, side, side, device=vae.device)

    def decode():
        with torch.no_grad():
            return vae.decode(latent.to(vae.dtype)).sample.float()

    exact = decode()
    plain = card.seconds(decode)
    card.note("VAE, one picture, fp32 as it is", 1000 * plain, "ms")
    torch.backends.cudnn.benchmark = True
    card.note("VAE, fp32 with cudnn.benchmark", plain / card.seconds(decode), "times as fast")
    torch.backends.cudnn.benchmark = False
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        vae.to(dtype)
        with card.peak(f"VAE, {name}, peak"):
            card.note(f"VAE, {name}", plain / card.seconds(decode), "times as fast")
        card.note(
            f"VAE, {name}, largest difference",
            127.5 * (decode() - exact).abs().max().item(),
            "of 255 (random weights)",
        )
    vae.to(torch.float32)
    with card.peak("VAE, fp32, peak"):
        decode()
    vae.enable_tiling()
    with card.peak("VAE, fp32 in tiles, peak"):
        card.note("VAE, fp32 in tiles", plain / card.seconds(decode), "times as fast")
    vae.disable_tiling()


def _graph(work):
    """``work`` captured once as a CUDA graph -> what replays it."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _optimizers(card) -> None:
    """AdamW over as many small tensors as Kolors' LoRA has, in torch's three ways."""
    import torch

    count = 8 if card.dry else 560
    parameters = [
        torch.nn.Parameter(torch.randn(16, 1280, device=card.device)) for _ in range(2 * count)
    ]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    for name, options in (
        ("fused", {"fused": True}),
        ("foreach", {"foreach": True}),
        ("one by one", {"foreach": False}),
    ):
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, **options)
        card.note(f"AdamW {name}, LoRA of Kolors", 1000 * card.seconds(optimizer.step), "ms")
