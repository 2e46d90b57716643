"""A collected set while it is looked through: pictures taken out, captions changed, one or many."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from storyboard import locks
from storyboard.data import edits_file, text_files
from storyboard.data.captions import CaptionRow, Captions
from storyboard.data.edits_file import Edit, EditsFile
from storyboard.data.text_files import Refusal
from storyboard.errors import DatasetError, brief
from storyboard.settings import Settings
from storyboard.story import join

COMMAS = "，, "
WORD = r"[^\W_\u2e80-\u9fff]"  # a sign of a word, of scripts that part words


class Curation:
    """A collected set while it is looked through.

    A change is one of the file as it is at that moment: what was written there meanwhile, by hand
    or by another cell, stays.

    Attributes:
        names: Of the pictures that are shown, as the data set calls them.
        edits: What was decided, by name, when the file was read last.
    """

    def __init__(
        self, collected: Captions, settings: Settings, made: dict[str, Edit], names: list[str]
    ) -> None:
        self.collected = collected
        self.settings = settings
        self.edits = made
        self.names = names
        self._rows = {row.source: row for row in collected.rows if row.source}
        self._before: list[dict[str, Edit]] = []

    @property
    def counts(self) -> tuple[int, int, int]:
        """Of the pictures that are shown, of those taken out, and of captions changed."""
        taken_out = sum(not edit.keep for edit in self.edits.values())
        return len(self.names), taken_out, len(self.edits) - taken_out

    def __str__(self) -> str:
        shown, taken_out, described = self.counts
        return (
            f"{shown} pictures, {taken_out} taken out, {described} captions changed, "
            f"in {self.settings.folder / edits_file.FILE} ({edits_file.HEADER}), "
            "which clean and collect go by"
        )

    def row(self, name: str) -> CaptionRow:
        """The picture called ``name``, as it was collected.

        Raises:
            DatasetError: There is none.
        """
        if name not in self._rows:
            raise DatasetError(f"There is no picture {brief(name)} in {self.collected.folder}.")
        return self._rows[name]

    def text(self, name: str) -> str:
        """The caption of ``name`` as it is now."""
        return self.edits.get(name, Edit()).text or self.row(name).text

    def is_kept(self, name: str) -> bool:
        """Whether ``name`` stays in the set."""
        return self.edits.get(name, Edit()).keep

    def keep(self, name: str, kept: bool) -> None:
        """Take the picture ``name`` out, or put it back."""
        self._change([name], lambda _, edit: replace(edit, keep=kept))

    def describe(self, name: str, text: str) -> None:
        """Give ``name`` another caption; an empty one is that which was collected.

        Raises:
            DatasetError: It is too long, or no text.
        """
        self._change([name], lambda name, edit: self._described(name, edit, text))

    def put_first(self, words: str, names: Iterable[str] | None = None) -> None:
        """Put ``words``, such as a trigger word, before the captions of ``names``, or of all.

        What begins with them stays as it is.
        """
        words = words.strip(COMMAS)
        begins = re.compile(re.escape(words) + (f"(?!{WORD})" if _ends_word(words) else ""))
        self._rewrite(names, lambda text: text if begins.match(text) else join([words, text]))

    def put_last(self, words: str, names: Iterable[str] | None = None) -> None:
        """Put ``words`` after the captions of ``names``, or of all; not where they end so."""
        words = words.strip(COMMAS)
        ends = re.compile((f"(?<!{WORD})" if _begins_word(words) else "") + re.escape(words) + "$")
        self._rewrite(names, lambda text: text if ends.search(text) else join([text, words]))

    def replace(self, old: str, new: str, names: Iterable[str] | None = None) -> None:
        """Write ``new`` for ``old`` in the captions of ``names``, or of all; "" takes it out.

        Of the commas around what is taken out one is left, and none at the ends.

        Raises:
            DatasetError: Nothing would be left of a caption.
        """
        if old and not new:
            self._rewrite(names, lambda text: _without(old, text))
        elif old:
            self._rewrite(names, lambda text: text.replace(old, new))

    def containing(self, words: str) -> list[str]:
        """Names of the pictures whose captions or names contain ``words``, or of all."""
        folded = words.strip().casefold()
        return [
            name
            for name in self.names
            if folded in self.text(name).casefold() or folded in name.casefold()
        ]

    def undo(self) -> None:
        """Take the last change back, of the pictures that it changed; nothing where there is none.

        Raises:
            DatasetError: ``edits.csv`` cannot be read.
            ResourceError: The disk is full or refuses it; then the change can still be taken back.
        """
        if self._before:
            *steps, before = self._before
            self._change(before, lambda name, _: before[name])
            self._before = steps

    @property
    def captions(self) -> list[str]:
        """All captions, as they were collected."""
        return [row.text for row in self._rows.values()]

    def _described(self, name: str, edit: Edit, text: str) -> Edit:
        try:
            tidy = text_files.caption(text).text
        except Refusal as refusal:
            raise DatasetError(f"The caption of {name} {refusal}.") from refusal
        return Edit(edit.keep, "" if tidy == self.row(name).text else tidy)

    def _rewrite(self, names: Iterable[str] | None, make: Callable[[str], str]) -> None:
        """Make another caption of each of ``names``, or of all, but of those taken out."""

        def change(name: str, edit: Edit) -> Edit:
            if not edit.keep:
                return edit
            text = edit.text or self.row(name).text
            made = make(text)
            if text and not made.strip():
                raise DatasetError(
                    f"Nothing would be left of the caption of {name}: take the picture out, or "
                    "give it another caption."
                )
            return edit if made == text else self._described(name, edit, made)

        self._change(self.names if names is None else names, change)

    def _change(self, names: Iterable[str], change: Callable[[str, Edit], Edit]) -> None:
        """Change what the file, read anew, says of ``names``; all that it says of others stays."""
        names = list(names)
        for name in names:
            self.row(name)
        with locks.hold(self.settings.folder, "curate"):
            file = EditsFile(self.settings.folder, self._rows)
            self.edits = file.edits
            before = {name: file.edits.get(name, Edit()) for name in names}
            after = {name: change(name, edit) for name, edit in before.items()}
            changed = {name: edit for name, edit in after.items() if edit != before[name]}
            if changed:
                self.edits = file.change(changed)
                self._before.append({name: before[name] for name in changed})


def _ends_word(words: str) -> bool:
    return re.search(f"{WORD}$", words) is not None


def _begins_word(words: str) -> bool:
    return re.match(WORD, words) is not None


def _without(old: str, text: str) -> str:
    """``text`` without ``old``, and without the comma or space too many that it leaves."""
    kept, *others = text.split(old)
    for right in others:
        if kept.rstrip()[-1:] in ("", "，", ","):
            kept += right.lstrip(COMMAS)
        elif right.lstrip()[:1] in ("", "，", ","):
            kept = kept.rstrip() + right
        else:
            kept += right.lstrip() if kept[-1].isspace() else right
    return kept.rstrip(COMMAS) if text.endswith(old) else kept


BULK: dict[str, Callable[[Curation, str, str, list[str]], None]] = {
    "first": lambda curation, words, _, names: curation.put_first(words, names),
    "last": lambda curation, words, _, names: curation.put_last(words, names),
    "replace": lambda curation, words, other, names: curation.replace(words, other, names),
}
