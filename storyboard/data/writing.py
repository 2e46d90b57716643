"""Rows of captions as a folder of their own, with other texts: what ``clean`` and edits leave."""

import csv
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from storyboard.data import table
from storyboard.data.captions import Captions, digest_of, write_rows
from storyboard.errors import DatasetError


def write(
    captions: Captions,
    kept: Mapping[str, str],
    folder: Path,
    pictures: Mapping[str, Path] = MappingProxyType({}),
) -> str:
    """Write the rows of ``kept`` (id -> caption) as a Captions folder; returns the digest.

    Also writes ``metadata.csv``, DiffSynth's form, in which a caption that a spreadsheet would take
    for a formula has an apostrophe before it. Pictures are hard links where the disk allows.

    Args:
        pictures: By id, those that take the place of the rows' own; they are moved.
    """
    rows = []
    for row in captions.rows:
        if row.id not in kept:
            continue
        mapped = pictures.get(row.id)
        image = row.image
        if mapped and mapped.suffix != Path(image).suffix:
            image += mapped.suffix
        rows.append(replace(row, text=kept[row.id], image=image))
        target = folder / image
        if Path(image).is_absolute() or ".." in Path(image).parts:
            raise DatasetError(
                f"{captions.folder} lists {image}, which lies outside of it: take the row out."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        if mapped:
            mapped.replace(target)
        else:
            _link(captions.path(row), target)

    write_rows(folder, rows)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["image", "prompt"])
        writer.writerows([row.image, table.escaped(row.text)] for row in rows)
    return digest_of(folder, rows)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
