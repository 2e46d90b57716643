"""Which pictures and captions a folder has, in each of the forms in which people keep them."""

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from storyboard import images
from storyboard.data import edits_file
from storyboard.data.beside import CaptionFiles, folded
from storyboard.data.captions import Note
from storyboard.data.listing_file import NOT_READ, ListedPicture, ListingFile, folder_of, suffix
from storyboard.data.lookup import Lookup
from storyboard.data.text_files import Refusal, read_text
from storyboard.data.tree import is_hidden, scan, shown

__all__ = ["ListedPicture", "Listing", "read_folder", "read_text"]

# of what is called ``metadata``: pictures that it lacks are left out
STRICT = (".jsonl", ".csv", *NOT_READ)
LISTINGS = (*STRICT, ".json", ".ndjson", ".tsv")
USED = "is read as a listing, for pictures without a caption"
WITHOUT_PICTURE = "is a caption file, and there is no picture of its name"


@dataclass
class Listing:
    """What a folder has.

    Attributes:
        pictures: With their captions, and what is left out with its reason.
        notes: What is to be known of other files.
        others: How many files have no part in it, by suffix.
    """

    pictures: list[ListedPicture] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    others: Counter = field(default_factory=Counter)


def read_folder(folder: Path, output: Path | None = None) -> Listing:
    """The pictures of ``folder`` with their captions.

    Understands ``metadata.jsonl`` and ``metadata.csv`` as Hugging Face's imagefolder and
    Data-Juicer write them, in any subfolder, and otherwise files beside the pictures, as kohya's
    scripts do; for pictures without those, any other listing that names them. What lies in
    ``output`` or in hidden folders is passed over. Nothing is read through a link that leads out
    of the folder. A file or a row that cannot be read is left out, with the reason.
    """
    return _Reader(folder, output).read()


class _Reader:
    """Reads one folder."""

    def __init__(self, folder: Path, output: Path | None) -> None:
        self.tree = scan(folder, output)
        # what was decided by hand of the set, where both folders are one, is no listing of it
        if output and output.resolve() == self.tree.root:
            self.tree.files.pop(edits_file.FILE, None)
        self.lookup = Lookup(self.tree, folder)
        self.captions = CaptionFiles(self.tree)
        self.listing = Listing()
        self.taken: dict[str, str] = {}  # the listing and line that a file was named in
        self.used: set[str] = set()  # listings that were read

    def read(self) -> Listing:
        scopes = {}
        for name in self._strict_listings():
            file = self._listing_file(name)
            self.listing.pictures += file.pictures
            self.listing.notes += file.notes
            usable = any(picture.file for picture in file.pictures)
            reason = "is not named in" if usable else "belongs to a listing that cannot be used,"
            scopes[folder_of(name)] = f"{reason} {shown(name)}"

        alone = []
        for name in self._pictures():
            scope = next((scopes[parent] for parent in _parents(name) if parent in scopes), None)
            if scope:
                self._leave_out(name, scope)
            else:
                alone.append(self._beside(name))
        self.listing.pictures += self._with_other_listings(alone)

        for name, reason in self.tree.left_out.items():
            if suffix(name) in ("", *LISTINGS) or images.is_named_as_picture(Path(name)):
                self._leave_out(name, reason)
        self._account_for_others()
        return self.listing

    def _leave_out(self, name: str, reason: str) -> None:
        if name not in self.used:
            self.listing.pictures.append(ListedPicture(shown(name), "", None, reason))

    def _pictures(self) -> list[str]:
        """The pictures that no listing named."""
        return [
            name
            for name in self.tree.files
            if images.is_named_as_picture(Path(name))
            and not is_hidden(name)
            and name not in self.taken
        ]

    def _strict_listings(self) -> list[str]:
        """One ``metadata.jsonl`` or ``metadata.csv`` a folder, or what people have in its place."""
        by_folder: dict[str, list[str]] = defaultdict(list)
        for name in [*self.tree.files, *self.tree.left_out]:
            if PurePosixPath(name).stem.casefold() == "metadata" and suffix(name) in STRICT:
                by_folder[folder_of(name)].append(name)
        chosen = []
        for names in by_folder.values():
            first, *rest = sorted(names, key=lambda name: (STRICT.index(suffix(name)), name))
            chosen.append(first)
            self.used.update(rest)
            self.listing.notes += [
                Note(shown(name), f"is not read, {shown(first)} is") for name in rest
            ]
        return chosen

    def _listing_file(self, name: str) -> ListingFile:
        self.used.add(name)
        return ListingFile(name, self.tree, self.lookup, self.taken)

    def _beside(self, name: str) -> ListedPicture:
        try:
            caption = self.captions.read(name)
        except Refusal as refusal:
            return ListedPicture(shown(name), "", None, str(refusal))
        return ListedPicture(shown(name), caption.text, self.tree.files[name], note=caption.note)

    def _with_other_listings(self, pictures: list[ListedPicture]) -> list[ListedPicture]:
        """``pictures``, those without a caption with that of a listing of another name."""
        lacking = {picture.file.name for picture in pictures if picture.file and not picture.text}
        candidates = [
            name
            for name in self.tree.files
            if suffix(name) in LISTINGS and name not in self.used and not is_hidden(name)
        ]
        by_name = {}
        for name in candidates if lacking else ():
            if name in self.captions.used:
                continue
            self.taken.clear()  # what is named here is among ``pictures``, or is not used
            file = ListingFile(name, self.tree, self.lookup, self.taken)
            named = {row.file.name: row for row in file.pictures if row.file and row.text}
            named |= file.refused
            if not lacking & named.keys():
                continue
            self.used.add(name)
            by_name = named | by_name
            self.listing.notes += [Note(shown(name), USED), *file.notes]
            refused = file.refused.values()
            self.listing.pictures += [
                row for row in file.pictures if row.file is None and row not in refused
            ]

        return [
            by_name.get(picture.file.name, picture)
            if picture.file and not picture.text
            else picture
            for picture in pictures
        ]

    def _account_for_others(self) -> None:
        """Note caption files without a picture, and count files that have no part in the set."""
        names = [
            name
            for name in [*self.tree.files, *self.tree.left_out]
            if images.is_named_as_picture(Path(name))
        ]
        owners = {folded(name) for name in names}
        owners |= {folded(posixpath.splitext(name)[0]) for name in names}
        for name in self.captions.names:
            if folded(name.rpartition(".")[0]) not in owners and name not in self.used:
                self.listing.notes.append(Note(shown(name), WITHOUT_PICTURE))
        self.listing.others = Counter(suffix(name) for name in self.tree.files)


def _parents(name: str) -> Iterator[str]:
    """The folders above ``name``, the nearest first."""
    while name:
        name = folder_of(name)
        yield name
