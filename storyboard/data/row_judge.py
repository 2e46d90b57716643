"""What the operators of a pass do with one row."""

import contextlib
import hashlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from storyboard.compat import alarm, data_juicer
from storyboard.data import operator_errors, operator_list, pictures
from storyboard.data.account import FAILED
from storyboard.data.measures import plain, plain_statistics, reason
from storyboard.errors import PictureError, StoryboardError

VERDICT, HASHES = "verdict", "hashes"  # the columns that a pass adds
KEPT = -1
LONGEST_CAPTION = 50_000  # characters that a mapper may be given or leave
SECONDS_PER_CAPTION = 5  # for a mapper of captions, which takes milliseconds
GIVE_UP = 32  # rows at which an operator failed alike, and at none not
GIVE_UP_SLOW = 2  # rows that took too long, where no other was done in time
MOST_SLOW = 10  # where others were


@dataclass(slots=True)
class Verdict:
    """What the operators of a pass found of one row.

    Attributes:
        dropped_by: Index of the operator that refused it, or KEPT.
        reason: Why it was refused.
        error: What the operator that refused it raised; empty where it judged the row.
        text: The caption that mappers made of it; None where none ran.
        picture: Path of the picture that mappers made of it; None where they left it.
        statistics: What the filters measured.
        measured: Names of the statistics that a filter added, by the index of the operator.
        hashes: What deduplicators compare, by the index of the operator; in the column HASHES, as
            it takes more memory than the rest.
        seconds: Of each operator.
    """

    dropped_by: int = KEPT
    reason: str = ""
    error: str = ""
    text: str | None = None
    picture: str | None = None
    statistics: dict[str, object] = field(default_factory=dict)
    measured: dict[str, list[str]] = field(default_factory=dict)
    hashes: dict[str, dict] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


class JudgeRow:
    """Called with a row: every operator measures, maps or judges it, until one refuses it.

    Returns the verdict as JSON in columns. Pickled where there are several processes.

    Args:
        operators: Filters, mappers and deduplicators of pictures.
        folder: Where pictures that mappers make are written.
        recipe: For messages.
    """

    def __init__(self, operators: Sequence, folder: Path, recipe: Path) -> None:
        self.operators = operators
        self.recipe = recipe
        self.folder = folder
        self.errors: dict[int, list[str]] = {}  # of operators that have failed at each row so far
        self.judged: set[int] = set()  # operators that have not
        self.slow = Counter[int]()  # rows at which an operator took too long

    def __call__(self, row) -> dict[str, str]:
        from data_juicer.utils.constant import Fields

        row = {
            "id": row["id"],
            "text": row["text"],
            "images": list(row["images"]),
            Fields.stats: {},
            Fields.context: {},
        }
        verdict = Verdict(seconds=[0.0] * len(self.operators))
        for index, operator in enumerate(self.operators):
            began = time.perf_counter()
            kept = self._attempt(operator, index, row, verdict)
            verdict.seconds[index] = time.perf_counter() - began
            if not kept:
                verdict.dropped_by = index
                break

        verdict.statistics |= plain_statistics(row[Fields.stats])
        columns = asdict(verdict)
        hashes = columns.pop("hashes")
        return {VERDICT: json.dumps(columns, default=str), HASHES: json.dumps(hashes, default=str)}

    def _attempt(self, operator, index: int, row: dict, verdict: Verdict) -> bool:
        """Whether ``operator`` keeps ``row``, which is changed in place; not where it fails."""
        try:
            kept = self._judge(operator, index, row, verdict)
        except data_juicer.MissingPackage as error:
            name = data_juicer.name_of(operator)
            raise operator_errors.lacks_package(name, error.package, self.recipe) from error
        except Exception as error:  # an operator may raise anything: this row is dropped
            if isinstance(error, StoryboardError) and not isinstance(error, PictureError):
                raise
            verdict.error = data_juicer.message_of(error)
            verdict.reason = f"{FAILED} ({verdict.error})"
            self._give_up(operator, index, error)
            return False
        self.judged.add(index)
        return kept

    def _give_up(self, operator, index: int, error: Exception) -> None:
        """Raise SettingsError where more rows would fail as all before did, or take too long."""
        if isinstance(error, TimeoutError):
            self.slow[index] += 1
            if self.slow[index] >= (MOST_SLOW if index in self.judged else GIVE_UP_SLOW):
                name = data_juicer.name_of(operator)
                raise operator_errors.too_slow(name, SECONDS_PER_CAPTION, self.recipe)
        if index in self.judged:
            return
        errors = self.errors.setdefault(index, [])
        errors.append(data_juicer.message_of(error))
        if len(errors) >= GIVE_UP and len(set(errors)) == 1:
            raise operator_errors.fails_always(operator, errors[0], self.recipe)

    def _judge(self, operator, index: int, row: dict, verdict: Verdict) -> bool:
        """Have ``operator`` change ``row`` in place; returns whether it keeps it."""
        from data_juicer.ops import Filter, Mapper
        from data_juicer.utils.constant import Fields

        if isinstance(operator, Mapper):
            return self._map(operator, index, row, verdict)
        if not isinstance(operator, Filter):
            names = set(row)
            row |= data_juicer.compute_hash(operator, row)
            verdict.hashes[str(index)] = {name: row.pop(name) for name in set(row) - names}
            return True

        known, text = set(row[Fields.stats]), row["text"]
        if data_juicer.name_of(operator) in operator_list.PICTURE_IN_TEXT:
            row["text"] = data_juicer.with_picture_token(text)
        measured, kept = data_juicer.measure_and_filter(operator, row)
        row |= measured | {"text": text}
        verdict.measured[str(index)] = [key for key in row[Fields.stats] if key not in known]
        if not kept:
            statistics = {key: plain(value) for key, value in row[Fields.stats].items()}
            new = {key: value for key, value in statistics.items() if key not in known}
            verdict.reason = reason(operator, new or statistics)
        return kept

    def _map(self, operator, index: int, row: dict, verdict: Verdict) -> bool:
        """Give ``row`` the caption and the picture that the mapper ``operator`` makes of it.

        What was measured before belongs to another caption or picture, and is measured anew.
        """
        from data_juicer.utils.constant import Fields

        name = data_juicer.name_of(operator)
        given = row | {Fields.stats: {}, Fields.context: {}, Fields.meta: {}}
        if name in operator_list.SAFE_FOR_CAPTIONS:
            _check_length(row["text"])
            with alarm.time_limit(SECONDS_PER_CAPTION):
                mapped = [(text, None) for text, _ in data_juicer.map_row(operator, given)]
        else:
            mapped = self._map_picture(operator, f"{index}\0{row['id']}", given)

        if len(mapped) > 1:
            raise operator_errors.several_rows(name, self.recipe)
        if not mapped:
            verdict.reason = "the operator leaves nothing of it"
            return False

        ((row["text"], picture),) = mapped
        _check_length(row["text"])
        verdict.text = row["text"]
        verdict.statistics |= plain_statistics(row[Fields.stats])
        row[Fields.stats], row[Fields.context] = {}, {}
        if picture:
            verdict.picture = str(picture)
            row["images"] = [verdict.picture]
        return True

    def _map_picture(self, operator, seed: str, row: dict) -> list[tuple[str, Path | None]]:
        """Captions and pictures that a mapper makes of ``row``; None for a picture that it left.

        The mapper is given a copy in a folder of its own: some write beside the picture. The folder
        is new each time, as a process that was killed at this row may have left one.

        Args:
            seed: Of random numbers: the same row comes out the same in any process.
        """
        stem = self.folder / hashlib.sha256(seed.encode()).hexdigest()[:24]
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            workplace = Path(name)
            copy = pictures.normalise(Path(row["images"][0]), workplace / "picture").path
            copy = _lossless(copy)
            before = copy.read_bytes()
            with _random_numbers_of(seed):
                mapped = data_juicer.map_row(operator, row | {"images": [str(copy)]})
            return [(text, self._taken(images, copy, before, stem)) for text, images in mapped]

    def _taken(self, images: Sequence[str], copy: Path, before: bytes, stem: Path) -> Path | None:
        """The picture that a mapper made of ``copy``, moved to ``stem``; None where it left it."""
        if len(images) != 1:
            raise ValueError(f"it returned {len(images)} pictures for one")
        made = Path(images[0]).resolve()
        if not made.is_relative_to(copy.parent.resolve()):
            raise ValueError("it returned a picture that lies elsewhere")
        if made == copy.resolve() and made.read_bytes() == before:
            return None
        return pictures.normalise(made, stem).path


def _check_length(text: str) -> None:
    """Raise ValueError for a caption that mappers would make longer and longer."""
    if len(text) > LONGEST_CAPTION:
        raise ValueError(f"a caption has over {LONGEST_CAPTION:,} characters")


def _lossless(picture: Path) -> Path:
    """``picture`` as a PNG: what a mapper makes of it is written in its format."""
    if picture.suffix == ".png":
        return picture
    from PIL import Image

    with Image.open(picture, formats=["JPEG"]) as image:  # what ``normalise`` writes
        image.save(picture.with_suffix(".png"), pnginfo=None, icc_profile=None, exif=b"")
    return picture.with_suffix(".png")


@contextlib.contextmanager
def _random_numbers_of(seed: str) -> Iterator[None]:
    """Inside, Python's and NumPy's random numbers are those of ``seed``."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4])
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(number)
    np.random.seed(number)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
