"""Every picture becomes upright, opaque, sRGB, with 8 bits a channel."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from storyboard.data import pictures
from storyboard.errors import SettingsError
from storyboard.rendering import references
from tests.conftest import picture

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
SHADES = {
    "16 bits": RAMP.astype(np.uint16),
    "32 bits": RAMP.astype(np.int32),
    "0 to 1": (RAMP / 65535).astype(np.float32),
    "0 to 255": (RAMP / 257).astype(np.float32),
    "0 to 65535": RAMP.astype(np.float32),
}


@pytest.fixture
def normalised(tmp_path):
    """A picture, saved with what ``save`` takes -> as ``pictures.normalise`` writes it."""

    def normalise(image: Image.Image, suffix: str = ".png", **options) -> Image.Image:
        image.save(tmp_path / f"source{suffix}", **options)
        written = pictures.normalise(tmp_path / f"source{suffix}", tmp_path / "written")
        with Image.open(written) as result:
            result.load()
            return result

    return normalise


def test_exif_rotation_is_applied(normalised):
    upright = picture(50).crop((0, 0, 200, 256))
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    turned = upright.transpose(Image.ROTATE_90)
    result = normalised(turned, ".jpg", exif=exif, quality=95)
    assert result.size == (200, 256) and result.getexif().get(pictures.ORIENTATION, 1) == 1
    assert np.abs(np.asarray(result, int) - np.asarray(upright, int)).mean() < 6


def test_transparency_is_laid_on_white(normalised):
    clear = picture(51).convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    assert np.asarray(normalised(clear)).min() == 255


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb(normalised, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    assert normalised(picture(52).convert(mode), suffix).mode == "RGB"


def test_a_colour_profile_becomes_srgb(normalised):
    """A profile with the red and green primaries exchanged: what is stored as red shows green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = profile.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ")
    exchanged = exchanged.replace(b"tXYZ", b"gXYZ")
    result = normalised(Image.new("RGB", (64, 64), (250, 10, 10)), icc_profile=exchanged)
    red, green, blue = np.asarray(result)[32, 32].tolist()
    assert "icc_profile" not in result.info and green > 240 and red < 60 and blue < 60


def test_sixteen_bit_grey_keeps_its_shades(normalised):
    grey = Image.fromarray(np.full((64, 64), 10000, np.uint16))
    assert np.asarray(normalised(grey))[0, 0].tolist() == [38, 38, 38]


def test_bytes_are_copied_where_nothing_changes(tmp_path):
    picture(0).save(tmp_path / "0.png")
    written = pictures.normalise(tmp_path / "0.png", tmp_path / "same")
    assert written.read_bytes() == (tmp_path / "0.png").read_bytes()


@pytest.mark.parametrize("shades", SHADES)
def test_shades_of_more_than_8_bits_are_kept(shades, tmp_path):
    image = pictures.eight_bits(Image.fromarray(SHADES[shades]))
    assert image.mode == "L" and np.abs(np.asarray(image, int) - RAMP / 257).max() <= 1
    path = tmp_path / f"depth.{'png' if shades == '16 bits' else 'tif'}"
    Image.fromarray(SHADES[shades]).save(path)
    references.check_picture(path, "The reference")
    seen = np.asarray(references.square(path, 64), int)
    assert np.abs(seen - (RAMP / 257)[..., None]).max() <= 1


@pytest.mark.parametrize("values", [-1, 65536, np.nan, np.inf])
def test_shades_that_cannot_be_placed_are_an_error(values, tmp_path):
    Image.fromarray(np.full((8, 8), values, np.float32)).save(tmp_path / "odd.tif")
    with pytest.raises(SettingsError, match="where 0 to 65535 can be shown"):
        references.check_picture(tmp_path / "odd.tif", "The reference")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
def test_8_bits_stay_as_they_are(mode):
    assert pictures.eight_bits(picture(0).convert(mode)).mode == mode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_pillow_turns_it(orientation):
    content, exif = io.BytesIO(), Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    picture(1).crop((0, 0, 100, 60)).save(content, "PNG", exif=exif)
    with Image.open(content) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        assert (np.asarray(pictures.upright(image)) == expected).all()
