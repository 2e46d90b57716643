"""Train the edge ControlNet of ``mini``: python -m tools.train_controlnet ART WORK

ART was drawn by ``render_art.mjs art 12000 7`` and packed by ``python -m tools.pack_art art 128
256``; the base is ``models/mini``, which stays as it is. Method of
https://arxiv.org/abs/2302.05543: a copy of the UNet's encoder reads the edges and adds to the
UNet's skips through convolutions that begin at zero. Ours leaves attention out: an edge says
nothing that is not where it is, and a ControlNet without text is small and quick. The last layer of
the edges' embedding begins at random instead of zero: edges then reach the zero convolutions from
the first step on. Edges are Canny's of the picture at its training size, by the code that renders
with them (``storyboard.rendering.edges``). Latents and text embeddings are computed once.

Resumable: run the same command again and it goes on from ``WORK/controlnet.ckpt``; with each
checkpoint goes an fp16 export of the EMA weights to ``WORK/mini-controlnet`` in diffusers' layout.
"""

import argparse
import json
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
from tools import mini_latents, optimisation, text
from tools.captions import caption
from tools.mini_model import time_ids

MINI = Path(__file__).resolve().parents[1] / "models" / "mini"
WARM_STEPS = 100
EMA = 0.995
MIN_SNR_GAMMA = 5
PRINT_EVERY = 20
SAVE_EVERY = 100
UNCAPTIONED = 0.2  # of the pictures come without words: edges alone then say what is there
ENCODED = ("embeds", "pooled", "key_bias")


def build(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet of the UNet's encoder without attention, with the encoder's weights."""
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
    weights = controlnet.state_dict()
    for name, tensor in unet.state_dict().items():
        if name in weights and weights[name].shape == tensor.shape:
            weights[name] = tensor
    controlnet.load_state_dict(weights)
    torch.nn.init.xavier_normal_(controlnet.controlnet_cond_embedding.conv_out.weight)
    return controlnet


def cached_latents(pixels: np.ndarray, target: Path) -> torch.Tensor:
    """(n, 4, r / 8, r / 8) scaled latents."""
    if not target.exists():
        vae = AutoencoderKL.from_pretrained(MINI / "vae").eval()
        vae.to(memory_format=torch.channels_last)
        latents = mini_latents.encode(vae, pixels) * vae.config.scaling_factor
        save_file({"latents": latents.contiguous()}, target.with_suffix(".tmp"))
        target.with_suffix(".tmp").replace(target)
    return load_file(target)["latents"]


@torch.no_grad()
def cached_text(rows: list[dict], target: Path) -> dict[str, torch.Tensor]:
    """Embeddings of two captions a picture, one in each language, and last of the empty one.

    Returns:
        ENCODED -> tensors as ``text.encode_short`` gives them.
    """
    if target.exists():
        return load_file(target)
    tokenizer = ChatGLMTokenizer(str(MINI / "tokenizer" / "tokenizer.model"))
    encoder = ChatGLMModel.from_pretrained(MINI / "text_encoder")
    encoder = text.weigh_pads(encoder).float().eval()
    rng = random.Random(0)
    captions = [caption(row, language, rng, 0.1) for row in rows for language in ("zh", "en")]
    captions.append("")

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
    columns = zip(ENCODED, zip(*parts, strict=True), strict=True)
    tensors = {name: torch.cat(column) for name, column in columns}
    save_file(tensors, target.with_suffix(".tmp"))
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


class Training:
    """The frozen UNet, the ControlNet and its optimizers, the data."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.phases = optimisation.Phases(arguments.phases)
        meta = json.loads((arguments.art / "meta.json").read_text())
        self.rows = meta[: arguments.pictures]
        torch.manual_seed(arguments.seed)
        unet = UNet2DConditionModel.from_pretrained(MINI / "unet").float().requires_grad_(False)
        self.unet = unet.eval().to(memory_format=torch.channels_last)
        self.controlnet = build(self.unet).to(memory_format=torch.channels_last)
        self.parameters = list(self.controlnet.parameters())
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizers = optimisation.Optimizers(
            self.controlnet,
            ("conv_in", "time", "add_embedding"),
            arguments.lr,
            muon_factor=2,
            betas=(0.9, 0.98),
        )
        self.start = 0
        self.checkpoint = arguments.work / "controlnet.ckpt"
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.controlnet.load_state_dict(state["model"])
            self.optimizers.load(state["optimizers"])
            self.ema, self.start = state["ema"], state["step"]
        if arguments.compile:
            self.unet.compile(dynamic=False)
            self.controlnet.compile(dynamic=False)

        self.alphas = optimisation.alphas_cumprod()
        self.step_weights = optimisation.timestep_weights(self.alphas, MIN_SNR_GAMMA)
        self.generator = torch.Generator().manual_seed(arguments.seed + 1000 * self.start)
        self.resolution: int | None = None

    def run(self) -> None:
        parameters = sum(p.numel() for p in self.parameters) / 1e6
        print(f"ControlNet {parameters:.2f} M parameters, from step {self.start}", flush=True)
        self.text = cached_text(self.rows, self.arguments.work / "text.safetensors")
        began, mean = time.time(), None
        for step in range(self.start, self.phases.total):
            resolution, batch = self.phases.at(step)
            if resolution != self.resolution:
                self._load_pictures(resolution)
                print(f"resolution {resolution}, {time.time() - began:.0f} s", flush=True)
            loss = self._train_step(step, batch)
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            done = step + 1
            if done % PRINT_EVERY == 0:
                progress = f"step {done}  {time.time() - began:.0f} s  resolution {resolution}"
                print(f"{progress}  loss {mean:.4f}", flush=True)
            if done % SAVE_EVERY == 0 or done == self.phases.total:
                self.save(done)

    def _load_pictures(self, resolution: int) -> None:
        packed = np.load(self.arguments.art / f"pixels-{resolution}.npy", mmap_mode="r")
        pixels, work = packed[: len(self.rows)], self.arguments.work
        self.latents = cached_latents(pixels, work / f"latents-{resolution}.safetensors")
        self.edges = cached_edges(pixels, work / f"edges-{resolution}.npy")
        self.resolution = resolution

    def _train_step(self, step: int, batch: int) -> float:
        """One step of ``batch`` pictures; its loss."""
        factor = optimisation.decay(step, self.phases.total, WARM_STEPS)
        self.optimizers.set_learning_rates(factor)
        loss = self._loss(batch)
        self.optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizers.step()
        optimisation.update_ema(self.ema, self.parameters, step, EMA)
        return loss.item()

    def _loss(self, batch: int) -> torch.Tensor:
        random_ = {"generator": self.generator}
        chosen = torch.randint(0, len(self.latents), (batch,), **random_)
        captions = 2 * chosen + torch.randint(0, 2, (batch,), **random_)
        captions[torch.rand(batch, **random_) < UNCAPTIONED] = 2 * len(self.rows)
        timesteps = torch.randint(0, len(self.alphas), (batch,), **random_)
        latents = self.latents[chosen]
        noise = torch.randn(latents.shape, **random_)
        noisy = optimisation.add_noise(latents, noise, self.alphas[timesteps])
        noise_pred = self._predict(noisy, timesteps, captions, self._condition(chosen))
        error = (noise_pred - noise).square().mean((1, 2, 3))
        return (error * self.step_weights[timesteps]).mean()

    def _condition(self, chosen: torch.Tensor) -> torch.Tensor:
        """Edges (n, 3, r, r), 0 or 1."""
        lines = torch.from_numpy(self.edges[chosen.numpy()])[:, None].float().div(255)
        return lines.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def _predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        captions: torch.Tensor,
        condition: torch.Tensor,
    ) -> torch.Tensor:
        """The noise in ``noisy`` (n, 4, h, w); ``captions`` are rows of the cached embeddings."""
        embeds, pooled, key_bias = (self.text[name][captions].float() for name in ENCODED)
        added = {"text_embeds": pooled, "time_ids": time_ids(self.resolution, len(noisy))}
        with optimisation.bf16():
            down, mid = self.controlnet(
                noisy,
                timesteps,
                encoder_hidden_states=embeds,
                controlnet_cond=condition,
                added_cond_kwargs=added,
                return_dict=False,
            )
            # diffusers turns a mask m into a bias of (1 - m) * -10000
            return self.unet(
                noisy,
                timesteps,
                encoder_hidden_states=embeds,
                encoder_attention_mask=1 + key_bias / 10000,
                added_cond_kwargs=added,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample.float()

    def save(self, step: int) -> None:
        """Exact state for resuming, and the EMA weights for use."""
        state = {
            "model": self.controlnet.state_dict(),
            "ema": self.ema,
            "optimizers": self.optimizers.state_dicts(),
            "step": step,
        }
        optimisation.save_whole(state, self.checkpoint)
        target = self.arguments.work / "mini-controlnet"
        export(self.controlnet, self.ema, self.parameters, target)


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    return parser.parse_args()


def main() -> None:
    arguments = command_line()
    arguments.work.mkdir(parents=True, exist_ok=True)
    Training(arguments).run()


if __name__ == "__main__":
    main()
