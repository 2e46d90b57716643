import io

import numpy as np
import pytest
from PIL import Image

from storyboard import Reference
from storyboard.data import pictures
from storyboard.errors import SettingsError
from storyboard.rendering import controlnet
from tests.conftest import picture

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
SHADES = {
    "16 bits": RAMP.astype(np.uint16),
    "32 bits": RAMP.astype(np.int32),
    "0 to 1": (RAMP / 65535).astype(np.float32),
    "0 to 255": (RAMP / 257).astype(np.float32),
    "0 to 65535": RAMP.astype(np.float32),
}


@pytest.mark.parametrize("shades", SHADES)
def test_shades_of_more_than_8_bits_are_kept(shades, tmp_path):
    image = pictures.eight_bits(Image.fromarray(SHADES[shades]))
    assert image.mode == "L" and np.abs(np.asarray(image, int) - RAMP / 257).max() <= 1
    path = tmp_path / f"depth.{'png' if shades == '16 bits' else 'tif'}"
    Image.fromarray(SHADES[shades]).save(path)
    controlnet.check_picture(path, "The reference")
    seen = np.asarray(
        controlnet.picture(Reference(str(path), control="depth", prepared=True), 64), int
    )
    assert np.abs(seen - (RAMP / 257)[..., None]).max() <= 1


@pytest.mark.parametrize("values", [-1, 65536, np.nan, np.inf])
def test_shades_that_cannot_be_placed_are_an_error(values, tmp_path):
    Image.fromarray(np.full((8, 8), values, np.float32)).save(tmp_path / "odd.tif")
    with pytest.raises(SettingsError, match="where 0 to 65535 can be shown"):
        controlnet.check_picture(tmp_path / "odd.tif", "The reference")


def test_8_bits_stay_as_they_are():
    assert all(
        pictures.eight_bits(picture(0).convert(mode)).mode == mode
        for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK")
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_pillow_turns_it(orientation):
    from PIL import ImageOps

    content, exif = io.BytesIO(), Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    picture(1).crop((0, 0, 100, 60)).save(content, "PNG", exif=exif)
    with Image.open(content) as image:
        assert (
            np.asarray(pictures.upright(image)) == np.asarray(ImageOps.exif_transpose(image))
        ).all()
