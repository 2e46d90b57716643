"""Pillow's switches are as before, and what it writes down is left out."""

import threading
import warnings

import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from storyboard import images
from tests.conftest import picture
from tests.picture_files import encoded, refused

DRAWING = picture(3, 64)


def test_pillows_switches_are_as_before_with_threads_too(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    before = list(warnings.filters)
    content = encoded(DRAWING, "GIF")
    reasons = []

    def read() -> None:
        for _ in range(20):
            images.read(content)
            reasons.append(refused(content[: len(content) // 2]))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reasons) == 80 and all("truncated" in reason for reason in reasons)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True and warnings.filters == before


@pytest.mark.filterwarnings("error")
def test_pillow_warns_of_nothing(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # over it a warning, over twice an error
    assert images.read(encoded(DRAWING, "PNG")).image.size == DRAWING.size


def test_pixels_stay_as_they_are_stored_and_metadata_are_left_out():
    texts = PngInfo()
    texts.add_text("parameters", "a girl")
    for form, plain in (("PNG", {}), ("JPEG", {"quality": 90})):
        told = {"pnginfo": texts} if form == "PNG" else {"comment": "a girl"}
        read = images.read(encoded(DRAWING, form, **plain, **told))
        assert read.content == encoded(DRAWING, form, **plain)
        assert read.suffix == {"PNG": ".png", "JPEG": ".jpg"}[form]
    assert images.read(encoded(DRAWING, "WEBP")).content is None
