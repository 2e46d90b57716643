"""Where the repository's own data lie: models, pictures, recipes and the notebook."""

from pathlib import Path

PACKAGED = Path(__file__).resolve().parent / "_resources"  # in an installed wheel
CHECKOUT = Path(__file__).resolve().parents[1]


def path(name: str) -> Path:
    """``models/mini``, ``recipes`` and the like, of the installed package or of the checkout."""
    root = PACKAGED if PACKAGED.is_dir() else CHECKOUT
    return root / name
