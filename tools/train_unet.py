"""Train UNet and text encoder of ``mini`` jointly: python -m tools.train_unet ART WORK --phases 128:600:32 256:2500:16

Needs ``WORK/vae.ckpt`` (train_vae.py) and ``WORK/tokenizer.model`` (train_tokenizer.py). Latents are computed once
for each resolution. Min-SNR weighting (https://arxiv.org/abs/2303.09556), EMA weights, attributes and
whole captions dropped at random. Eyes and mouths cover little of a picture and say all about its mood, so errors
there weigh more (``expression_weights``). Size conditioning tells the resolutions apart, as in SDXL
(https://arxiv.org/abs/2307.01952). Several processes: ``torchrun --nproc-per-node 2 tools/train_unet.py ...``.

``--warm models/mini`` begins with weights that are there already, VAE and tokenizer too unless WORK has its own;
words that both vocabularies know keep their embeddings. ``--compile`` with bf16 arithmetic takes three minutes to start and 0.6 of the time afterwards.

Resumable: run the same command again and it goes on from ``WORK/unet.ckpt``.
"""

import argparse
import json
import math
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file

from tools import muon, text, train_vae
from tools.captions import caption

SCHEDULE = {
    "num_train_timesteps": 1100,
    "beta_start": 0.00085,
    "beta_end": 0.014,
    "beta_schedule": "scaled_linear",
}
UNET = {
    "sample_size": 32,
    "block_out_channels": (64, 96, 160),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 1),
    "attention_head_dim": (2, 3, 5),
    "use_linear_projection": True,
    "cross_attention_dim": 128,
    "encoder_hid_dim": 192,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 192 + 6 * 32,
}
HIGH_NOISE = 0.3  # added to min-SNR's weight of an error in the picture: place and mood are decided where SNR is near 0
BLURRED_EVERY = 30  # one picture in so many also comes blurred and is called so: negative prompts then mean something


def begin_from(warm: Path, work: Path) -> None:
    """Put VAE, scaling factor and tokenizer of a diffusers folder into ``work`` where it has none of its own."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "vae.ckpt").exists():
        vae = AutoencoderKL.from_pretrained(warm / "vae")
        torch.save({"vae": vae.state_dict()}, work / "vae.ckpt")
        (work / "scaling_factor.json").write_text(json.dumps(vae.config.scaling_factor))
    if not (work / "tokenizer.model").exists():
        shutil.copy(warm / "tokenizer" / "tokenizer.model", work / "tokenizer.model")


def load_vae(work: Path) -> AutoencoderKL:
    vae = AutoencoderKL(**train_vae.CONFIG)
    newest = work / "vae-decoder.ckpt"
    vae.load_state_dict(
        torch.load(newest if newest.exists() else work / "vae.ckpt", weights_only=True)["vae"]
    )
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def cached_latents(art: Path, work: Path, resolution: int) -> tuple[torch.Tensor, float]:
    """(n + n // BLURRED_EVERY, 4, r / 8, r / 8) latents of unit scale and the factor that made them so."""
    target = work / f"latents-{resolution}.safetensors"
    if not target.exists():
        pixels, vae = np.load(art / f"pixels-{resolution}.npy", mmap_mode="r"), load_vae(work)
        soft = [
            np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(resolution / 80)))
            for p in pixels[::BLURRED_EVERY]
        ]
        encode = lambda batch: vae.encode(
            train_vae.as_batch(np.asarray(batch))
        ).latent_dist.mean.float()
        with torch.autocast("cpu", torch.bfloat16):
            latents = torch.cat(
                [encode(pixels[i : i + 16]) for i in range(0, len(pixels), 16)]
                + [encode(soft[i : i + 16]) for i in range(0, len(soft), 16)]
            )
        save_file({"latents": latents.contiguous()}, target.with_suffix(".tmp"))
        target.with_suffix(".tmp").replace(target)
    latents = load_file(target)["latents"]
    scale_file = work / "scaling_factor.json"  # measured once, at the first resolution
    if not scale_file.exists():
        scale_file.write_text(json.dumps(1 / latents.std().item()))
    factor = json.loads(scale_file.read_text())
    return latents * factor, factor


def expression_weights(
    latents: torch.Tensor, rows: list[dict], strength: float
) -> dict[str, torch.Tensor]:
    """style -> (1, h, w) weights of mean 1, highest where the means of a style's expressions differ most."""
    weights = {}
    for style in sorted({row["style"] for row in rows}):
        of = lambda expression: [
            i
            for i, row in enumerate(rows)
            if row["style"] == style and row["expression"] == expression and not row.get("prop")
        ]
        means = [
            latents[chosen].mean(0)
            for e in sorted({row["expression"] for row in rows})
            if len(chosen := of(e)) > 20
        ]
        spread = torch.stack(means).var(0).sum(0, keepdim=True)
        weight = 1 + strength * (spread / spread.max()).sqrt()
        weights[style] = weight / weight.mean()
    return weights


def prop_weights(
    latents: torch.Tensor, rows: list[dict], strength: float
) -> dict[str, torch.Tensor]:
    """prop -> (1, h, w) weights of mean 1, highest where the mean picture changes when the prop is there."""
    of = lambda prop: latents[[i for i, row in enumerate(rows) if row.get("prop") == prop]].mean(0)
    without, weights = of(None), {}
    for prop in sorted({row["prop"] for row in rows if row.get("prop")}):
        change = (of(prop) - without).square().sum(0, keepdim=True)
        weight = 1 + strength * (change / change.max()).sqrt()
        weights[prop] = weight / weight.mean()
    return weights | {None: torch.ones_like(without[:1])}


class Mini(torch.nn.Module):
    def __init__(self, tokenizer: ChatGLMTokenizer):
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = text.weigh_pads(text.build(tokenizer))
        self.unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)

    def warm_start(self, folder: Path) -> None:
        """Take the weights of a diffusers folder, word embeddings by their piece."""
        self.unet.load_state_dict(
            UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
        )
        known = ChatGLMTokenizer(str(folder / "tokenizer" / "tokenizer.model"))
        weights = load_file(folder / "text_encoder" / "model.safetensors")
        weights = {key: value.float() for key, value in weights.items()}
        embeddings = "embedding.word_embeddings.weight"
        mine, theirs = self.text_encoder.state_dict()[embeddings].clone(), weights[embeddings]
        ids = lambda t: (
            {t.sp_model.id_to_piece(i): i for i in range(t.sp_model.vocab_size())}
            | t.special_tokens
        )
        before = ids(known.tokenizer)
        for piece, row in ids(self.tokenizer.tokenizer).items():
            if piece in before:
                mine[row] = theirs[before[piece]]
        output = "output_layer.weight"
        self.text_encoder.load_state_dict(
            weights | {embeddings: mine, output: self.text_encoder.state_dict()[output]}
        )

    def forward(self, noisy, timesteps, captions, resolution):
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            max_length=text.LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        embeds, pooled, key_bias = text.encode_short(self.text_encoder, tokens)
        time_ids = torch.tensor(
            [[resolution, resolution, 0, 0, resolution, resolution]] * len(captions),
            dtype=torch.float32,
        )
        # diffusers turns a mask m into a bias of (1 - m) * -10000
        return self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=embeds,
            encoder_attention_mask=1 + key_bias / 10000,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        ).sample


@torch.no_grad()
def sample(
    mini: Mini,
    captions: list[str],
    resolution: int,
    steps: int = 20,
    guidance_scale: float = 4.0,
    seed: int = 0,
) -> torch.Tensor:
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    side = resolution // 8
    latents = (
        torch.randn(len(captions), 4, side, side, generator=torch.Generator().manual_seed(seed))
        * scheduler.init_noise_sigma
    )
    for t in scheduler.timesteps:
        both = mini(
            torch.cat([latents, latents]),
            t.expand(2 * len(captions)),
            captions + [""] * len(captions),
            resolution,
        )
        positive, negative = both.chunk(2)
        latents = scheduler.step(
            negative + guidance_scale * (positive - negative), t, latents
        ).prev_sample
    return latents


def preview(mini: Mini, vae: AutoencoderKL, factor: float, resolution: int, target: Path) -> None:
    """Sixteen held-out wordings, four styles by four, to look at while training goes on."""
    styles = ["扁平插画", "卡通", "手绘头像", "minimal avatar, a girl with short purple hair, "]
    said = [
        "紫色短发女孩，微笑，蓝色衣服，海边",
        "紫色短发女孩，难过，红色衣服，雨天",
        "金色长发女孩，大笑，绿色衣服，教室",
        "红色短发男孩，惊讶，白色衣服，粉色背景",
    ]
    english = [
        "smiling, blue clothes, night sky",
        "sad, white clothes, snow",
        "laughing, red clothes, garden",
        "surprised, yellow clothes, stage",
    ]
    captions = [f"{style}，{words}" for style in styles[:3] for words in said] + [
        styles[3] + words for words in english
    ]
    pictures = vae.decode(sample(mini, captions, resolution) / factor).sample.clamp(-1, 1)
    rows = torch.cat([torch.cat(list(pictures[i : i + 4]), 2) for i in range(0, 16, 4)], 1)
    Image.fromarray(((rows + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()).save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("art", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--phases",
        nargs="+",
        default=["128:600:32", "256:2500:16"],
        help="resolution:steps:batch, one after the other; batch is pictures a step and process",
    )
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--warm", type=Path, help="a diffusers folder to begin with")
    parser.add_argument("--compile", action="store_true", help="torch.compile and bf16 autocast")
    parser.add_argument(
        "--face",
        type=float,
        default=4.0,
        help="how much more an error counts where expressions differ",
    )
    parser.add_argument(
        "--prop", type=float, default=3.0, help="how much more an error counts where a prop is held"
    )
    parser.add_argument(
        "--min-snr-gamma",
        type=float,
        default=5.0,
        help="inf towards the end: smooth fills and crisp lines are a matter of low noise",
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    if arguments.warm and rank == 0:
        begin_from(arguments.warm, arguments.work)
    if world > 1:
        dist.barrier()
    phases = [tuple(map(int, phase.split(":"))) for phase in arguments.phases]
    total = sum(steps for _, steps, _ in phases)
    tokenizer = ChatGLMTokenizer(str(arguments.work / "tokenizer.model"))
    rows = json.loads((arguments.art / "meta.json").read_text())
    rows += [{**row, "blurred": True} for row in rows[::BLURRED_EVERY]]

    torch.manual_seed(arguments.seed)
    mini = Mini(tokenizer)
    if arguments.warm:
        mini.warm_start(arguments.warm)
    mini.text_encoder.output_layer.requires_grad_(
        False
    )  # the language-model head, which Kolors never calls
    if arguments.compile:
        mini.unet.compile(dynamic=False)
    parameters = [p for p in mini.parameters() if p.requires_grad]
    ema = [p.detach().clone() for p in parameters]
    matrices, rest = muon.split(mini, ("conv_in", "conv_out", "word_embeddings", "output_layer"))
    optimizers = [
        muon.Muon(matrices, 2 * arguments.lr),
        torch.optim.AdamW(rest, lr=arguments.lr, betas=(0.9, 0.98), weight_decay=0),
    ]
    peaks = [2 * arguments.lr, arguments.lr]
    checkpoint, start = arguments.work / "unet.ckpt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        mini.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        ema, start = state["ema"], state["step"]
    if rank == 0:
        print(
            f"UNet {sum(p.numel() for p in mini.unet.parameters()) / 1e6:.2f} M, text encoder {sum(p.numel() for p in mini.text_encoder.parameters()) / 1e6:.2f} M parameters"
        )

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
    step_weight = ((snr.clamp(max=arguments.min_snr_gamma) + HIGH_NOISE) / snr).clamp(max=50)
    torch.manual_seed(arguments.seed + 1000 * start + rank)
    rng = random.Random(f"{arguments.seed}-{start}-{rank}")

    def save(step: int) -> None:
        """Exact state for resuming, the EMA weights apart, and a picture of where things stand."""
        torch.save(
            {
                "model": mini.state_dict(),
                "ema": ema,
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step,
            },
            checkpoint.with_suffix(".tmp"),
        )
        checkpoint.with_suffix(".tmp").replace(checkpoint)
        current = [p.detach().clone() for p in parameters]
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            torch._foreach_copy_(parameters, ema)
            torch.save(
                {"ema": mini.state_dict(), "step": step, "resolution": resolution},
                arguments.work / "unet-ema.ckpt",
            )
            preview(
                mini,
                load_vae(arguments.work),
                factor,
                resolution,
                arguments.work / f"preview-{step:05d}.png",
            )
            torch._foreach_copy_(parameters, current)

    began, mean, step, resolution_now = time.time(), None, start, None
    while step < total:
        resolution, batch = next(
            (r, b)
            for i, (r, _, b) in enumerate(phases)
            if step < sum(s for _, s, _ in phases[: i + 1])
        )
        if resolution != resolution_now:
            if world > 1 and rank:
                dist.barrier()
            latents, factor = cached_latents(arguments.art, arguments.work, resolution)
            if world > 1 and not rank:
                dist.barrier()
            resolution_now = resolution
            faces, props = (
                expression_weights(latents, rows, arguments.face),
                prop_weights(latents, rows, arguments.prop),
            )
        decay = min(1, (step + 1) / 200) * (0.5 * (1 + math.cos(math.pi * step / total)) + 0.01)
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = peak * decay
        chosen = torch.randint(0, len(latents), (batch,))
        clean = latents[chosen]
        captions = [
            "" if rng.random() < 0.1 else caption(rows[i], rng.choice(("zh", "en")), rng, 0.1)
            for i in chosen.tolist()
        ]
        timesteps = torch.randint(0, len(alphas), (batch,))
        signal = alphas[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn_like(clean)
        noisy = (signal.sqrt() * clean + (1 - signal).sqrt() * noise).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.compile):
            predicted = mini(noisy, timesteps, captions, resolution).float()
        weight = torch.stack(
            [
                faces[row["style"]] * props[row.get("prop")]
                for row in (rows[i] for i in chosen.tolist())
            ]
        )
        error = ((predicted - noise).square() * weight).mean((1, 2, 3))
        loss = (error * step_weight[timesteps]).mean()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if world > 1:
            for p in parameters:  # a phrase-free batch may leave a parameter without gradient
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            flat = torch.cat([p.grad.reshape(-1) for p in parameters])
            dist.all_reduce(flat)
            for p, g in zip(parameters, flat.div_(world).split([p.numel() for p in parameters])):
                p.grad.copy_(g.view_as(p))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(
                ema, [p.detach() for p in parameters], 1 - min(0.999, (1 + step) / (10 + step))
            )
        mean = loss.item() if mean is None else 0.99 * mean + 0.01 * loss.item()
        if rank == 0 and step % 100 == 0:
            print(
                f"step {step}  {time.time() - began:.0f} s  resolution {resolution}  loss {mean:.4f}",
                flush=True,
            )
        if rank == 0 and (step % 500 == 0 or step == total):
            save(step)


if __name__ == "__main__":
    main()
