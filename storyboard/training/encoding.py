"""Pictures -> latents, by the VAE, in buckets of about the same number of pixels."""

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from storyboard import images
from storyboard.compat.quiet import quiet
from storyboard.data.captions import Captions
from storyboard.errors import TrainingError
from storyboard.models.loading import check_layouts, damaged
from storyboard.models.run import Run
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.pipeline import TrainingPipeline

Bucket = tuple[int, int]  # height and width in pixels
Parts = dict[str, dict[Bucket, torch.Tensor]]  # of PARTS

# at once through the VAE; more do not fit a CPU's caches
PIXELS_PER_BATCH = {"cuda": 16 * 256 * 256, "mps": 256 * 256, "cpu": 256 * 256}
PARTS = ("latents", "time_ids", "captions")


@dataclass(frozen=True)
class Share:
    """Pictures that one process encodes.

    Attributes:
        paths: Of the pictures.
        captions: For each the index of its caption's embedding.
    """

    paths: list[Path]
    captions: list[int]


def shares(captions: Captions, texts: Sequence[str], size: int | None = None) -> list[Share]:
    """All pictures in the order of their rows.

    Args:
        texts: Of the embeddings.
        size: Pictures of a share; None makes one of all. Those of another share are in other
            batches, which may round otherwise.
    """
    index = {text: i for i, text in enumerate(texts)}
    size = size or len(captions)
    parts = [captions.rows[first : first + size] for first in range(0, len(captions), size)]
    return [
        Share([captions.path(row) for row in rows], [index[row.text] for row in rows])
        for rows in parts
    ]


def joined(parts: Iterable[Parts]) -> Parts:
    """One after another; of ``parts`` nothing else is held meanwhile."""
    by_part: dict[str, dict[Bucket, list]] = {name: defaultdict(list) for name in PARTS}
    for each in parts:
        for name, by_bucket in each.items():
            for bucket, tensor in by_bucket.items():
                by_part[name][bucket].append(tensor)
    return {
        name: {bucket: torch.cat(by_bucket.pop(bucket)).contiguous() for bucket in list(by_bucket)}
        for name, by_bucket in by_part.items()
    }


def buckets(
    resolution: int, step: int, max_ratio: float = Hyperparameters.max_bucket_ratio
) -> list[Bucket]:
    """Sizes of about ``resolution**2`` pixels, sides multiples of ``step``: aspect ratio buckets.

    As NovelAI's (https://blog.novelai.net/novelai-improvements-on-stable-diffusion-e10d38db82ac).

    Args:
        max_ratio: Of the longer to the shorter side.
    """
    sizes = {(resolution, resolution)}
    for width in range(step, 2 * resolution + 1, step):
        height = round(resolution**2 / width / step) * step
        if height and max(width, height) / min(width, height) <= max_ratio:
            sizes |= {(height, width), (width, height)}
    return sorted(sizes)


def fit(
    image: Image.Image, choices: Sequence[Bucket]
) -> tuple[np.ndarray, Bucket, tuple[int, int]]:
    """Scale to cover the bucket of nearest aspect ratio and crop to its middle.

    Returns:
        Pixels (h, w, 3), the bucket, and the crop's top and left in pixels.
    """
    aspect = np.log(image.width / image.height)
    height, width = min(choices, key=lambda size: abs(np.log(size[1] / size[0]) - aspect))

    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    cropped = image.resize(size, Image.LANCZOS).crop((left, top, left + width, top + height))
    return np.asarray(cropped), (height, width), (top, left)


@dataclass
class _Pending:
    """Pictures of one bucket that wait for the VAE."""

    pixels: list[np.ndarray] = field(default_factory=list)
    time_ids: list[tuple[int, ...]] = field(default_factory=list)
    captions: list[int] = field(default_factory=list)


class Encoder:
    """Encodes shares of a run's pictures; the VAE is loaded for the first."""

    def __init__(self, run: Run) -> None:
        self.run = run
        ratio = Hyperparameters.of(run).max_bucket_ratio
        self.buckets = buckets(run.resolution, run.base.resolution_step, ratio)

    @functools.cached_property
    def pipe(self) -> TrainingPipeline:
        check_layouts(self.run.base)
        plan = self.run.plan
        pipe = TrainingPipeline.load(self.run.base, ("vae",), plan.device, plan.dtype)
        with quiet():
            pipe.vae.to(memory_format=torch.channels_last)
        return pipe

    def __call__(self, share: Share) -> Parts:
        """Latents (n, 4, h / 8, w / 8), time ids (n, 6) and captions (n,) of each bucket.

        Raises:
            TrainingError: The VAE gives values that are not finite.
        """
        pending: dict[Bucket, _Pending] = defaultdict(_Pending)
        done: list[Parts] = []
        for path, caption in zip(share.paths, share.captions, strict=True):
            pixels, bucket, crop = fit(images.read(path).image, self.buckets)
            batch = pending[bucket]
            batch.pixels.append(pixels)
            # the original size is given as the bucket's, not the file's: otherwise a LoRA of small
            # files would learn what SDXL takes for scaled up
            batch.time_ids.append((*bucket, *crop, *bucket))
            batch.captions.append(caption)
            area = bucket[0] * bucket[1]
            if (len(batch.pixels) + 1) * area > PIXELS_PER_BATCH[self.run.plan.device]:
                done.append(self._encoded(bucket, pending.pop(bucket)))
        done += [self._encoded(bucket, batch) for bucket, batch in pending.items()]
        return joined(done)

    def _encoded(self, bucket: Bucket, batch: _Pending) -> Parts:
        tensors: Mapping[str, torch.Tensor] = {
            "latents": self._latents(batch.pixels),
            "time_ids": torch.tensor(batch.time_ids, dtype=torch.float32),
            "captions": torch.tensor(batch.captions),
        }
        return {name: {bucket: tensor} for name, tensor in tensors.items()}

    def _latents(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """Pixels (h, w, 3) of several pictures -> latents (n, 4, h / 8, w / 8) on the CPU."""
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        given = images.contiguous(memory_format=torch.channels_last)
        latents = self.pipe.encode_images(given).cpu()
        if not torch.isfinite(latents).all():
            where = damaged({"vae": self.pipe.vae})
            raise TrainingError(
                f"The VAE of {self.run.base.name!r} gave latents that are not finite"
                f"{f' ({where})' if where else ''}: its weights are damaged, get them again."
            )
        return latents
