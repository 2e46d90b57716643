"""Stage 1, collect: pictures and captions from anywhere into one folder, upright, opaque, sRGB.

``Captions`` is a folder with ``metadata.jsonl`` (Data-Juicer's multimodal form: ``id``, ``text``,
``images``; relative POSIX paths, UTF-8) and the pictures it names.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from storyboard import artifacts, places, resources, stages
from storyboard.data import captioning, captions, edits, hub, listing, pictures, shards, tree
from storyboard.data.captions import CaptionRow, Captions, Note, UnreadablePicture
from storyboard.data.listing import ListedPicture, Listing
from storyboard.data.lookup import OUTSIDE
from storyboard.errors import DatasetError, PictureError, ResourceError
from storyboard.settings import Settings

SAMPLE = resources.path("data/sample")
SHOWN = 5  # reasons in a message, and lines printed of each kind
LONGEST_SHOWN = 240  # characters
LONGEST_EXAMPLE = 80
GROWTH = 2  # free space asked for, in sizes of the data set: a picture may grow when written as PNG


@stages.stage("collect", "collected", "edited")
def collect(settings: Settings) -> Captions:
    """Bring the data set of ``settings`` into ``<output>/collected``.

    What ``<output>/edits.csv`` takes out or describes anew (``data/edits_file.py``) is as it wants
    it in what is returned, which lies in ``<output>/edited`` then.

    EXIF rotation is applied, transparency laid on white, colour profiles turned to sRGB. What
    cannot be read, picture, caption or row of a listing, is left out and listed in
    ``Captions.unreadable``; what was guessed or repaired is listed in ``Captions.notes``. A
    picture without a caption, or with a placeholder (``captioning.is_placeholder``), takes
    ``caption_template`` or, in a folder named as kohya's scripts want it (``10_concept``), the
    concept, else what ``captioner`` writes. The number there, kohya's repeats, is not used: an
    epoch has every picture once.

    Raises:
        DatasetError: No such folder or data set, or no readable picture in it, ``captioner``
            failed at one, or ``edits.csv`` is no such table.
        SettingsError, BaseError: ``captioner`` is no model that describes pictures, or cannot be
            fetched.
        ResourceError: The disk is too small; nothing was kept.
    """
    return edits.apply(_collected(settings), settings.folder)


def _collected(settings: Settings) -> Captions:
    # 1. What there is to collect
    target = settings.folder / "collected"
    source = _source(settings)
    listed = _listed(source, settings)

    # 2. Nothing to do where the same was collected before
    fingerprint = _fingerprint(listed, settings)
    if artifacts.finished(target, fingerprint) and (collected := _loaded(target)):
        print(f"collect: nothing to do, {collected}")
        return collected

    # 3. Write all or nothing
    _check_disk(listed.pictures, target)
    with artifacts.building(target) as folder:
        written = _write(listed, folder, settings)
        collected = replace(written, folder=target)
        artifacts.write_manifest(
            folder,
            "collect",
            fingerprint,
            source=tree.shown(settings.dataset),
            digest=collected.digest,
            unreadable=collected.unreadable_json(),
            notes=collected.notes_json(),
        )
    print(f"collect: {collected}")
    _print_account(collected)
    return collected


def _loaded(target: Path) -> Captions | None:
    """What was collected before; None where that is damaged, to be made anew."""
    try:
        return Captions.load(target)
    except DatasetError as error:
        print(f"collect: {error}")
        return None


def _source(settings: Settings) -> Path:
    """The folder that the data set lies in, streamed from the hub where it is an id there."""
    if settings.dataset == "sample":
        return SAMPLE
    try:
        folder = Path(settings.dataset).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    # a name that is too long or holds a NUL, or a home of nobody
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(
            f"dataset={_short(settings.dataset)!r} is no path ({reason}): set another."
        ) from error
    if is_folder:
        return _unpacked(folder, settings)
    if is_file:
        raise DatasetError(
            f"{str(folder)!r} is a file: set dataset to the folder it lies in, an archive unpacked."
        )
    if not places.looks_like_id(settings.dataset):
        raise DatasetError(
            f'There is no folder {str(folder)!r}: set dataset to "sample", to a folder of '
            f"pictures, or to a ModelScope id such as {hub.DEFAULT!r}."
        )
    return hub.fetch(settings.dataset, settings.folder / "hub")


def _unpacked(folder: Path, settings: Settings) -> Path:
    """``folder``, or where the shards lie that it holds, unpacked."""
    found = shards.of(tree.scan(folder, settings.folder))
    if not found:
        return folder
    return shards.unpack(found, settings)


def _listed(source: Path, settings: Settings) -> Listing:
    """The pictures of ``source``, placeholders replaced as far as that needs no model."""
    listed = listing.read_folder(source, settings.folder)
    listed.pictures = [
        captioning.without_placeholder(picture, source, settings.caption_template)
        for picture in listed.pictures
    ]
    usable = [picture for picture in listed.pictures if picture.file]
    if not usable:
        raise DatasetError(_why_nothing(listed, source))
    _print_advice(usable, source, settings.captioner)
    return listed


def _why_nothing(listed: Listing, source: Path) -> str:
    """Why ``source`` has no picture to use, in one sentence."""
    where = tree.shown(str(source))
    if listed.pictures:
        reasons = _reasons([(each.name, each.reason) for each in listed.pictures])
        is_outside = any(each.reason == OUTSIDE for each in listed.pictures)
        advice = ": set dataset to the folder that holds the pictures too" if is_outside else ""
        return f"No picture of {where!r} can be used: {reasons}{advice}."
    others = ", ".join(
        f"{count} {suffix or 'without a suffix'}"
        for suffix, count in listed.others.most_common(SHOWN)
    )
    return (
        f"No picture in {where!r}"
        + (f", which holds other files ({others})" if others else "")
        + ": put .png, .jpg or .webp files there, each with a caption of the same name in .txt, "
        "or a metadata.jsonl."
    )


def _reasons(entries: Sequence[tuple[str, str]]) -> str:
    """The first of ``entries``, names with reasons, one for each reason."""
    name_of: dict[str, str] = {}
    for name, reason in entries:
        name_of.setdefault(reason, name)
    shown = [f"{_short(name)}: {_short(reason)}" for reason, name in name_of.items()][:SHOWN]
    more = len(entries) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _short(text: str) -> str:
    """``text`` in one line of bounded length."""
    text = " ".join(tree.shown(text).split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 30]}…{text[-29:]}"


def _print_account(collected: Captions) -> None:
    """Print what was left out and noted, one line for each reason."""
    left_out = [(f"{each.source}: {each.reason}", each.reason) for each in collected.unreadable]
    noted = [(str(note), note.text) for note in collected.notes]
    for what, entries in (("left out", left_out), ("noted", noted)):
        first: dict[str, str] = {}
        for line, reason in entries:
            first.setdefault(reason, line)
        counts = Counter(reason for _, reason in entries)
        for reason, count in counts.most_common(SHOWN):
            others = f" (and {count - 1} more)" if count > 1 else ""
            print(f"collect: {what}: {_short(first[reason])}{others}")
        if len(counts) > SHOWN:
            print(f"collect: {what}: {len(counts) - SHOWN} more kinds, see manifest.json")


def _print_advice(listed: Sequence[ListedPicture], source: Path, captioner: str | None) -> None:
    repeats = captioning.kohya_repeats(listed, source)
    if repeats - {"1"}:
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


def _fingerprint(listed: Listing, settings: Settings) -> str:
    all_captioned = all(picture.text for picture in listed.pictures)
    said = [[each.name, each.reason, each.note] for each in listed.pictures]
    said = [entry for entry in said if any(entry[1:])]
    said += [[note.source, note.text, note.example] for note in listed.notes]
    return artifacts.fingerprint(
        stage="collect",
        items=[[picture.name, picture.text, *picture.stamp()] for picture in listed.pictures],
        captioner=None if all_captioned else captioning.fingerprint_inputs(settings),
        versions=artifacts.versions("pillow"),
        **({"said": said} if said else {}),
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


def _write(listed: Listing, folder: Path, settings: Settings) -> Captions:
    """Write every readable picture and ``metadata.jsonl`` into ``folder``."""
    (folder / "images").mkdir()
    count = len(listed.pictures)
    width = max(4, len(str(count)))

    def normalise(index: int, picture: ListedPicture) -> _WrittenPicture | UnreadablePicture:
        return _normalise(picture, folder, f"{index:0{width}d}")

    # threads: Pillow decodes outside the interpreter lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(normalise, range(count), listed.pictures))
    written = [result for result in results if isinstance(result, _WrittenPicture)]
    unreadable = [result for result in results if isinstance(result, UnreadablePicture)]
    if not written:
        reasons = _reasons([(each.source, each.reason) for each in unreadable])
        raise DatasetError(f"None of the {count} pictures could be read: {reasons}.")

    rows = _captioned([picture.row for picture in written], folder, settings)
    captions.write_rows(folder, rows)
    digest = captions.digest_of_contents(
        (row.text, picture.digest) for row, picture in zip(rows, written, strict=True)
    )
    notes = [*listed.notes, *(note for picture in written for note in picture.notes)]
    return Captions(folder, rows, unreadable, digest, notes)


def _normalise(
    picture: ListedPicture, folder: Path, row_id: str
) -> _WrittenPicture | UnreadablePicture:
    if picture.file is None:
        return UnreadablePicture(picture.name, picture.reason)
    try:
        written = pictures.normalise(picture.file.path, folder / "images" / row_id, picture.name)
    except PictureError as error:
        return UnreadablePicture(picture.name, error.reason)
    row = CaptionRow(row_id, picture.text, f"images/{written.path.name}", picture.name)
    notes = [Note(picture.name, note) for note in written.notes]
    if picture.note:
        notes.insert(0, Note(picture.name, picture.note, picture.text[:LONGEST_EXAMPLE]))
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
