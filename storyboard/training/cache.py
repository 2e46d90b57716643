"""Latents of a whole set, computed once, kept as safetensors, with the captions' embeddings."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from storyboard import artifacts
from storyboard.compat.quiet import quiet
from storyboard.data.captions import Captions
from storyboard.errors import TrainingError
from storyboard.models import conditioning
from storyboard.models.run import Run
from storyboard.prompts import literal
from storyboard.training.pipeline import TrainingPipeline

PIXELS_A_BATCH = {
    "cuda": 16 * 256 * 256,
    "cpu": 2 * 256 * 256,
}  # through the VAE; more do not fit a CPU's caches
MAX_RATIO = 2.0  # of a bucket's longer to its shorter side


@dataclass(frozen=True)
class Cache:
    """What the UNet is trained on.

    Attributes:
        latents: For each bucket (h, w in pixels) a tensor (n, 4, h / 8, w / 8).
        time_ids: For each bucket (n, 6): original h, w, crop top, left, target h, w in pixels.
        captions: For each bucket (n,) indices into the embeddings.
        embeddings: One for each different caption, read from disk as they are used; the first is the empty caption's.
    """

    latents: dict[tuple[int, int], torch.Tensor]
    time_ids: dict[tuple[int, int], torch.Tensor]
    captions: dict[tuple[int, int], torch.Tensor]
    embeddings: list[conditioning.Embedding]

    def __len__(self) -> int:
        return sum(len(tensor) for tensor in self.latents.values())


def buckets(resolution: int, step: int) -> list[tuple[int, int]]:
    """(h, w) of about ``resolution**2`` pixels, sides multiples of ``step``, at most MAX_RATIO long: NovelAI's aspect buckets."""
    found = {(resolution, resolution)}
    for width in range(step, 2 * resolution + 1, step):
        height = round(resolution**2 / width / step) * step
        if height and max(width, height) / min(width, height) <= MAX_RATIO:
            found |= {(height, width), (width, height)}
    return sorted(found)


def fit(
    image: Image.Image, choices: list[tuple[int, int]]
) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """Scale to cover the bucket of nearest aspect ratio and cut the middle -> pixels (h, w, 3), bucket, crop (top, left)."""
    height, width = min(
        choices,
        key=lambda bucket: abs(np.log(bucket[1] / bucket[0]) - np.log(image.width / image.height)),
    )
    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    scaled = image.resize(size, Image.LANCZOS).crop((left, top, left + width, top + height))
    return np.asarray(scaled), (height, width), (top, left)


def prepare(captions: Captions, run: Run, prompts: Iterable[str] = ()) -> Cache:
    """The cache of ``captions``, from ``<output>/cache`` if it was made before.

    Args:
        prompts: Encoded together with the captions, while the text encoders are there.
    """
    texts = ["", *sorted({row.text for row in captions.rows} - {""})]
    said = conditioning.encode(run, prompts, captions=texts)
    target = run.folder / "cache" / "latents"
    mark = artifacts.fingerprint(
        stage="latents",
        captions=captions.digest,
        base=run.base_fingerprint,
        resolution=run.resolution,
        precision=run.plan.precision,
        versions=artifacts.versions("torch", "diffusers", "diffsynth"),
    )
    if not artifacts.finished(target, mark):
        parts = _encode(captions, run, {text: index for index, text in enumerate(texts)})
        with artifacts.building(target) as folder:
            tensors = {
                f"{height}x{width}.{part}": tensor
                for part, by_bucket in parts.items()
                for (height, width), tensor in by_bucket.items()
            }
            save_file(tensors, folder / "latents.safetensors")
            artifacts.write_manifest(
                folder, "latents", mark, pictures=sum(map(len, parts["latents"].values()))
            )
    return Cache(
        **_load(target / "latents.safetensors"), embeddings=[said[literal(text)] for text in texts]
    )


def _load(path: Path) -> dict[str, dict[tuple[int, int], torch.Tensor]]:
    parts: dict[str, dict] = {"latents": {}, "time_ids": {}, "captions": {}}
    for name, tensor in load_file(path).items():
        size, part = name.split(".")
        height, width = map(int, size.split("x"))
        parts[part][height, width] = tensor
    return parts


def _encode(
    captions: Captions, run: Run, number: dict[str, int]
) -> dict[str, dict[tuple[int, int], torch.Tensor]]:
    choices = buckets(run.resolution, run.base.resolution_step)
    pipe = TrainingPipeline.load(run.base, ("vae",), run.plan.device, run.plan.dtype)
    with quiet():
        pipe.vae.to(memory_format=torch.channels_last)
    waiting: dict[tuple[int, int], list] = {}
    parts: dict[str, dict] = {"latents": {}, "time_ids": {}, "captions": {}}

    def encode(bucket: tuple[int, int]) -> None:
        pixels, time_ids, indices = zip(*waiting.pop(bucket))
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = pipe.encode_images(images.contiguous(memory_format=torch.channels_last)).cpu()
        if not torch.isfinite(latents).all():
            raise TrainingError(
                f"The VAE of {run.base.name!r} gave latents that are not finite: its weights are damaged, get them again."
            )
        for part, value in (
            ("latents", latents),
            ("time_ids", torch.tensor(time_ids, dtype=torch.float32)),
            ("captions", torch.tensor(indices)),
        ):
            parts[part].setdefault(bucket, []).append(value)

    for row in captions.rows:
        with Image.open(captions.path(row)) as image:
            pixels, bucket, crop = fit(image.convert("RGB"), choices)
        # the size that the picture is drawn at, not the file's: a LoRA of small files should not learn "upscaled"
        waiting.setdefault(bucket, []).append(
            (pixels, (*bucket, *crop, *bucket), number[row.text])
        )
        if (len(waiting[bucket]) + 1) * bucket[0] * bucket[1] > PIXELS_A_BATCH[run.plan.device]:
            encode(bucket)
    for bucket in list(waiting):
        encode(bucket)
    return {
        part: {bucket: torch.cat(values).contiguous() for bucket, values in by_bucket.items()}
        for part, by_bucket in parts.items()
    }
