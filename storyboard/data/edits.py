"""Collected pictures as ``edits.csv`` (``edits_file.py``) wants them: without those taken out."""

from dataclasses import asdict
from pathlib import Path

from storyboard import artifacts
from storyboard.data import edits_file, writing
from storyboard.data.captions import Captions, UnreadablePicture
from storyboard.data.edits_file import FILE, Edit
from storyboard.errors import DatasetError

COLLECTED, FOLDER = "collected", "edited"  # in the output folder: before and after the edits
TAKEN_OUT = f"taken out by hand, in {FILE}"


def current(captions: Captions, output: Path) -> Captions:
    """``captions``, collected into ``output`` before or after edits, as the edits are now.

    What another call or program made is returned as it is.

    Raises:
        DatasetError: As of ``apply``, or ``<output>/collected`` is missing or damaged.
    """
    folder = captions.folder.resolve()
    if folder == (output / FOLDER).resolve():
        captions = Captions.load(output / COLLECTED)
    elif folder != (output / COLLECTED).resolve():
        return captions
    return apply(captions, output)


def apply(collected: Captions, output: Path) -> Captions:
    """``collected`` as ``<output>/edits.csv`` wants it, in ``<output>/edited``; as it is without.

    What is taken out is listed in ``unreadable``, with that reason.

    Raises:
        DatasetError: The file cannot be read, or it takes out every picture.
    """
    edits = edits_file.read(output, (row.source for row in collected.rows if row.source))
    if not edits:
        return collected
    texts, taken_out = {}, []
    for row in collected.rows:
        edit = edits.get(row.source or "", Edit())
        if edit.keep:
            texts[row.id] = edit.text or row.text
        else:
            taken_out.append(UnreadablePicture(str(row.source), TAKEN_OUT))
    if not texts:
        raise DatasetError(f"{output / FILE} takes out every picture: set keep to yes for some.")
    described = sum(edit.keep for edit in edits.values())
    print(f"{output / FILE}: {len(taken_out)} pictures taken out, {described} captions changed")
    return _written(collected, texts, [*collected.unreadable, *taken_out], output / FOLDER)


def _written(
    collected: Captions, texts: dict[str, str], unreadable: list[UnreadablePicture], target: Path
) -> Captions:
    """The rows of ``texts`` (id -> caption) as a folder of their own."""
    left_out = [asdict(each) for each in unreadable]
    fingerprint = artifacts.fingerprint(
        stage="edit",
        captions=collected.digest,
        names=collected.names_json(),
        texts=texts,
        unreadable=left_out,
        notes=collected.notes_json(),
    )
    if not artifacts.finished(target, fingerprint):
        with artifacts.building(target) as folder:
            digest = writing.write(collected, texts, folder)
            artifacts.write_manifest(
                folder,
                "edit",
                fingerprint,
                digest=digest,
                unreadable=left_out,
                notes=collected.notes_json(),
            )
    return Captions.load(target)
