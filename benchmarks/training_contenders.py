"""The three trainings of ``benchmarks.training``; ``benchmarks.gpu`` times the peers alone."""

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.side_by_side import BEGAN
from storyboard.models.run import Run


class Watch(Protocol):
    """What follows a training: ``after_step`` is called with the pictures seen so far.

    Attributes:
        cost: Seconds that do not count.
    """

    cost: float

    def after_step(self, samples: int, unet: torch.nn.Module) -> None: ...


@dataclass(frozen=True)
class Task:
    """What all contenders train.

    Attributes:
        folder: Captions, with ``metadata.csv``.
        samples: Pictures to see, repetitions counted.
        watch: Called when all is loaded.
    """

    run: Run
    folder: Path
    samples: int
    peer_learning_rate: float
    watch: Callable[[], Watch]


@dataclass(frozen=True)
class Outcome:
    """Seconds of start-up and of caching, the clock at the end without what the watch cost."""

    watch: Watch
    startup: float
    caching: float
    end: float


def ours(task: Task) -> Outcome:
    """What ``storyboard.train`` does."""
    from benchmarks import lora_step
    from storyboard.data.collecting import Captions
    from storyboard.lora import file as lora
    from storyboard.training import cache

    run = task.run
    captions = Captions.load(task.folder)
    began = time.perf_counter()
    cached = cache.prepare(captions, run)
    caching = time.perf_counter() - began
    pipe = lora_step.load(run)
    startup = time.perf_counter() - BEGAN - caching
    watch = task.watch()

    def after_step(step) -> None:
        watch.after_step(step.number * run.train_batch_size, pipe.unet)

    state = lora_step.optimise(pipe, cached, run, run.folder, after_step)
    lora.save(run.folder / "lora.safetensors", state, run.alpha, {})
    return Outcome(watch, startup, caching, time.perf_counter() - watch.cost)


def diffsynth(task: Task) -> Outcome:
    """DiffSynth-Studio's own loop, one picture a step."""
    from accelerate import Accelerator
    from diffsynth.diffusion.logger import ModelLogger
    from diffsynth.diffusion.runner import launch_training_task

    from benchmarks import diffsynth_peer

    run, plan = task.run, task.run.plan
    accelerator = Accelerator(cpu=plan.device == "cpu")
    module = diffsynth_peer.TrainingModule(
        run.base, run.rank, run.base.lora_targets, plan.dtype, plan.device
    )
    data = diffsynth_peer.data_set(task.folder, run.resolution, task.samples)
    startup = time.perf_counter() - BEGAN
    watch = task.watch()

    class Logger(ModelLogger):
        def on_step_end(self, accelerator, model, save_steps=None, **options):
            super().on_step_end(accelerator, model, save_steps, **options)
            watch.after_step(self.num_steps, module.pipe.unet)

    logger = Logger(str(run.folder), remove_prefix_in_ckpt="pipe.unet.")
    launch_training_task(
        accelerator, data, module, logger, learning_rate=task.peer_learning_rate, num_workers=0
    )
    return Outcome(watch, startup, 0.0, time.perf_counter() - watch.cost)


def diffusers(task: Task) -> Outcome:
    """diffusers' script for SDXL LoRAs, everything encoded in the loop."""
    from safetensors.torch import save_file

    script = DiffusersScript(task)
    startup = time.perf_counter() - BEGAN
    watch = task.watch()

    samples = 0
    while samples < task.samples:
        for pixels, texts, sizes in script.loader:
            script.step(pixels, texts, sizes)
            samples += len(texts)
            watch.after_step(samples, script.unet)
            if samples >= task.samples:
                break

    save_file(script.lora(), task.run.folder / "lora.safetensors")
    return Outcome(watch, startup, 0.0, time.perf_counter() - watch.cost)


class DiffusersScript:
    """examples/text_to_image/train_text_to_image_lora_sdxl.py of diffusers 0.42, its settings."""

    def __init__(self, task: Task) -> None:
        from accelerate import Accelerator
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler

        from benchmarks import diffsynth_peer
        from storyboard.models import loading

        run, plan, base = task.run, task.run.plan, task.run.base
        self.run = run
        mixed = "no" if plan.precision == "fp32" else plan.precision
        self.accelerator = Accelerator(mixed_precision=mixed, cpu=plan.device == "cpu")
        self.noise_scheduler = DDPMScheduler(
            num_train_timesteps=base.num_train_timesteps,
            beta_start=base.beta_start,
            beta_end=base.beta_end,
            beta_schedule="scaled_linear",
        )
        self.text_pipeline = diffsynth_peer.text_pipeline(base, plan.dtype, plan.device)
        contiguous = {"memory_format": torch.contiguous_format}
        self.vae = loading.load(base, "vae", torch.float32).to(plan.device, **contiguous)
        unet = loading.load(base, "unet", plan.dtype).to(plan.device, **contiguous)
        self.parameters = _add_adapter(unet, run)
        optimizer = torch.optim.AdamW(
            self.parameters,
            lr=task.peer_learning_rate,
            betas=(0.9, 0.999),
            weight_decay=1e-2,
            eps=1e-8,
        )
        schedule = get_scheduler(
            "constant",
            optimizer=optimizer,
            num_warmup_steps=0,
            num_training_steps=run.train_steps,
        )
        loader = _loader(task.folder, run.resolution, run.train_batch_size)
        prepared = self.accelerator.prepare(unet, optimizer, loader, schedule)
        self.unet, self.optimizer, self.loader, self.schedule = prepared

    def step(self, pixels: torch.Tensor, texts: list[str], sizes: list[tuple[int, int]]) -> None:
        """One optimizer step on ``pixels`` (n, 3, h, w)."""
        accelerator = self.accelerator
        with accelerator.accumulate(self.unet):
            accelerator.backward(self._loss(pixels, texts, sizes))
            accelerator.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()

    def _loss(
        self, pixels: torch.Tensor, texts: list[str], sizes: list[tuple[int, int]]
    ) -> torch.Tensor:
        dtype, side = self.run.plan.dtype, self.run.resolution
        latents = self.vae.encode(pixels.float()).latent_dist.sample()
        latents = (latents * self.vae.config.scaling_factor).to(dtype)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(
            0,
            self.noise_scheduler.config.num_train_timesteps,
            (len(latents),),
            device=latents.device,
        ).long()
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)

        device = self.accelerator.device
        with torch.no_grad():
            embeds = self.text_pipeline.encode_prompt(
                prompt=texts,
                device=device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
        time_ids = torch.tensor(
            [[*size, 0, 0, side, side] for size in sizes], device=device, dtype=dtype
        )
        added = {}
        if len(embeds) == 4:  # with pooled embeddings
            added["added_cond_kwargs"] = {"time_ids": time_ids, "text_embeds": embeds[2]}
        noise_pred = self.unet(noisy, timesteps, embeds[0], return_dict=False, **added)[0]
        return torch.nn.functional.mse_loss(noise_pred.float(), noise.float(), reduction="mean")

    def lora(self) -> dict[str, torch.Tensor]:
        """The LoRA as peft names it."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.accelerator.unwrap_model(self.unet))
        return {name: tensor.contiguous() for name, tensor in state.items()}


def _add_adapter(unet: torch.nn.Module, run: Run) -> list[torch.nn.Parameter]:
    """Put the script's LoRA into ``unet``; its parameters, in fp32."""
    from peft import LoraConfig

    targets = run.base.lora_targets
    config = LoraConfig(
        r=run.rank,
        lora_alpha=run.rank,
        init_lora_weights="gaussian",
        # a list holds suffixes, a string a regular expression
        target_modules=list(targets) if len(targets) > 1 else targets[0],
    )
    unet.add_adapter(config)
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    return parameters


class _Pictures(torch.utils.data.Dataset):
    """(pixels, caption, size) of each row of ``metadata.csv``."""

    def __init__(self, folder: Path, resolution: int) -> None:
        from torchvision import transforms

        self.folder = folder
        with (folder / "metadata.csv").open(encoding="utf-8", newline="") as lines:
            self.rows = list(csv.DictReader(lines))
        lanczos = transforms.InterpolationMode.LANCZOS
        self.transform = transforms.Compose(
            [
                transforms.Resize(resolution, interpolation=lanczos),
                transforms.CenterCrop(resolution),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str, tuple[int, int]]:
        from PIL import Image

        row = self.rows[index]
        with Image.open(self.folder / row["image"]) as image:
            pixels = self.transform(image.convert("RGB"))
            return pixels, row["prompt"], (image.height, image.width)


def _loader(folder: Path, resolution: int, batch_size: int) -> torch.utils.data.DataLoader:
    def collate(items: list) -> tuple[torch.Tensor, list[str], list[tuple[int, int]]]:
        pixels, texts, sizes = zip(*items, strict=True)
        return torch.stack(pixels), list(texts), list(sizes)

    return torch.utils.data.DataLoader(
        _Pictures(folder, resolution),
        shuffle=True,
        collate_fn=collate,
        batch_size=batch_size,
        num_workers=0,
    )


CONTENDERS = {"ours": ours, "diffusers": diffusers, "diffsynth": diffsynth}
