"""tqdm's advice to install widgets, kept out of the reader's notebook.

Whoever imports ``tqdm.auto`` first in a kernel without ipywidgets warns of it, once.
"""

import warnings


def import_without_advice() -> None:
    """Import ``tqdm.auto``, which diffusers, datasets and the hubs' clients do too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tqdm.auto  # noqa: F401
