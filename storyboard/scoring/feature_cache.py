"""Features of pictures beside those of the training set, which are kept on disk."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from storyboard import artifacts
from storyboard.data.captions import CaptionRow, Captions
from storyboard.models import tensor_files
from storyboard.scoring.judge import FeaturePair, Judge

MOST = 300  # training pictures that sets are compared with


def features(
    measure: str, paths: Sequence[Path], captions: Captions, judge: Judge, folder: Path
) -> FeaturePair:
    """What ``measure`` is computed from: (n, d) of ``paths``, and (m, d) of the training set.

    Those of the training set are kept in ``folder``.

    Raises:
        Unmeasurable: The judge has no weights to compute them.
    """
    kind = judge.feature_kinds[measure]
    of_pictures = judge.features(kind, paths)  # first: it raises without weights
    return of_pictures, of_training_set(kind, captions, judge, folder)


def rows(captions: Captions) -> list[CaptionRow]:
    """The training pictures that are looked at: at most MOST, evenly spread."""
    count = min(MOST, len(captions))
    return [captions.rows[index * len(captions) // count] for index in range(count)]


def of_training_set(kind: str, captions: Captions, judge: Judge, folder: Path) -> torch.Tensor:
    """(m, d) features of ``rows(captions)``, from ``folder`` if they are there.

    Raises:
        Unmeasurable: The judge has no weights to compute them.
    """
    fingerprint = artifacts.fingerprint(
        stage="reference", judge=judge.fingerprint_inputs(), captions=captions.digest, most=MOST
    )
    file = folder / f"training-set-{kind}-{fingerprint[:16]}.safetensors"
    if (kept := _kept(file)) is not None:
        return kept

    computed = judge.features(kind, [captions.path(row) for row in rows(captions)])
    outdated = re.compile(rf"training-set-{re.escape(kind)}-[0-9a-f]{{16}}\.safetensors")
    for path in folder.glob("training-set-*"):
        if outdated.fullmatch(path.name):
            path.unlink()
    tensor_files.write(file, {"features": computed})
    return computed


def _kept(file: Path) -> torch.Tensor | None:
    """The features in ``file``; None where there are none, or damaged ones."""
    try:
        return tensor_files.read(file)["features"]
    except FileNotFoundError:
        return None
    except (tensor_files.DamagedFile, KeyError):
        print(f"score: {file} is damaged, the training set is looked at again", flush=True)
        return None
