"""Train the edge ControlNet of ``mini``: python -m tools.train_controlnet ART WORK --phases 128:1400:32 256:700:16

ART was drawn by ``render_art.mjs art 12000 7`` and packed by ``pack_art.py art 128 256``; the base is ``models/mini``, which
stays as it is. Method of https://arxiv.org/abs/2302.05543: a copy of the UNet's encoder reads the edges and adds to the UNet's
skips through convolutions that begin at zero. Ours leaves attention out: an edge says nothing that is not where it is, and a
ControlNet without text is small and quick. The last layer of the edges' embedding begins at random instead of zero: edges then reach
the zero convolutions from the first step on. Edges are Canny's of the picture at its training size, by the code that renders with
them (``storyboard.rendering.edges``). Latents and text embeddings are computed once.

Resumable: run the same command again and it goes on from ``WORK/controlnet.ckpt``; with each checkpoint goes an fp16 export of the
EMA weights to ``WORK/mini-controlnet`` in diffusers' layout.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.pipelines.kolors.text_encoder import ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from safetensors.torch import load_file, save_file

from storyboard.rendering.edges import edges
from tools import muon, text, train_vae
from tools.captions import caption
from tools.train_unet import HIGH_NOISE, SCHEDULE

MINI = Path(__file__).resolve().parents[1] / "models" / "mini"
SAVE_EVERY = 100
UNCAPTIONED = 0.2  # of the pictures come without words: edges alone then say what is there


def build(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet of the UNet's encoder without attention, with the encoder's weights where it has the same layers."""
    config = unet.config
    controlnet = ControlNetModel(
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        down_block_types=("DownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2D",
        attention_head_dim=config.attention_head_dim,
        cross_attention_dim=config.cross_attention_dim,
        use_linear_projection=True,
        conditioning_embedding_out_channels=(8, 16, 32, 64),
        addition_embed_type=config.addition_embed_type,
        addition_time_embed_dim=config.addition_time_embed_dim,
        projection_class_embeddings_input_dim=config.projection_class_embeddings_input_dim,
    )
    mine, theirs = controlnet.state_dict(), unet.state_dict()
    controlnet.load_state_dict(
        {
            name: theirs[name] if name in theirs and theirs[name].shape == tensor.shape else tensor
            for name, tensor in mine.items()
        }
    )
    torch.nn.init.xavier_normal_(controlnet.controlnet_cond_embedding.conv_out.weight)
    return controlnet


@torch.no_grad()
def cached_latents(pixels: np.ndarray, target: Path) -> torch.Tensor:
    """(n, 4, r / 8, r / 8) scaled latents."""
    if not target.exists():
        vae = (
            AutoencoderKL.from_pretrained(MINI / "vae").eval().to(memory_format=torch.channels_last)
        )
        with torch.autocast("cpu", torch.bfloat16):
            parts = [
                vae.encode(
                    train_vae.as_batch(np.asarray(pixels[i : i + 16]))
                ).latent_dist.mean.float()
                for i in range(0, len(pixels), 16)
            ]
        save_file(
            {"latents": (torch.cat(parts) * vae.config.scaling_factor).contiguous()},
            target.with_suffix(".tmp"),
        )
        target.with_suffix(".tmp").replace(target)
    return load_file(target)["latents"]


@torch.no_grad()
def cached_text(rows: list[dict], target: Path) -> dict[str, torch.Tensor]:
    """Embeddings of two captions a picture, one in each language, and last of the empty one: ``embeds``, ``pooled``, ``key_bias``."""
    if not target.exists():
        tokenizer = ChatGLMTokenizer(str(MINI / "tokenizer" / "tokenizer.model"))
        encoder = (
            text.weigh_pads(ChatGLMModel.from_pretrained(MINI / "text_encoder")).float().eval()
        )
        rng = random.Random(0)
        captions = [
            caption(row, language, rng, 0.1) for row in rows for language in ("zh", "en")
        ] + [""]
        parts = []
        for start in range(0, len(captions), 128):
            tokens = tokenizer(
                captions[start : start + 128],
                padding="max_length",
                max_length=text.LENGTH,
                truncation=True,
                return_tensors="pt",
            )
            parts.append([part.half() for part in text.encode_short(encoder, tokens)])
        save_file(
            {
                name: torch.cat(part)
                for name, part in zip(("embeds", "pooled", "key_bias"), zip(*parts))
            },
            target.with_suffix(".tmp"),
        )
        target.with_suffix(".tmp").replace(target)
    return load_file(target)


def cached_edges(pixels: np.ndarray, target: Path) -> np.ndarray:
    """uint8 (n, r, r), 0 or 255."""
    if not target.exists():
        np.save(target, np.stack([edges(picture) for picture in pixels]))
    return np.load(target)


def export(
    controlnet: ControlNetModel,
    weights: list[torch.Tensor],
    parameters: list[torch.nn.Parameter],
    folder: Path,
) -> None:
    """Write ``weights`` in fp16; the training goes on with its own."""
    current = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_copy_(parameters, weights)
        copy = ControlNetModel.from_config(controlnet.config)
        copy.load_state_dict(controlnet.state_dict())
        copy.half().save_pretrained(folder)
        torch._foreach_copy_(parameters, current)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("art", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--phases",
        nargs="+",
        default=["128:1400:32", "256:700:16"],
        help="resolution:steps:batch, one after the other",
    )
    parser.add_argument("--pictures", type=int, default=12000, help="so many of ART")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    phases = [tuple(map(int, phase.split(":"))) for phase in arguments.phases]
    total = sum(steps for _, steps, _ in phases)
    rows = json.loads((arguments.art / "meta.json").read_text())[: arguments.pictures]
    torch.manual_seed(arguments.seed)
    unet = (
        UNet2DConditionModel.from_pretrained(MINI / "unet")
        .float()
        .requires_grad_(False)
        .eval()
        .to(memory_format=torch.channels_last)
    )
    controlnet = build(unet).to(memory_format=torch.channels_last)
    parameters = list(controlnet.parameters())
    ema = [p.detach().clone() for p in parameters]
    matrices, rest = muon.split(controlnet, ("conv_in", "time", "add_embedding"))
    optimizers = [
        muon.Muon(matrices, 2 * arguments.lr),
        torch.optim.AdamW(rest, lr=arguments.lr, betas=(0.9, 0.98), weight_decay=0),
    ]
    peaks = [2 * arguments.lr, arguments.lr]
    checkpoint, start = work / "controlnet.ckpt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        controlnet.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        ema, start = state["ema"], state["step"]
    print(
        f"ControlNet {sum(p.numel() for p in parameters) / 1e6:.2f} M parameters, from step {start}",
        flush=True,
    )
    if arguments.compile:
        unet.compile(dynamic=False)
        controlnet.compile(dynamic=False)

    betas = (
        torch.linspace(
            SCHEDULE["beta_start"] ** 0.5,
            SCHEDULE["beta_end"] ** 0.5,
            SCHEDULE["num_train_timesteps"],
        )
        ** 2
    )
    alphas = torch.cumprod(1 - betas, 0)
    snr = alphas / (1 - alphas)
    step_weight = ((snr.clamp(max=5) + HIGH_NOISE) / snr).clamp(max=50)
    generator = torch.Generator().manual_seed(arguments.seed + 1000 * start)
    said = cached_text(rows, work / "text.safetensors")
    began, mean, resolution_now = time.time(), None, None
    for step in range(start, total):
        resolution, batch = next(
            (r, b)
            for i, (r, _, b) in enumerate(phases)
            if step < sum(s for _, s, _ in phases[: i + 1])
        )
        if resolution != resolution_now:
            pixels = np.load(arguments.art / f"pixels-{resolution}.npy", mmap_mode="r")[: len(rows)]
            latents, lines = (
                cached_latents(pixels, work / f"latents-{resolution}.safetensors"),
                cached_edges(pixels, work / f"edges-{resolution}.npy"),
            )
            resolution_now = resolution
            print(f"resolution {resolution}, {time.time() - began:.0f} s", flush=True)
        decay = min(1, (step + 1) / 100) * (0.5 * (1 + math.cos(math.pi * step / total)) + 0.01)
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = peak * decay
        chosen = torch.randint(0, len(latents), (batch,), generator=generator)
        words = 2 * chosen + torch.randint(0, 2, (batch,), generator=generator)
        words[torch.rand(batch, generator=generator) < UNCAPTIONED] = 2 * len(rows)
        embeds, pooled, key_bias = (
            said[name][words].float() for name in ("embeds", "pooled", "key_bias")
        )
        condition = (
            torch.from_numpy(lines[chosen.numpy()])[:, None]
            .float()
            .div(255)
            .expand(-1, 3, -1, -1)
            .contiguous(memory_format=torch.channels_last)
        )
        timesteps = torch.randint(0, len(alphas), (batch,), generator=generator)
        signal = alphas[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn(latents[chosen].shape, generator=generator)
        noisy = (signal.sqrt() * latents[chosen] + (1 - signal).sqrt() * noise).contiguous(
            memory_format=torch.channels_last
        )
        added = {
            "text_embeds": pooled,
            "time_ids": torch.tensor(
                [[resolution, resolution, 0, 0, resolution, resolution]] * batch,
                dtype=torch.float32,
            ),
        }
        with torch.autocast("cpu", torch.bfloat16):
            down, mid = controlnet(
                noisy,
                timesteps,
                encoder_hidden_states=embeds,
                controlnet_cond=condition,
                added_cond_kwargs=added,
                return_dict=False,
            )
            # diffusers turns a mask m into a bias of (1 - m) * -10000
            predicted = unet(
                noisy,
                timesteps,
                encoder_hidden_states=embeds,
                encoder_attention_mask=1 + key_bias / 10000,
                added_cond_kwargs=added,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample.float()
        loss = ((predicted - noise).square().mean((1, 2, 3)) * step_weight[timesteps]).mean()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                ema, [p.detach() for p in parameters], 1 - min(0.995, (1 + step) / (10 + step))
            )
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        done = step + 1
        if done % 20 == 0:
            print(
                f"step {done}  {time.time() - began:.0f} s  resolution {resolution}  loss {mean:.4f}",
                flush=True,
            )
        if done % SAVE_EVERY == 0 or done == total:
            torch.save(
                {
                    "model": controlnet.state_dict(),
                    "ema": ema,
                    "optimizers": [o.state_dict() for o in optimizers],
                    "step": done,
                },
                checkpoint.with_suffix(".tmp"),
            )
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            export(controlnet, ema, parameters, work / "mini-controlnet")


if __name__ == "__main__":
    main()
