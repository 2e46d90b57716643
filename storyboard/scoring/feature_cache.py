"""Features of pictures beside those of the training set, which are kept on disk."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from storyboard import artifacts
from storyboard.data.captions import Captions
from storyboard.models import tensor_files
from storyboard.scoring.judge import FeaturePair, Judge

MOST = 300  # training pictures that sets are compared with


def features(
    measure: str, paths: Sequence[Path], captions: Captions, judge: Judge, folder: Path
) -> FeaturePair:
    """What ``measure`` is computed from: (n, d) of ``paths``, and (m, d) of the training set.

    Those of the training set, of at most MOST pictures evenly spread, are kept in ``folder``.

    Raises:
        Unmeasurable: The judge has no weights to compute them.
    """
    kind = judge.feature_kinds[measure]
    of_pictures = judge.features(kind, paths)  # first: it raises without weights
    fingerprint = artifacts.fingerprint(
        stage="reference", judge=judge.fingerprint_inputs(), captions=captions.digest, most=MOST
    )
    file = folder / f"training-set-{kind}-{fingerprint[:16]}.safetensors"
    if (kept := _kept(file)) is not None:
        return of_pictures, kept

    count = min(MOST, len(captions))
    rows = [captions.rows[index * len(captions) // count] for index in range(count)]
    of_training_set = judge.features(kind, [captions.path(row) for row in rows])

    outdated = re.compile(rf"training-set-{re.escape(kind)}-[0-9a-f]{{16}}\.safetensors")
    for path in folder.glob("training-set-*"):
        if outdated.fullmatch(path.name):
            path.unlink()
    tensor_files.write(file, {"features": of_training_set})
    return of_pictures, of_training_set


def _kept(file: Path) -> torch.Tensor | None:
    """The features in ``file``; None where there are none, or damaged ones."""
    try:
        return tensor_files.read(file)["features"]
    except FileNotFoundError:
        return None
    except (tensor_files.DamagedFile, KeyError):
        print(f"score: {file} is damaged, the training set is looked at again", flush=True)
        return None
