"""Pictures, from any file that people have: see ``reading``."""

from storyboard.images.formats import SUFFIXES, is_named_as_picture
from storyboard.images.reading import MAX_BYTES, Picture, irregular, read

__all__ = ["MAX_BYTES", "SUFFIXES", "Picture", "irregular", "is_named_as_picture", "read"]
