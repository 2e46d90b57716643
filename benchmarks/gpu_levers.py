"""Section of ``benchmarks.gpu``: what single options of UNet, VAE and optimizer bring."""

import time
from collections.abc import Callable
from functools import partial

from benchmarks import gpu_bases

COMPILE_SECONDS = 60  # at least so many must be left for compiling


def levers(card) -> None:
    """One at a time, on Kolors' UNet with four panels and guidance, and on the VAE."""
    import torch

    from storyboard.rendering import sampling

    base = gpu_bases.fetched(card, "kolors")
    run = gpu_bases.run(card, base)
    pipe = sampling.load_pipeline(base, run.plan)
    unet, side = pipe.unet, run.resolution // 8
    inputs = _unet_inputs(base, unet, 8, side)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return unet(**inputs).sample

    plain = card.seconds(forward)
    card.note("UNet, 8 rows, as it is (channels first)", 1000 * plain, "ms")
    _unet_levers(card, unet, forward, plain)
    _decoding(card, pipe.vae, side)
    if card.device == "cuda":
        card.note("UNet, CUDA graph", plain / card.seconds(_graph(forward)), "times as fast")
    if card.left() > COMPILE_SECONDS or card.dry:
        _compiled(card, unet, forward, plain)
    _optimizers(card)


def _unet_levers(card, unet, forward: Callable[[], object], plain: float) -> None:
    """Options of the UNet that are switched on and off again; ``plain`` seconds without."""
    import torch

    def benchmark(on: bool) -> None:
        torch.backends.cudnn.benchmark = on

    switches = {
        "cudnn.benchmark": (partial(benchmark, True), partial(benchmark, False)),
        "channels last": (
            partial(unet.to, memory_format=torch.channels_last),
            partial(unet.to, memory_format=torch.contiguous_format),
        ),
        "fused QKV": (unet.fuse_qkv_projections, unet.unfuse_qkv_projections),
    }
    for name, (switch_on, switch_off) in switches.items():
        switch_on()
        seconds = card.seconds(forward)
        switch_off()
        card.note(f"UNet, {name}", plain / seconds, "times as fast")


def _compiled(card, unet, forward: Callable[[], object], plain: float) -> None:
    began = time.perf_counter()
    if not card.dry:
        unet.compile_repeated_blocks(fullgraph=True)
    forward()
    card.synchronize()
    card.note("UNet, regional compile, time to compile", time.perf_counter() - began, "s")
    card.note("UNet, regional compile", plain / card.seconds(forward), "times as fast")


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


def _graph(work: Callable[[], object]) -> Callable[[], None]:
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
