"""A kept copy: the list of its files, each with its size and digest.

The files lie beside those of earlier copies, under names that end in the number of the copy that
wrote them and in its tag (``story/story-0003-5f0c1e9ab27d.png``), so that nothing is overwritten,
and nothing renamed: mounted folders of a cloud drive do neither reliably, and upload in any order.
The tag begins as the run does, by which a run deletes its own files alone, and ends by lot: a copy
that broke off, or one that another machine makes just now, has other names. A copy is there once
its list ``kept-0003-5f0c1e9ab27d.json`` is, which is written last. Files that did not change stay
those of the copy before, and the copy before stays until the next one is whole. An earlier release
wrote no tags.
"""

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from storyboard.keeping import contents
from storyboard.records import Record, Sha256
from storyboard.seals import is_sealed, sealed

KEPT_COPIES = 2  # the newest ones; the files of others are deleted
Sizes = Mapping[str, int | None]  # bytes of files at a place by name; None where it does not say
LIST = re.compile(r"kept-(\d{4,9})(?:-([0-9a-f]{12}))?\.json")
STORED = re.compile(r"(.+)-\d{4,9}(?:-([0-9a-f]{12}))?")  # without its suffix
TAG, OF_RUN = 12, 8  # digits of a tag; the first ones, which are those of the run
README = "README.md"
ABOUT = """# Kept by Storyboard · Storyboard 的备份

`restore(settings, where)` brings this back into an output folder. Each file ends in the number of
the copy that wrote it; `kept-0001-….json` lists what belongs to copy 1. Change nothing here, and
add nothing.

用 `restore(settings, where)` 恢复。文件名末尾是第几次备份；
`kept-0001-….json` 列出第 1 次备份的全部文件。
请不要改动这里的文件，也不要往里面放别的文件。
"""


class StoredFile(Record):
    """A file of a copy.

    Attributes:
        at: Where it lies, relative to the place.
        size: Bytes.
        digest: SHA-256.
    """

    at: str
    size: Annotated[int, Field(ge=0)]
    digest: Sha256


class Copy(Record):
    """What ``keep`` copied at one time.

    Attributes:
        number: Counts from 1.
        tag: Tells it from others of its number; empty in those of an earlier release.
        run: Which output folder it is of, or one that was brought back from it.
        made: When, in UTC.
        files: By their names in the output folder.
    """

    version: Literal[1] = 1
    number: Annotated[int, Field(ge=1)]
    tag: Annotated[str, Field(pattern=r"^([0-9a-f]{12})?$")] = ""
    run: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    made: str
    files: dict[str, StoredFile]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name, file in self.files.items():
            if not contents.is_name(name) or _parsed(file.at)[0] != name:
                raise ValueError(f"{name} is no name of a kept file")
        if len({name.casefold() for name in self.files}) < len(self.files):
            raise ValueError("two names differ in case alone")
        return self

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files.values())

    def missing(self, sizes: Sizes) -> str | None:
        """Where a file should lie that is not among ``sizes``, whole by its size."""
        for file in self.files.values():
            if not is_there(file, sizes):
                return file.at
        return None

    @property
    def list_name(self) -> str:
        """Of the file that says what belongs to it."""
        return f"kept-{ending(self.number, self.tag)}.json"

    def to_json(self) -> str:
        return json.dumps(sealed(self.model_dump()), ensure_ascii=False, indent=1) + "\n"


def is_there(file: StoredFile, sizes: Sizes) -> bool:
    """Whether it is listed, with its size if any."""
    return file.at in sizes and sizes[file.at] in (None, file.size)


def read(path: Path) -> Copy | None:
    """The copy that a list describes; None where that is cut off or changed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not is_sealed(content) or "checksum" not in content:
            return None
        del content["checksum"]
        return Copy.model_validate(content)
    except (OSError, ValueError, RecursionError, ValidationError):
        return None


def ending(number: int, tag: str) -> str:
    """Of the names of what copy ``number`` writes."""
    return f"{number:04d}-{tag}" if tag else f"{number:04d}"


def stored_name(name: str, number: int, tag: str) -> str:
    """Where copy ``number`` puts the file ``name``."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{ending(number, tag)}{path.suffix}"))


def new_tag(run: str) -> str:
    """Of a copy of ``run`` that is to be made."""
    return run[:OF_RUN] + uuid.uuid4().hex[: TAG - OF_RUN]


def lists(names: Iterable[str]) -> list[str]:
    """The lists of copies among ``names``, the newest first."""
    return sorted(filter(LIST.fullmatch, names), key=lambda name: (number_of(name), name))[::-1]


def number_of(list_name: str) -> int:
    """Of the copy that has a list of this name."""
    return int(list_name.removesuffix(".json").split("-")[1])


def is_of(name: str, run: str) -> bool:
    """Whether a file of a place is a list or a file of a copy of ``run``, which may be unfinished.

    Without a tag it is taken for one: an earlier release, which wrote it, knew one run at a place.
    """
    if found := LIST.fullmatch(name):
        tag = found[2]
    else:
        original, tag = _parsed(name)
        if not contents.is_name(original):
            return False
    return not tag or tag.startswith(run[:OF_RUN])


def _parsed(stored: str) -> tuple[str, str]:
    """The name in the output folder, and the tag, of a stored file; empty for others."""
    path = PurePosixPath(stored)
    found = STORED.fullmatch(path.stem)
    return (str(path.with_name(found[1] + path.suffix)), found[2] or "") if found else ("", "")
