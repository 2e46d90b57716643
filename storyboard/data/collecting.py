"""Stage 1, collect: pictures and captions from anywhere into one folder, upright, opaque, sRGB.

``Captions`` is a folder with ``metadata.jsonl`` (Data-Juicer's multimodal form: ``id``, ``text``,
``images``; relative POSIX paths, UTF-8) and the pictures it names.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from storyboard import artifacts, resources
from storyboard.data import captioning, captions, hub, listing, pictures
from storyboard.data.captions import CaptionRow, Captions, Note, UnreadablePicture
from storyboard.data.listing import ListedPicture
from storyboard.errors import DatasetError, PictureError, ResourceError
from storyboard.settings import Settings

SAMPLE = resources.path("data/sample")
GROWTH = 2  # free space asked for, in sizes of the data set: a picture may grow when written as PNG


def collect(settings: Settings) -> Captions:
    """Bring the data set of ``settings`` into ``<output>/collected``.

    EXIF rotation is applied, transparency laid on white, colour profiles turned to sRGB. A file
    that cannot be read to its last byte is reported in ``Captions.unreadable`` and left out. A
    picture without a caption, or with a placeholder (``captioning.is_placeholder``), takes
    ``caption_template`` or, in a folder named as kohya's scripts want it (``10_concept``), the
    concept, else what ``captioner`` writes. The number there, kohya's repeats, is not used: an
    epoch has every picture once.

    Raises:
        DatasetError: No such folder or data set, or no readable picture in it, or ``captioner``
            failed at one.
        SettingsError, BaseError: ``captioner`` is no model that describes pictures, or cannot be
            fetched.
        ResourceError: The disk is too small; nothing was kept.
    """
    # 1. What there is to collect
    target = settings.folder / "collected"
    source = _source(settings)
    listed = _listed(source, settings)

    # 2. Nothing to do where the same was collected before
    fingerprint = _fingerprint(listed, settings)
    if artifacts.finished(target, fingerprint):
        collected = Captions.load(target)
        print(f"collect: nothing to do, {collected}")
        return collected

    # 3. Write all or nothing
    _check_disk(listed, target)
    try:
        with artifacts.building(target) as folder:
            written = _write(listed, folder, settings)
            collected = replace(written, folder=target)
            artifacts.write_manifest(
                folder,
                "collect",
                fingerprint,
                source=settings.dataset,
                digest=collected.digest,
                unreadable=collected.unreadable_json(),
                notes=collected.notes_json(),
            )
    except OSError as error:
        if not artifacts.disk_is_full(error):
            raise
        raise ResourceError(
            f"The disk of {target} became full while {len(listed)} pictures were brought in, "
            "nothing was kept: free some space or set output to another disk."
        ) from error
    print(f"collect: {collected}")
    return collected


def _source(settings: Settings) -> Path:
    """The folder that the data set lies in, streamed from the hub where it is an id there."""
    if settings.dataset == "sample":
        return SAMPLE
    folder = Path(settings.dataset).expanduser()
    if folder.is_dir():
        return folder
    if not hub.looks_like_id(settings.dataset):
        raise DatasetError(
            f'There is no folder {str(folder)!r}: set dataset to "sample", to a folder of '
            f"pictures, or to a ModelScope id such as {hub.DEFAULT!r}."
        )
    return hub.fetch(settings.dataset, settings.folder / "hub")


def _listed(source: Path, settings: Settings) -> list[ListedPicture]:
    """The pictures of ``source``, placeholders replaced as far as that needs no model."""
    listed = [
        captioning.without_placeholder(picture, source, settings.caption_template)
        for picture in listing.read_folder(source, settings.folder)
    ]
    if not any(picture.file for picture in listed):
        raise DatasetError(
            f"No picture in {str(source)!r}: put .png, .jpg or .webp files there, each with a "
            "caption of the same name in .txt, or a metadata.jsonl."
        )
    _print_advice(listed, source, settings.captioner)
    return listed


def _print_advice(listed: Sequence[ListedPicture], source: Path, captioner: str | None) -> None:
    repeats = captioning.kohya_repeats(listed, source)
    if len(repeats) > 1:
        print(
            f"collect: the numbers of the folders ({', '.join(sorted(repeats, key=int))}) are not "
            "used as repeats, an epoch has every picture once; copy pictures to weigh them"
        )

    uncaptioned = sum(not picture.text for picture in listed)
    counted = f"{uncaptioned} of {len(listed)} pictures have no caption that says anything"
    if uncaptioned and captioner:
        print(f"collect: {counted}, {captioner} writes one for each")
    elif uncaptioned and source != SAMPLE:
        print(
            f"collect: {counted}, and cleaning may drop them: write a .txt of the same name beside "
            'each, or set caption_template, such as "二次元，{folder}", '
            'or captioner, such as "Salesforce/blip-image-captioning-large"'
        )


def _fingerprint(listed: Sequence[ListedPicture], settings: Settings) -> str:
    all_captioned = all(picture.text for picture in listed)
    return artifacts.fingerprint(
        stage="collect",
        items=[[picture.name, picture.text, *picture.stamp()] for picture in listed],
        captioner=None if all_captioned else captioning.fingerprint_inputs(settings),
        versions=artifacts.versions("pillow"),
    )


def _check_disk(listed: Sequence[ListedPicture], target: Path) -> None:
    needed = GROWTH * sum(picture.stamp()[0] for picture in listed)
    if missing := artifacts.free_space_needed(target, needed):
        raise ResourceError(
            f"The disk of {target} lacks {missing / 1e6:,.0f} MB for {len(listed)} pictures: "
            "free some space or set output to another disk."
        )


@dataclass(frozen=True)
class _WrittenPicture:
    row: CaptionRow
    digest: str
    notes: list[Note]


def _write(listed: Sequence[ListedPicture], folder: Path, settings: Settings) -> Captions:
    """Write every readable picture and ``metadata.jsonl`` into ``folder``."""
    (folder / "images").mkdir()
    width = max(4, len(str(len(listed))))

    def normalise(index: int, picture: ListedPicture) -> _WrittenPicture | UnreadablePicture:
        return _normalise(picture, folder, f"{index:0{width}d}")

    # threads: Pillow decodes outside the interpreter lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(normalise, range(len(listed)), listed))
    written = [result for result in results if isinstance(result, _WrittenPicture)]
    unreadable = [result for result in results if isinstance(result, UnreadablePicture)]
    if not written:
        raise DatasetError(
            f"None of the {len(listed)} pictures could be read, the first because: "
            f"{unreadable[0].reason}."
        )

    rows = _captioned([picture.row for picture in written], folder, settings)
    captions.write_rows(folder, rows)
    digest = captions.digest_of_contents(
        (row.text, picture.digest) for row, picture in zip(rows, written, strict=True)
    )
    notes = [note for picture in written for note in picture.notes]
    return Captions(folder, rows, unreadable, digest, notes)


def _normalise(
    picture: ListedPicture, folder: Path, row_id: str
) -> _WrittenPicture | UnreadablePicture:
    if picture.file is None:
        return UnreadablePicture(picture.name, picture.reason)
    try:
        written = pictures.normalise(picture.file, folder / "images" / row_id, picture.name)
    except PictureError as error:
        return UnreadablePicture(picture.name, error.reason)
    row = CaptionRow(row_id, picture.text, f"images/{written.path.name}", picture.name)
    notes = [Note(picture.name, note) for note in written.notes]
    return _WrittenPicture(row, artifacts.digest_of_file(written.path), notes)


def _captioned(rows: list[CaptionRow], folder: Path, settings: Settings) -> list[CaptionRow]:
    """``rows`` with captions by ``captioner``, if it is set, where they have none."""
    uncaptioned = [row for row in rows if not row.text]
    if not uncaptioned or not settings.captioner:
        return rows
    paths = [folder / row.image for row in uncaptioned]
    texts = captioning.describe(paths, settings.captioner, settings.seed)
    text_of = {row.id: text for row, text in zip(uncaptioned, texts, strict=True)}
    return [replace(row, text=text_of.get(row.id, row.text)) for row in rows]
