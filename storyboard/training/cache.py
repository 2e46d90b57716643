"""Latents and text embeddings of a whole set, computed once, kept as safetensors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from .. import artifacts
from ..bases import Base
from ..dataset import Captions
from ..errors import TrainingError
from ..quiet import quiet
from ..settings import Settings
from .diffsynth_kolors import KolorsTrainingPipeline

BATCH = 16
MAX_RATIO = 2.0  # of a bucket's longer to its shorter side


@dataclass(frozen=True)
class Cache:
    """What the UNet is trained on.

    Attributes:
        latents: For each bucket (h, w in pixels) a tensor (n, 4, h / 8, w / 8).
        time_ids: For each bucket (n, 6): original h, w, crop top, left, target h, w in pixels.
        captions: For each bucket (n,) indices into the embeddings.
        prompt_embeds: (c, text_length, d), one for each different caption; the first is the empty caption's.
        pooled_prompt_embeds: (c, d).
    """

    latents: dict[tuple[int, int], torch.Tensor]
    time_ids: dict[tuple[int, int], torch.Tensor]
    captions: dict[tuple[int, int], torch.Tensor]
    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor

    def __len__(self) -> int:
        return sum(len(tensor) for tensor in self.latents.values())

    def save(self, path: Path) -> None:
        tensors = {"prompt_embeds": self.prompt_embeds, "pooled_prompt_embeds": self.pooled_prompt_embeds}
        for (height, width), latents in self.latents.items():
            bucket = height, width
            tensors |= {f"{height}x{width}.{part}": getattr(self, part)[bucket] for part in ("latents", "time_ids", "captions")}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> "Cache":
        tensors = load_file(path)
        parts: dict[str, dict] = {"latents": {}, "time_ids": {}, "captions": {}}
        for name, tensor in tensors.items():
            if "." in name:
                size, part = name.split(".")
                height, width = map(int, size.split("x"))
                parts[part][height, width] = tensor
        return cls(**parts, prompt_embeds=tensors["prompt_embeds"], pooled_prompt_embeds=tensors["pooled_prompt_embeds"])


def buckets(resolution: int, step: int) -> list[tuple[int, int]]:
    """(h, w) of about ``resolution**2`` pixels, sides multiples of ``step``, at most MAX_RATIO long: NovelAI's aspect buckets."""
    found = {(resolution, resolution)}
    for width in range(step, 2 * resolution + 1, step):
        height = round(resolution**2 / width / step) * step
        if height and max(width, height) / min(width, height) <= MAX_RATIO:
            found |= {(height, width), (width, height)}
    return sorted(found)


def fit(image: Image.Image, choices: list[tuple[int, int]]) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """Scale to cover the bucket of nearest aspect ratio and cut the middle -> pixels (h, w, 3), bucket, crop (top, left)."""
    height, width = min(choices, key=lambda bucket: abs(np.log(bucket[1] / bucket[0]) - np.log(image.width / image.height)))
    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    scaled = image.resize(size, Image.LANCZOS).crop((left, top, left + width, top + height))
    return np.asarray(scaled), (height, width), (top, left)


def prepare(captions: Captions, settings: Settings, base: Base, device: str, dtype: torch.dtype) -> Cache:
    """The cache of ``captions``, from ``<output>/cache`` if it was made before."""
    target = settings.folder / "cache"
    mark = artifacts.fingerprint(
        stage="cache", captions=captions.digest, base=base.fingerprint(), resolution=settings.resolution, dtype=str(dtype),
        versions=artifacts.versions("torch", "diffusers", "diffsynth"),
    )
    if not artifacts.finished(target, mark):
        cache = _encode(captions, settings, base, device, dtype)
        with artifacts.building(target) as folder:
            cache.save(folder / "cache.safetensors")
            artifacts.write_manifest(folder, "cache", mark, pictures=len(cache))
    return Cache.load(target / "cache.safetensors")


def _encode(captions: Captions, settings: Settings, base: Base, device: str, dtype: torch.dtype) -> Cache:
    choices = buckets(settings.resolution, base.resolution_step)
    texts = ["", *sorted({row["text"] for row in captions.rows} - {""})]
    number = {text: index for index, text in enumerate(texts)}

    pipe = KolorsTrainingPipeline.load(base, ("text_encoder",), device, dtype)
    encoded = [pipe.encode_prompts(texts[i:i + BATCH]) for i in range(0, len(texts), BATCH)]
    embeds, pooled = (torch.cat([part[key].cpu() for part in encoded]) for key in ("prompt_embeds", "pooled_prompt_embeds"))

    pipe = KolorsTrainingPipeline.load(base, ("vae",), device, dtype)
    with quiet():
        pipe.vae.to(memory_format=torch.channels_last)
    waiting: dict[tuple[int, int], list] = {}
    parts: dict[str, dict] = {"latents": {}, "time_ids": {}, "captions": {}}

    def encode(bucket: tuple[int, int]) -> None:
        pixels, time_ids, indices = zip(*waiting.pop(bucket))
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = pipe.encode_images(images.contiguous(memory_format=torch.channels_last)).cpu()
        if not torch.isfinite(latents).all():
            raise TrainingError(f"The VAE of {base.name!r} gave latents that are not finite: its weights are damaged, get them again.")
        for part, value in (("latents", latents), ("time_ids", torch.tensor(time_ids, dtype=torch.float32)), ("captions", torch.tensor(indices))):
            parts[part].setdefault(bucket, []).append(value)

    for row in captions.rows:
        with Image.open(captions.path(row)) as image:
            pixels, bucket, crop = fit(image.convert("RGB"), choices)
        # the size that the picture is drawn at, not the file's: a LoRA of small files should not learn "upscaled"
        waiting.setdefault(bucket, []).append((pixels, (*bucket, *crop, *bucket), number[row["text"]]))
        if len(waiting[bucket]) == BATCH:
            encode(bucket)
    for bucket in list(waiting):
        encode(bucket)
    joined = {part: {bucket: torch.cat(values) for bucket, values in by_bucket.items()} for part, by_bucket in parts.items()}
    return Cache(**joined, prompt_embeds=embeds, pooled_prompt_embeds=pooled)
