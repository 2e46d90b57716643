"""Latents of a whole set, computed once, kept as safetensors, with the captions' embeddings."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from storyboard import artifacts
from storyboard.data.captions import Captions
from storyboard.errors import ResourceError
from storyboard.models import conditioning
from storyboard.models.embedding_files import KeptEmbeddings, forget_oldest
from storyboard.models.run import Run
from storyboard.prompts import literal
from storyboard.training.encoding import PARTS, Bucket, Encoder, Parts, joined, shares
from storyboard.training.hyperparameters import Hyperparameters

OWN, PRIOR = "latents", "prior-latents"  # folders in <output>/cache
FILE = "latents.safetensors"
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
    embeddings: Sequence[conditioning.Embedding]

    def __len__(self) -> int:
        return sum(len(tensor) for tensor in self.latents.values())


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
    texts = texts_of(captions)
    paths = conditioning.keep(run, prompts, captions=texts)
    embeddings = KeptEmbeddings([paths[literal(text)] for text in texts], run.base.text_length)
    forget_oldest(run.folder / conditioning.CACHE, set(paths.values()))

    parts = _kept(captions, run, texts, name)
    if parts is None:
        make_latents(captions, run, map(Encoder(run), shares(captions, texts)), name)
        # from the file: the order of buckets is the same in every run
        parts = _kept(captions, run, texts, name)
    if parts is None:
        raise ResourceError(
            f"{run.folder / 'cache' / name / FILE} does not hold what was written: check the disk "
            "and train again."
        )
    return Cache(**parts, embeddings=embeddings)


def texts_of(captions: Captions) -> list[str]:
    """Each different caption, the empty one first: some are left out of steps for it."""
    return ["", *sorted({row.text for row in captions.rows} - {""})]


def make_latents(captions: Captions, run: Run, encoded: Iterable[Parts], name: str = OWN) -> None:
    """Keep the latents of ``captions``.

    Args:
        encoded: What ``Encoder`` makes of all ``shares``, in their order.
        name: As of ``prepare``.
    """
    with artifacts.building(run.folder / "cache" / name) as folder:
        _save(joined(encoded), folder / FILE)
        digest = artifacts.digest_of_file(folder / FILE)
        facts = {"pictures": len(captions), "digest": digest}
        artifacts.write_manifest(folder, "latents", _fingerprint(captions, run), **facts)


def are_made(captions: Captions, run: Run) -> bool:
    """Whether latents were made before; whether their file is whole, ``prepare`` looks."""
    manifest = artifacts.read_manifest(run.folder / "cache" / OWN)
    return manifest is not None and manifest["fingerprint"] == _fingerprint(captions, run)


def _kept(captions: Captions, run: Run, texts: Sequence[str], name: str) -> Parts | None:
    """What ``make_latents`` kept, if it is whole."""
    target = run.folder / "cache" / name
    kept = artifacts.finished(target, _fingerprint(captions, run))
    parts = _read(target, kept, captions, texts) if kept else None
    if kept and parts is None:
        print(f"training: the latents kept in {target} are damaged, they are made again")
    return parts


def _fingerprint(captions: Captions, run: Run) -> str:
    return artifacts.fingerprint(
        stage="latents",
        captions=captions.digest,
        base=run.base_fingerprint,
        resolution=run.resolution,
        resolution_step=run.base.resolution_step,
        precision=run.plan.precision,
        max_bucket_ratio=Hyperparameters.of(run).max_bucket_ratio,
        versions=artifacts.versions("torch", "diffusers", "diffsynth"),
    )


def _save(parts: Parts, path: Path) -> None:
    tensors = {
        f"{height}x{width}.{part}": tensor
        for part, by_bucket in parts.items()
        for (height, width), tensor in by_bucket.items()
    }
    save_file(tensors, path)


def _read(folder: Path, manifest: dict, captions: Captions, texts: Sequence[str]) -> Parts | None:
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


def _is_whole(parts: Parts, pictures: int, texts: int) -> bool:
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
