"""Captions in files beside the pictures, under the names that trainers and taggers give them."""

import posixpath
import unicodedata
from collections import defaultdict
from pathlib import PurePosixPath

from storyboard.data import rows, text_files
from storyboard.data.text_files import Refusal, Text
from storyboard.data.tree import File, Tree, shown

# kohya's two; then WD taggers', and a JSON object of which the caption is one value
SUFFIXES = (".txt", ".caption", ".cap", ".tags", ".json")
OTHER_TEXT = "has another caption in a second file, which is not read"


def folded(name: str) -> str:
    """``name`` without case, and with composed accents: macOS takes them apart."""
    return unicodedata.normalize("NFC", name).casefold()


class CaptionFiles:
    """The caption files of a tree, by the pictures they belong to."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.used: set[str] = set()
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in [*tree.files, *tree.left_out]:
            stem, dot, suffix = name.rpartition(".")
            if dot and f".{suffix}".casefold() in SUFFIXES and "/" not in suffix:
                self._by_stem[folded(stem)].append(name)

    def names_of(self, picture: str) -> list[str]:
        """Names of the files that may hold the caption of ``picture``, the likeliest first.

        For ``a.png`` these are ``a.txt`` and ``a.png.txt``, in any case.
        """
        stem = posixpath.splitext(picture)[0]
        names = [*self._by_stem.get(folded(stem), ()), *self._by_stem.get(folded(picture), ())]

        def order(name: str) -> tuple[bool, int]:
            owner, _, suffix = name.rpartition(".")
            return owner not in (stem, picture), SUFFIXES.index(f".{suffix}".casefold())

        return sorted(dict.fromkeys(names), key=order)

    def read(self, picture: str) -> Text:
        """The caption of ``picture``; empty where there is none.

        Raises:
            Refusal: None of its caption files can be read, and one is damaged.
        """
        texts, refusals = [], []
        for name in self.names_of(picture):
            self.used.add(name)
            try:
                text = self._read(name)
            except Refusal as refusal:
                refusals.append(f"its caption {shown(PurePosixPath(name).name)} {refusal}")
                continue
            if text.text:
                texts.append(text)
        if texts:
            differs = any(text.text != texts[0].text for text in texts[1:])
            return Text(texts[0].text, texts[0].note or (OTHER_TEXT if differs else ""))
        if refusals:
            raise Refusal(refusals[0])
        return Text("")

    @property
    def names(self) -> list[str]:
        """Names of all caption files but JSON, which may be anything."""
        return [
            name
            for names in self._by_stem.values()
            for name in names
            if not name.casefold().endswith(".json") and name in self.tree.files
        ]

    def _read(self, name: str) -> Text:
        if name in self.tree.left_out:
            raise Refusal(self.tree.left_out[name])
        return caption_in(name, read_file(self.tree.files[name], text_files.MAX_FILE))


def caption_in(name: str, decoded: Text) -> Text:
    """The caption in the text of a file called ``name``.

    Raises:
        Refusal: It is no caption.
    """
    if not name.casefold().endswith(".json"):
        caption = text_files.caption(decoded.text)
        return Text(caption.text, decoded.note or caption.note)

    content = rows.parsed(decoded.text) if decoded.text.strip() else ""
    values = content if isinstance(content, dict) else {"text": content}
    caption = rows.caption_of(values)
    return Text(caption.text, decoded.note or caption.note)


def read_file(file: File, limit: int) -> Text:
    """The text of ``file``.

    Raises:
        Refusal: It is larger than ``limit`` bytes, cannot be opened, or its encoding cannot be
            told.
    """
    if file.size > limit:
        raise Refusal(f"has {file.size:,} bytes, where {limit:,} are read: shorten it")
    try:
        with file.path.open("rb") as content:
            return text_files.decode(content.read(limit))
    except OSError as error:
        raise Refusal(f"cannot be opened ({error.strerror})") from error
