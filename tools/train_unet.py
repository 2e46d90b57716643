"""Train UNet and text encoder of ``mini`` jointly: python -m tools.train_unet ART WORK

Needs ``WORK/vae.ckpt`` (train_vae.py) and ``WORK/tokenizer.model`` (train_tokenizer.py). Latents
are computed once for each resolution. Min-SNR weighting (https://arxiv.org/abs/2303.09556), EMA
weights, attributes and whole captions dropped at random. Eyes and mouths cover little of a picture
and say all about its mood, so errors there weigh more (``error_weights``). Size conditioning
tells the resolutions apart, as in SDXL (https://arxiv.org/abs/2307.01952). Several processes:
``torchrun --nproc-per-node 2 -m tools.train_unet ...``.

``--warm models/mini`` begins with weights that are there already, VAE and tokenizer too unless WORK
has its own; words that both vocabularies know keep their embeddings. ``--compile`` with bf16
arithmetic takes three minutes to start and 0.6 of the time afterwards.

Resumable: run the same command again and it goes on from ``WORK/unet.ckpt``.
"""

import argparse
import json
import os
import random
import shutil
import time
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

from tools import mini_latents, optimisation
from tools.captions import caption
from tools.mini_model import Mini, preview

WARM_STEPS = 200
EMA = 0.999
CAPTION_DROPOUT = 0.1
ATTRIBUTE_DROPOUT = 0.1
PRINT_EVERY = 100
SAVE_EVERY = 500


def begin_from(warm: Path, work: Path) -> None:
    """Put VAE, scaling factor and tokenizer of a diffusers folder into ``work``, if it has none."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "vae.ckpt").exists():
        vae = AutoencoderKL.from_pretrained(warm / "vae")
        checkpoint = {"vae": vae.state_dict(), "widths": list(vae.config.block_out_channels)}
        torch.save(checkpoint, work / "vae.ckpt")
        (work / "scaling_factor.json").write_text(json.dumps(vae.config.scaling_factor))
    if not (work / "tokenizer.model").exists():
        shutil.copy(warm / "tokenizer" / "tokenizer.model", work / "tokenizer.model")


class Training:
    """Model, optimizers and data; each process of several has its own."""

    def __init__(self, arguments: argparse.Namespace, rank: int, world: int) -> None:
        self.arguments, self.rank, self.world = arguments, rank, world
        self.phases = optimisation.Phases(arguments.phases)
        rows = json.loads((arguments.art / "meta.json").read_text())
        blurred = [row | {"blurred": True} for row in rows[:: mini_latents.BLURRED_EVERY]]
        self.rows = rows + blurred
        tokenizer = ChatGLMTokenizer(str(arguments.work / "tokenizer.model"))

        torch.manual_seed(arguments.seed)
        self.mini = Mini(tokenizer)
        if arguments.warm:
            self.mini.warm_start(arguments.warm)
        self.mini.text_encoder.output_layer.requires_grad_(False)
        if arguments.compile:
            self.mini.unet.compile(dynamic=False)
        self.parameters = [p for p in self.mini.parameters() if p.requires_grad]
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizers = optimisation.Optimizers(
            self.mini,
            ("conv_in", "conv_out", "word_embeddings", "output_layer"),
            arguments.lr,
            muon_factor=2,
            betas=(0.9, 0.98),
        )
        self.step = 0
        self.checkpoint = arguments.work / "unet.ckpt"
        if self.checkpoint.exists():
            self._resume()

        self.alphas = optimisation.alphas_cumprod()
        self.step_weights, self.crisp_weights = (
            optimisation.timestep_weights(self.alphas, gamma)
            for gamma in (arguments.min_snr_gamma, float("inf"))
        )
        torch.manual_seed(arguments.seed + 1000 * self.step + rank)
        self.rng = random.Random(f"{arguments.seed}-{self.step}-{rank}")
        self.resolution: int | None = None

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.mini.load_state_dict(state["model"])
        self.optimizers.load(state["optimizers"])
        self.ema, self.step = state["ema"], state["step"]

    def run(self) -> None:
        if self.rank == 0:
            unet, text_encoder = (
                sum(p.numel() for p in part.parameters()) / 1e6
                for part in (self.mini.unet, self.mini.text_encoder)
            )
            print(f"UNet {unet:.2f} M, text encoder {text_encoder:.2f} M parameters")

        began, mean = time.time(), None
        while self.step < self.phases.total:
            resolution, batch = self.phases.at(self.step)
            if resolution != self.resolution:
                self._load_latents(resolution)
            loss = self._train_step(batch)
            mean = loss if mean is None else 0.99 * mean + 0.01 * loss
            if self.rank:
                continue
            if self.step % PRINT_EVERY == 0:
                seconds = f"{time.time() - began:.0f} s"
                progress = f"step {self.step}  {seconds}  resolution {resolution}"
                print(f"{progress}  loss {mean:.4f}", flush=True)
            if self.step % SAVE_EVERY == 0 or self.step == self.phases.total:
                self.save()

    def _load_latents(self, resolution: int) -> None:
        """The first process computes them where they are not cached, the others wait."""
        arguments = self.arguments
        if self.world > 1 and self.rank:
            dist.barrier()
        latents, factor = mini_latents.cached_latents(arguments.art, arguments.work, resolution)
        if self.world > 1 and not self.rank:
            dist.barrier()
        self.latents, self.factor, self.resolution = latents, factor, resolution
        self.weights = mini_latents.error_weights(
            latents, self.rows, arguments.face, arguments.prop
        )

    def _train_step(self, batch: int) -> float:
        """One step of ``batch`` pictures; its loss."""
        self.optimizers.set_learning_rates(
            optimisation.decay(self.step, self.phases.total, WARM_STEPS)
        )
        loss = self._loss(torch.randint(0, len(self.latents), (batch,)))
        self.optimizers.zero_grad()
        loss.backward()
        if self.world > 1:
            self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizers.step()
        self.step += 1
        optimisation.update_ema(self.ema, self.parameters, self.step, EMA)
        return loss.item()

    def _loss(self, chosen: torch.Tensor) -> torch.Tensor:
        latents = self.latents[chosen]
        rows = [self.rows[index] for index in chosen.tolist()]
        captions = [self._caption(row) for row in rows]
        timesteps = torch.randint(0, len(self.alphas), (len(chosen),))
        noise = torch.randn_like(latents)
        noisy = optimisation.add_noise(latents, noise, self.alphas[timesteps])
        with optimisation.bf16(self.arguments.compile):
            noise_pred = self.mini(noisy, timesteps, captions, self.resolution).float()

        error = ((noise_pred - noise).square() * self.weights[chosen]).mean((1, 2, 3))
        crisp = self.step >= self.arguments.crisp_from * self.phases.total
        weights = self.crisp_weights if crisp else self.step_weights
        return (error * weights[timesteps]).mean()

    def _caption(self, row: dict) -> str:
        if self.rng.random() < CAPTION_DROPOUT:
            return ""
        return caption(row, self.rng.choice(("zh", "en")), self.rng, ATTRIBUTE_DROPOUT)

    def _share_gradients(self) -> None:
        """Take the mean over all processes."""
        for parameter in self.parameters:  # a batch of empty captions leaves some without gradient
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.reshape(-1) for p in self.parameters])
        dist.all_reduce(flat)
        parts = flat.div_(self.world).split([p.numel() for p in self.parameters])
        for parameter, gradient in zip(self.parameters, parts, strict=True):
            parameter.grad.copy_(gradient.view_as(parameter))

    def save(self) -> None:
        """Exact state for resuming, the EMA weights apart, and a picture of where things stand."""
        work = self.arguments.work
        state = {
            "model": self.mini.state_dict(),
            "ema": self.ema,
            "optimizers": self.optimizers.state_dicts(),
            "step": self.step,
        }
        optimisation.save_whole(state, self.checkpoint)
        current = [p.detach().clone() for p in self.parameters]
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            torch._foreach_copy_(self.parameters, self.ema)
            torch.save(
                {"ema": self.mini.state_dict(), "step": self.step, "resolution": self.resolution},
                work / "unet-ema.ckpt",
            )
            picture = work / f"preview-{self.step:05d}.png"
            vae = mini_latents.load_vae(work)
            preview(self.mini, vae, self.factor, self.resolution).save(picture)
            torch._foreach_copy_(self.parameters, current)


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile, and bf16 where the CPU has it"
    )
    parser.add_argument(
        "--face",
        type=float,
        default=4.0,
        help="how much more an error counts where expressions differ",
    )
    parser.add_argument(
        "--prop", type=float, default=3.0, help="how much more an error counts where a prop is held"
    )
    parser.add_argument("--min-snr-gamma", type=float, default=5.0)
    parser.add_argument(
        "--crisp-from",
        type=float,
        default=0.8,
        help="part of the steps after which min-SNR's gamma is inf: "
        "smooth fills and crisp lines are a matter of low noise",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = command_line()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    if arguments.warm and rank == 0:
        begin_from(arguments.warm, arguments.work)
    if world > 1:
        dist.barrier()
    Training(arguments, rank, world).run()


if __name__ == "__main__":
    main()
