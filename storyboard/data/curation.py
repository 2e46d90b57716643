"""A collected set while it is looked through: pictures taken out, captions changed, one or many."""

from collections.abc import Callable, Iterable

from storyboard.data import edits, text_files
from storyboard.data.captions import CaptionRow, Captions
from storyboard.data.edits import Edit
from storyboard.data.text_files import Refusal
from storyboard.errors import DatasetError, brief
from storyboard.settings import Settings
from storyboard.story import join


class Curation:
    """A collected set while it is looked through.

    Attributes:
        names: Of the pictures that are shown, as the data set calls them.
        edits: What was decided, by name.
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
            f"in {self.settings.folder / edits.FILE} ({edits.HEADER}), "
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
        self._change({name: Edit(kept, self.edits.get(name, Edit()).text)})

    def describe(self, name: str, text: str) -> None:
        """Give ``name`` another caption; an empty one is that which was collected.

        Raises:
            DatasetError: It is too long, or no text.
        """
        self._describe({name: text})

    def put_first(self, words: str, names: Iterable[str] | None = None) -> None:
        """Put ``words``, such as a trigger word, before the captions of ``names``, or of all.

        What begins with them stays as it is.
        """
        texts = {name: self.text(name) for name in self._chosen(names)}
        self._describe(
            {
                name: join([words, text])
                for name, text in texts.items()
                if not text.startswith(words)
            }
        )

    def put_last(self, words: str, names: Iterable[str] | None = None) -> None:
        """Put ``words`` after the captions of ``names``, or of all; not where they end so."""
        texts = {name: self.text(name) for name in self._chosen(names)}
        self._describe(
            {name: join([text, words]) for name, text in texts.items() if not text.endswith(words)}
        )

    def replace(self, old: str, new: str, names: Iterable[str] | None = None) -> None:
        """Write ``new`` for ``old`` in the captions of ``names``, or of all; "" takes it out.

        Commas that are left over at the ends or side by side go too.
        """
        texts = {name: self.text(name) for name in self._chosen(names)}
        found = {name: text for name, text in texts.items() if old and old in text}
        self._describe({name: _tidy(text.replace(old, new)) for name, text in found.items()})

    def containing(self, words: str) -> list[str]:
        """Names of the pictures whose captions or names contain ``words``, or of all."""
        folded = words.strip().casefold()
        return [
            name
            for name in self.names
            if folded in self.text(name).casefold() or folded in name.casefold()
        ]

    def undo(self) -> None:
        """Take the last change back; nothing where there is none."""
        if self._before:
            self._write(self._before.pop())

    @property
    def captions(self) -> list[str]:
        """All captions, as they were collected."""
        return [row.text for row in self._rows.values()]

    def _chosen(self, names: Iterable[str] | None) -> list[str]:
        return [name for name in (self.names if names is None else names) if self.is_kept(name)]

    def _describe(self, texts: dict[str, str]) -> None:
        changed = {}
        for name, text in texts.items():
            try:
                tidy = text_files.caption(text).text
            except Refusal as refusal:
                raise DatasetError(f"The caption of {name} {refusal}.") from refusal
            own = self.row(name).text
            changed[name] = Edit(self.is_kept(name), "" if tidy == own else tidy)
        self._change(changed)

    def _change(self, changed: dict[str, Edit]) -> None:
        for name in changed:
            self.row(name)
        made = {name: edit for name, edit in (self.edits | changed).items() if edit}
        if made != self.edits:
            before = self.edits
            self._write(made)
            self._before.append(before)

    def _write(self, made: dict[str, Edit]) -> None:
        edits.write(self.settings.folder, made)
        self.edits = made


def _tidy(text: str) -> str:
    """``text`` without empty parts between commas."""
    for comma, joint in (("，", "，"), (",", ", ")):
        if comma in text:
            text = joint.join(part.strip() for part in text.split(comma) if part.strip())
    return text


BULK: dict[str, Callable[[Curation, str, str, list[str]], None]] = {
    "first": lambda curation, words, _, names: curation.put_first(words, names),
    "last": lambda curation, words, _, names: curation.put_last(words, names),
    "replace": lambda curation, words, other, names: curation.replace(words, other, names),
}
