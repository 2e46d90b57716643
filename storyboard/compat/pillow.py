"""Pillow's switches that belong to the whole process."""

import contextlib
from collections.abc import Iterator

from PIL import ImageFile


@contextlib.contextmanager
def truncated_images(allowed: bool) -> Iterator[None]:
    """Inside, a truncated file is read with its missing part grey (``allowed``) or is an error.

    ``ImageFile.LOAD_TRUNCATED_IMAGES`` is as before afterwards. Threads share it.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = allowed
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
