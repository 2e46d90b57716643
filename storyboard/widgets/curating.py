"""Look through a collected set: take pictures out, correct captions, one by one or many at once."""

from typing import Any

from storyboard.data import edits, edits_file
from storyboard.data.captions import Captions
from storyboard.data.curation import Curation
from storyboard.settings import Settings
from storyboard.widgets.display import Widgets, language_of


def curate(
    captions: Captions, settings: Settings, language: str | None = None
) -> "CurationWidgets":
    """Show ``captions`` with a tick and a box for the caption of each, and what was taken out.

    Every change is written to ``<output>/edits.csv`` at once (``data/edits_file.py``); ``clean``
    and ``collect``, run again, go by it. What is returned has all of it as methods too.

    Args:
        captions: What ``collect`` returned, or what ``clean`` kept.
        language: Of the labels, "zh" or "en"; None takes that of the captions.

    Raises:
        SettingsError: Another language.
        DatasetError: ``<output>/collected`` is missing or damaged, or ``edits.csv`` is.
    """
    collected = Captions.load(settings.folder / edits.COLLECTED)
    named = [row.source for row in collected.rows if row.source]
    made = edits_file.read(settings.folder, named)
    shown = {row.source for row in captions.rows}
    shown |= {name for name, edit in made.items() if not edit.keep}
    names = [name for name in named if name in shown]
    widgets = CurationWidgets(collected, settings, made, names)
    widgets.language = language_of(widgets.captions, language)
    return widgets


class CurationWidgets(Curation, Widgets):
    """A collected set with its widgets."""

    def box(self) -> Any:
        from storyboard.widgets.gallery import Gallery

        return Gallery(self, self.language).box
