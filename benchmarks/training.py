"""How fast is a LoRA trained?  python -m benchmarks.training [--base mini] [--samples 3600]

Ours against DiffSynth-Studio's own loop and against the settings of diffusers' SDXL LoRA script, each alone in a
process of its own, on the same pictures, weights, modules, rank, resolution, precision and number of samples seen.
Every tenth picture of the cleaned sample set is held out; on these, with fixed noise and timesteps, all are measured
by the same mean squared error of the noise. Start-up (imports and loading) and caching count, and are shown apart;
measuring the loss does not count. ``--base sd15-tiny`` and its like are tiny random weights, to see that all runs.
The last line is JSON.

DiffSynth: ``launch_training_task`` as it is, with its data set class and a training module like its example's, batch 1.
diffusers: ``examples/text_to_image/train_text_to_image_lora_sdxl.py`` written out, with the batch size of ours.
Learning rates are each one's own default: 1e-4 constant for the peers; ``--peer-learning-rate`` gives them another.
"""

import argparse
import csv
import json
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import side_by_side
from benchmarks.side_by_side import BEGAN
from storyboard.models.run import run_on

MARKS = 8  # measurements of the validation loss along the way
DRAWS = 8  # of noise and timestep for a held-out picture
TITLES = {"ours": "storyboard", "diffusers": "diffusers' script", "diffsynth": "DiffSynth's loop"}


class Validation:
    """The loss on held-out pictures: fixed noise, timesteps spread evenly; and what it cost."""

    def __init__(self, settings, folder: Path, samples: int) -> None:
        import torch

        from storyboard.data.captions import Captions
        from storyboard.models import bases, memory
        from storyboard.training import cache
        from storyboard.training.pipeline import TrainingPipeline

        began = time.perf_counter()
        self.base = bases.get(settings.base)
        plan = memory.plan(self.base, settings)
        self.cached = cache.prepare(
            Captions.load(folder),
            replace(
                run_on(self.base, settings.but(output=str(folder.parent / "validation-cache"))),
                plan=plan,
            ),
        )
        self.pipe = TrainingPipeline(self.base, plan.device, plan.dtype)
        generator = torch.Generator().manual_seed(0)
        spread = (
            (torch.arange(DRAWS) + torch.rand(DRAWS, generator=generator))
            / DRAWS
            * self.base.num_train_timesteps
        ).long
        self.fixed = {
            bucket: [
                (torch.randn(DRAWS, *latents.shape[1:], generator=generator), spread())
                for _ in latents
            ]
            for bucket, latents in sorted(self.cached.latents.items())
        }
        self.marks = {round(samples * mark / MARKS) for mark in range(1, MARKS + 1)}
        self.curve: list[tuple[float, float]] = []  # the clock without what measuring cost, loss
        self.cost = time.perf_counter() - began

    def loss(self, unet) -> float:
        import torch

        from storyboard.training import loop

        self.pipe.unet = unet
        cached, device, values = self.cached, self.pipe.device, []
        with torch.no_grad():
            for bucket, fixed in self.fixed.items():
                for place, (noise, timesteps) in enumerate(fixed):
                    caption = cached.embeddings[cached.captions[bucket][place]]
                    said = {
                        "prompt_embeds": caption.tokens,
                        "pooled_prompt_embeds": caption.pooled,
                        "add_time_ids": cached.time_ids[bucket][place],
                    }
                    said = {
                        name: tensor.expand(DRAWS, *tensor.shape).to(device)
                        for name, tensor in said.items()
                    }
                    latents = cached.latents[bucket][place].expand(DRAWS, -1, -1, -1)
                    values.append(
                        loop.diffusion_loss(
                            self.pipe,
                            latents.to(device),
                            noise.to(device),
                            timesteps.to(device),
                            **said,
                        ).item()
                    )
        return sum(values) / len(values)

    def seen(self, samples: int, unet) -> None:
        """Told after every step; measures when it is time to."""
        if mark := min(self.marks, default=None):
            if samples >= mark:
                self.marks = {other for other in self.marks if other > samples}
                began = time.perf_counter()
                self.curve.append((began - self.cost, self.loss(unet)))
                self.cost += time.perf_counter() - began


def run(name: str, arguments: argparse.Namespace) -> dict:
    """One contender, in this process."""
    import torch

    from storyboard import Settings
    from storyboard.models import bases, memory

    folder = arguments.output / "benchmark-training"
    settings = Settings(
        base=arguments.base,
        output=str(side_by_side.fresh(folder / name)),
        train_batch_size=arguments.batch,
        resolution=arguments.resolution,
    )
    settings = settings.but(train_steps=-(-arguments.samples // settings.train_batch_size))
    base = bases.get(settings.base)
    plan = memory.plan(base, settings)
    torch.manual_seed(settings.seed)
    validate = lambda: Validation(settings, folder / "validation", arguments.samples)
    validation, startup, caching, done = {
        "ours": ours,
        "diffsynth": diffsynth,
        "diffusers": diffusers,
    }[name](base, plan, settings, folder, arguments, validate)
    return {
        "startup_s": startup,
        "caching_s": caching,
        "training_s": done - BEGAN - startup - caching,
        "losses": [loss for _, loss in validation.curve],
        "seconds": [seconds - BEGAN for seconds, _ in validation.curve],
    }


def ours(base, plan, settings, folder: Path, arguments, validate):
    """What ``storyboard.train`` does, with the loss measured along the way; returns, as all, what measured, seconds of start-up and of caching, and the clock at the end.

    Args:
        validate: Called when all is loaded; gives a Validation, or what has ``seen`` and ``cost`` as it does.
    """

    from storyboard.data.captions import Captions
    from storyboard.lora import file as lora
    from storyboard.training import cache, loop
    from storyboard.training.pipeline import TrainingPipeline
    from storyboard.training.stage import inject

    captions = Captions.load(folder / "train")
    began = time.perf_counter()
    cached = cache.prepare(captions, replace(run_on(base, settings), plan=plan))
    caching = time.perf_counter() - began
    pipe = TrainingPipeline.load(base, ("unet",), plan.device, plan.dtype)
    inject(pipe, settings)
    startup = time.perf_counter() - BEGAN - caching
    validation = validate()
    watch = lambda step: validation.seen(step.number * settings.train_batch_size, pipe.unet)
    state = loop.optimise(
        pipe,
        cached,
        settings,
        settings.folder,
        settings.folder / "state.safetensors",
        plan.train_micro_batch_size,
        watch,
    )
    lora.save(settings.folder / "lora.safetensors", state, settings.alpha, {})
    return validation, startup, caching, time.perf_counter() - validation.cost


def diffsynth(base, plan, settings, folder: Path, arguments, validate):
    from accelerate import Accelerator
    from diffsynth.diffusion.logger import ModelLogger
    from diffsynth.diffusion.runner import launch_training_task

    from benchmarks import diffsynth_peer

    accelerator = Accelerator(cpu=plan.device == "cpu")
    module = diffsynth_peer.TrainingModule(
        base, settings.rank, base.lora_targets, plan.dtype, plan.device
    )
    data = diffsynth_peer.data_set(folder / "train", settings.resolution, arguments.samples)
    startup = time.perf_counter() - BEGAN
    validation = validate()

    class Logger(ModelLogger):
        def on_step_end(self, accelerator, model, save_steps=None, **kwargs):
            super().on_step_end(accelerator, model, save_steps, **kwargs)
            validation.seen(self.num_steps, module.pipe.unet)

    logger = Logger(str(settings.folder), remove_prefix_in_ckpt="pipe.unet.")
    launch_training_task(
        accelerator, data, module, logger, learning_rate=arguments.peer_learning_rate, num_workers=0
    )
    return validation, startup, 0.0, time.perf_counter() - validation.cost


def diffusers(base, plan, settings, folder: Path, arguments, validate):
    """examples/text_to_image/train_text_to_image_lora_sdxl.py of diffusers 0.42: everything encoded in the loop."""
    import torch
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from peft import LoraConfig, get_peft_model_state_dict
    from PIL import Image
    from safetensors.torch import save_file
    from torch.utils.data import DataLoader
    from torchvision import transforms

    from benchmarks import diffsynth_peer
    from storyboard.models import loading as models

    mixed = {"fp32": "no"}.get(plan.precision, plan.precision)
    accelerator = Accelerator(mixed_precision=mixed, cpu=plan.device == "cpu")
    noise_scheduler = DDPMScheduler(
        num_train_timesteps=base.num_train_timesteps,
        beta_start=base.beta_start,
        beta_end=base.beta_end,
        beta_schedule="scaled_linear",
    )
    words = diffsynth_peer.text_pipeline(base, plan.dtype, plan.device)
    vae = models.load(base, "vae", torch.float32).to(
        plan.device, memory_format=torch.contiguous_format
    )
    unet = models.load(base, "unet", plan.dtype).to(
        plan.device, memory_format=torch.contiguous_format
    )
    targets = (
        list(base.lora_targets) if len(base.lora_targets) > 1 else base.lora_targets[0]
    )  # a list holds suffixes, a string an expression
    unet.add_adapter(
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.rank,
            init_lora_weights="gaussian",
            target_modules=targets,
        )
    )
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    look = transforms.Compose(
        [
            transforms.Resize(
                settings.resolution, interpolation=transforms.InterpolationMode.LANCZOS
            ),
            transforms.CenterCrop(settings.resolution),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    with open(folder / "train" / "metadata.csv", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, place: int):
            with Image.open(folder / "train" / rows[place]["image"]) as image:
                return (
                    look(image.convert("RGB")),
                    rows[place]["prompt"],
                    (image.height, image.width),
                )

    collate = lambda items: (
        torch.stack([pixels for pixels, _, _ in items]),
        [text for _, text, _ in items],
        [size for _, _, size in items],
    )
    loader = DataLoader(
        Pictures(),
        shuffle=True,
        collate_fn=collate,
        batch_size=settings.train_batch_size,
        num_workers=0,
    )
    optimizer = torch.optim.AdamW(
        parameters, lr=arguments.peer_learning_rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8
    )
    schedule = get_scheduler(
        "constant", optimizer=optimizer, num_warmup_steps=0, num_training_steps=settings.train_steps
    )
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
    startup = time.perf_counter() - BEGAN
    validation = validate()
    side, samples = settings.resolution, 0
    while samples < arguments.samples:
        for pixels, texts, sizes in loader:
            with accelerator.accumulate(unet):
                latents = (
                    vae.encode(pixels.float()).latent_dist.sample() * vae.config.scaling_factor
                ).to(plan.dtype)
                noise = torch.randn_like(latents)
                timesteps = torch.randint(
                    0,
                    noise_scheduler.config.num_train_timesteps,
                    (len(latents),),
                    device=latents.device,
                ).long()
                noisy = noise_scheduler.add_noise(latents, noise, timesteps)
                with torch.no_grad():
                    said = words.encode_prompt(
                        prompt=texts,
                        device=accelerator.device,
                        num_images_per_prompt=1,
                        do_classifier_free_guidance=False,
                    )
                ids = torch.tensor(
                    [[*size, 0, 0, side, side] for size in sizes],
                    device=accelerator.device,
                    dtype=plan.dtype,
                )
                added = (
                    {"added_cond_kwargs": {"time_ids": ids, "text_embeds": said[2]}}
                    if len(said) == 4
                    else {}
                )
                predicted = unet(noisy, timesteps, said[0], return_dict=False, **added)[0]
                loss = torch.nn.functional.mse_loss(
                    predicted.float(), noise.float(), reduction="mean"
                )
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            samples += len(texts)
            validation.seen(samples, unet)
            if samples >= arguments.samples:
                break
    save_file(
        {
            name: tensor.contiguous()
            for name, tensor in get_peft_model_state_dict(accelerator.unwrap_model(unet)).items()
        },
        settings.folder / "lora.safetensors",
    )
    return validation, startup, 0.0, time.perf_counter() - validation.cost


def split(arguments: argparse.Namespace, folder: Path) -> tuple[int, int]:
    """The cleaned sample set as two Captions folders, every tenth picture held out -> how many in each."""
    from storyboard import Settings, clean, collect
    from storyboard.data.cleaning import write

    settings = Settings(
        base=arguments.base, output=str(arguments.output / "benchmark-training" / "data")
    )
    captions = clean(collect(settings), settings).captions
    counts = []
    for name, rows in (
        ("train", [row for place, row in enumerate(captions.rows) if place % 10]),
        ("validation", captions.rows[::10]),
    ):
        write(
            replace(captions, rows=rows),
            {row.id: row.text for row in rows},
            side_by_side.fresh(folder / name),
        )
        counts.append(len(rows))
    return tuple(counts)


def arithmetic(arguments: argparse.Namespace) -> float:
    """Floating point operations of a training step for one picture, counted by PyTorch."""
    from torch.utils.flop_counter import FlopCounterMode

    from storyboard import Settings
    from storyboard.data.captions import Captions
    from storyboard.models import bases, memory
    from storyboard.training import cache, loop
    from storyboard.training.pipeline import TrainingPipeline
    from storyboard.training.stage import inject

    settings = Settings(
        base=arguments.base,
        output=str(arguments.output / "benchmark-training" / "ours"),
        train_batch_size=arguments.batch,
        resolution=arguments.resolution,
    )
    base = bases.get(settings.base)
    plan = memory.plan(base, settings)
    cached = cache.prepare(
        Captions.load(arguments.output / "benchmark-training" / "train"),
        replace(run_on(base, settings), plan=plan),
    )
    pipe = TrainingPipeline.load(base, ("unet",), plan.device, plan.dtype)
    inject(pipe, settings)
    bucket, indices = loop.batches(cached, settings.train_batch_size, 0, 0)[0]
    with FlopCounterMode(display=False) as counter:
        loop.diffusion_loss(pipe, **loop.draw_batch(cached, bucket, indices, pipe, 0, 0)).backward()
    return counter.get_total_flops() / len(indices)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="mini")
    parser.add_argument(
        "--samples",
        type=int,
        help="pictures seen in training, repetitions counted; as many as the base's default training sees if it is not given",
    )
    parser.add_argument(
        "--batch",
        type=int,
        help="of ours and of diffusers' script; the base's default if it is not given",
    )
    parser.add_argument("--peer-learning-rate", type=float, default=1e-4)
    parser.add_argument("--resolution", type=int, help="the base's own if it is not given")
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    parser.add_argument("--contender", choices=TITLES, help="run this one alone, in this process")
    arguments = parser.parse_args()
    arguments.base = side_by_side.base_named(
        arguments.base, arguments.output / "benchmark-training"
    )
    if arguments.contender:
        print(json.dumps(run(arguments.contender, arguments)))
        return

    from storyboard import Settings
    from storyboard.models import bases, memory

    settings = Settings(base=arguments.base)
    arguments.samples = arguments.samples or settings.train_steps * settings.train_batch_size
    train, held_out = split(arguments, arguments.output / "benchmark-training")
    passed = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in vars(arguments).items()
        if value is not None and name != "contender"
    ]
    found = {name: side_by_side.contender("benchmarks.training", name, *passed) for name in TITLES}
    target = found["diffsynth"]["losses"][-1]
    rows = []
    for name, one in found.items():
        total = one["startup_s"] + one["caching_s"] + one["training_s"]
        reached = next(
            (seconds for seconds, loss in zip(one["seconds"], one["losses"]) if loss <= target),
            None,
        )
        one |= {"rate": arguments.samples / total, "reached": reached}
        rows.append(
            {
                "": TITLES[name],
                "start-up s": one["startup_s"],
                "caching s": one["caching_s"],
                "training s": one["training_s"],
                "images/s": one["rate"],
                "training alone": arguments.samples / one["training_s"],
                f"s to loss {target:.4f}": reached,
                "final loss": f"{one['losses'][-1]:.4f}",
            }
        )
    dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[
        memory.plan(bases.get(settings.base), settings).precision
    ]
    work, rate = arithmetic(arguments), side_by_side.matrix_rate(dtype)
    print(
        f"\n{side_by_side.machine()}\n{arguments.samples} samples of {train} pictures, {held_out} held out, base {arguments.base}\n\n{side_by_side.table(rows)}\n"
    )
    print(
        f"limit: {work / 1e9:.2f} GFLOP a picture, matrices at {rate / 1e9:,.0f} GFLOP/s ({dtype}): {rate / work:.1f} images/s; ours, training alone: {arguments.samples / found['ours']['training_s'] / (rate / work):.0%} of it\n"
    )
    ours, diffsynth, diffusers = (found[name] for name in ("ours", "diffsynth", "diffusers"))
    print(
        json.dumps(
            {
                "ratio_diffsynth": round(ours["rate"] / diffsynth["rate"], 2),
                "ratio_diffusers": round(ours["rate"] / diffusers["rate"], 2),
                "loss_ours": round(ours["losses"][-1], 4),
                "loss_diffsynth": round(diffsynth["losses"][-1], 4),
                "loss_diffusers": round(diffusers["losses"][-1], 4),
                "ratio_time_to_loss": round(diffsynth["reached"] / ours["reached"], 2)
                if ours["reached"]
                else None,
            }
        )
    )


if __name__ == "__main__":
    main()
