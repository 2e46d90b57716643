import dataclasses
import shutil

import pytest

from storyboard.errors import BaseError
from storyboard.models import bases


@pytest.fixture
def copy(tmp_path):
    """A copy of mini whose files may be spoilt."""
    base = bases.get("mini")
    shutil.copytree(base.folder, tmp_path / "mini")
    return dataclasses.replace(base, folder=tmp_path / "mini")


def test_mini_is_whole_and_small():
    base = bases.get("mini")
    base.check()
    sizes = [path.stat().st_size for path in base.folder.rglob("*") if path.is_file()]
    assert sum(sizes) < 40e6 and max(sizes) < 16e6


def test_fingerprint_follows_content_not_place(copy):
    assert copy.fingerprint() == bases.get("mini").fingerprint()
    config = copy.folder / "vae" / "config.json"
    config.write_text(config.read_text() + " ")
    assert copy.fingerprint() != bases.get("mini").fingerprint()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "lacks .*unet"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1000]),
            "bytes long where its header asks for",
        ),
        (lambda path: path.write_bytes(b"<html>not weights</html>"), "is not a safetensors file"),
    ],
)
def test_missing_truncated_or_foreign_weights_are_named(copy, spoil, said):
    spoil(copy.weight_files("unet")[0])
    with pytest.raises(BaseError, match=said) as error:
        copy.check()
    assert "\n" not in str(error.value)
