"""A row of a data set gives its own picture, and no other file of this machine."""

import zipfile

import pytest

from storyboard.data import hub_rows
from tests.dataset_hub_server import noise


def test_a_row_cannot_name_a_file_of_this_machine(tmp_path):
    (tmp_path / "secret.png").write_bytes(noise(0))
    row = {"bytes": None, "path": str(tmp_path / "secret.png")}
    inside = "hf://datasets/someone/anime@"
    with pytest.raises(FileNotFoundError, match="secret.png is not in the data set"):
        hub_rows.content(row, lambda path: path.startswith(inside))
    with pytest.raises(
        FileNotFoundError, match="not in the data set"
    ):  # datasets would open the first hop
        hub_rows.content(
            row | {"path": f"{row['path']}::{inside}main/pictures.zip"},
            lambda path: path.startswith(inside),
        )
    assert hub_rows.content(row, lambda path: True) == noise(0)


def test_a_picture_in_an_archive_of_the_data_set_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", noise(1))
    path = f"zip://a.png::{tmp_path / 'pictures.zip'}"
    assert hub_rows.content(
        {"bytes": None, "path": path}, lambda outside: outside.endswith("pictures.zip")
    ) == noise(1)
