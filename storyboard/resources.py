"""Where the repository's own data lie: models, pictures, recipes and the notebook."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PACKAGED = PACKAGE / "_resources"  # in an installed wheel
CHECKOUT = PACKAGE.parent


def path(name: str) -> Path:
    """``models/mini``, ``recipes`` and the like, of the installed package or of the checkout."""
    root = PACKAGED if PACKAGED.is_dir() else CHECKOUT
    return root / name
