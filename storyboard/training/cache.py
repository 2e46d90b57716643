"""Latents of a whole set, computed once, kept as safetensors, with the captions' embeddings."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from storyboard import artifacts, images
from storyboard.compat.quiet import quiet
from storyboard.data.captions import Captions
from storyboard.errors import ResourceError, TrainingError
from storyboard.models import conditioning
from storyboard.models.loading import check_layouts, damaged
from storyboard.models.run import Run
from storyboard.prompts import literal
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.pipeline import TrainingPipeline

Bucket = tuple[int, int]  # height and width in pixels

# at once through the VAE; more do not fit a CPU's caches
PIXELS_PER_BATCH = {"cuda": 16 * 256 * 256, "mps": 256 * 256, "cpu": 256 * 256}
OWN, PRIOR = "latents", "prior-latents"  # folders in <output>/cache
FILE = "latents.safetensors"
PARTS = ("latents", "time_ids", "captions")  # of the file
NAME = re.compile(r"(\d{1,6})x(\d{1,6})\.(latents|time_ids|captions)")  # of its tensors


@dataclass(frozen=True)
class Cache:
    """What the UNet is trained on.

    Attributes:
        latents: For each bucket a tensor (n, 4, h / 8, w / 8).
        time_ids: For each bucket (n, 6): original h, w, crop top, left, target h, w in pixels.
        captions: For each bucket (n,) indices into the embeddings.
        embeddings: One for each different caption; the first is that of the empty caption.
    """

    latents: dict[Bucket, torch.Tensor]
    time_ids: dict[Bucket, torch.Tensor]
    captions: dict[Bucket, torch.Tensor]
    embeddings: list[conditioning.Embedding]

    def __len__(self) -> int:
        return sum(len(tensor) for tensor in self.latents.values())


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


def prepare(captions: Captions, run: Run, prompts: Iterable[str] = (), name: str = OWN) -> Cache:
    """The cache of ``captions``, from ``<output>/cache`` if it was made before.

    Args:
        prompts: Encoded together with the captions, while the text encoders are loaded.
        name: Of its folder in ``<output>/cache``.

    Raises:
        BaseError, SettingsError: As ``conditioning.encode``.
        TrainingError: The VAE gives values that are not finite.
        ResourceError: The disk does not keep what is written.
    """
    texts = ["", *sorted({row.text for row in captions.rows} - {""})]
    embeddings = conditioning.encode(run, prompts, captions=texts)

    target = run.folder / "cache" / name
    max_ratio = Hyperparameters.of(run).max_bucket_ratio
    fingerprint = artifacts.fingerprint(
        stage="latents",
        captions=captions.digest,
        base=run.base_fingerprint,
        resolution=run.resolution,
        resolution_step=run.base.resolution_step,
        precision=run.plan.precision,
        max_bucket_ratio=max_ratio,
        versions=artifacts.versions("torch", "diffusers", "diffsynth"),
    )
    kept = artifacts.finished(target, fingerprint)
    parts = _read(target, kept, captions, texts) if kept else None
    if kept and parts is None:
        print(f"training: the latents kept in {target} are damaged, they are made again")
    if parts is None:
        choices = buckets(run.resolution, run.base.resolution_step, max_ratio)
        made = _encode(captions, run, texts, choices)
        with artifacts.building(target) as folder:
            _save(made, folder / FILE)
            pictures = sum(map(len, made["latents"].values()))
            digest = artifacts.digest_of_file(folder / FILE)
            facts = {"pictures": pictures, "digest": digest}
            kept = artifacts.write_manifest(folder, "latents", fingerprint, **facts)
        # from the file: the order of buckets is the same in every run
        parts = _read(target, kept, captions, texts)
    if parts is None:
        raise ResourceError(
            f"{target / FILE} does not hold what was written: check the disk and train again."
        )
    return Cache(**parts, embeddings=[embeddings[literal(text)] for text in texts])


def _save(parts: dict[str, dict[Bucket, torch.Tensor]], path: Path) -> None:
    tensors = {
        f"{height}x{width}.{part}": tensor
        for part, by_bucket in parts.items()
        for (height, width), tensor in by_bucket.items()
    }
    save_file(tensors, path)


def _read(
    folder: Path, manifest: dict, captions: Captions, texts: Sequence[str]
) -> dict[str, dict[Bucket, torch.Tensor]] | None:
    """What ``_save`` wrote into ``folder``; None where the file is damaged or holds other things.

    Args:
        manifest: Of the folder. One of an earlier release has no digest of the file.
    """
    path = folder / FILE
    digest = manifest.get("digest")
    if digest is not None and digest != artifacts.digest_of_file(path):
        return None
    try:
        # in memory of their own: a mapped file that is cut off later ends the process
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError):
        return None

    parts: dict[str, dict] = {part: {} for part in PARTS}
    for name, tensor in tensors.items():
        match = NAME.fullmatch(name)
        if match is None:
            return None
        parts[match[3]][int(match[1]), int(match[2])] = tensor
    return parts if _is_whole(parts, len(captions.rows), len(texts)) else None


def _is_whole(parts: dict[str, dict[Bucket, torch.Tensor]], pictures: int, texts: int) -> bool:
    """Whether all parts are there for so many pictures, of the shapes that ``Cache`` names."""
    latents, time_ids, captions = (parts[part] for part in PARTS)
    if not latents.keys() == time_ids.keys() == captions.keys():
        return False
    for bucket, tensor in latents.items():
        indices = captions[bucket]
        if tensor.ndim != 4 or indices.shape != (len(tensor),) or indices.is_floating_point():
            return False
        known = ((indices >= 0) & (indices < texts)).all()
        if not known or time_ids[bucket].shape != (len(tensor), 6):
            return False
        if not torch.isfinite(tensor).all():
            return False
    return sum(map(len, latents.values())) == pictures


@dataclass
class _Pending:
    """Pictures of one bucket that wait for the VAE."""

    pixels: list[np.ndarray] = field(default_factory=list)
    time_ids: list[tuple[int, ...]] = field(default_factory=list)
    captions: list[int] = field(default_factory=list)


def _encode(
    captions: Captions, run: Run, texts: Sequence[str], choices: Sequence[Bucket]
) -> dict[str, dict[Bucket, torch.Tensor]]:
    """Part of the file -> bucket -> tensor."""
    check_layouts(run.base)
    pipe = TrainingPipeline.load(run.base, ("vae",), run.plan.device, run.plan.dtype)
    with quiet():
        pipe.vae.to(memory_format=torch.channels_last)
    index = {text: i for i, text in enumerate(texts)}
    pending: dict[Bucket, _Pending] = defaultdict(_Pending)
    parts: dict[str, dict[Bucket, list]] = {part: defaultdict(list) for part in PARTS}

    def encode(bucket: Bucket) -> None:
        batch = pending.pop(bucket)
        parts["latents"][bucket].append(_latents(pipe, batch.pixels))
        parts["time_ids"][bucket].append(torch.tensor(batch.time_ids, dtype=torch.float32))
        parts["captions"][bucket].append(torch.tensor(batch.captions))

    for row in captions.rows:
        pixels, bucket, crop = fit(images.read(captions.path(row)).image, choices)
        batch = pending[bucket]
        batch.pixels.append(pixels)
        # the original size is given as the bucket's, not the file's: otherwise a LoRA of small
        # files would learn what SDXL takes for scaled up
        batch.time_ids.append((*bucket, *crop, *bucket))
        batch.captions.append(index[row.text])
        area = bucket[0] * bucket[1]
        if (len(batch.pixels) + 1) * area > PIXELS_PER_BATCH[run.plan.device]:
            encode(bucket)
    for bucket in list(pending):
        encode(bucket)
    return {
        part: {bucket: torch.cat(values).contiguous() for bucket, values in by_bucket.items()}
        for part, by_bucket in parts.items()
    }


def _latents(pipe: TrainingPipeline, pixels: Sequence[np.ndarray]) -> torch.Tensor:
    """Pixels (h, w, 3) of several pictures -> latents (n, 4, h / 8, w / 8) on the CPU."""
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = pipe.encode_images(images.contiguous(memory_format=torch.channels_last)).cpu()
    if not torch.isfinite(latents).all():
        where = damaged({"vae": pipe.vae})
        raise TrainingError(
            f"The VAE of {pipe.base.name!r} gave latents that are not finite"
            f"{f' ({where})' if where else ''}: its weights are damaged, get them again."
        )
    return latents
