"""Features of pictures beside those of the training set, which are kept on disk."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save

from storyboard import artifacts
from storyboard.data.captions import Captions
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
    if file.is_file():
        return of_pictures, load_file(file)["features"]

    count = min(MOST, len(captions))
    rows = [captions.rows[index * len(captions) // count] for index in range(count)]
    of_training_set = judge.features(kind, [captions.path(row) for row in rows])

    folder.mkdir(parents=True, exist_ok=True)
    for outdated in folder.glob(f"training-set-{kind}-*"):
        outdated.unlink()
    artifacts.write_atomically(file, save({"features": of_training_set.contiguous()}))
    return of_pictures, of_training_set
