"""Copies along the way: a place that fails is told and does not end the work."""

from storyboard import disks, locks
from storyboard.errors import StoryboardError, UnreachableError
from storyboard.keeping import place
from storyboard.keeping.keep import check_ours, copy_to
from storyboard.settings import Settings


class Along:
    """Keeps the output folder of ``settings`` in ``settings.keep_in``, while a stage works there.

    Without such a place it does nothing.

    Args:
        what: The stage, for messages.

    Attributes:
        failure: Why the last copy failed; None where it did not, or there was none.
    """

    def __init__(self, settings: Settings, what: str) -> None:
        self.settings, self.what = settings, what
        self.place = place.of(settings) if settings.keep_in else None
        self.failure: str | None = None
        self._printed = ""  # the last line, without sizes

    def __str__(self) -> str:
        """Goes on a sentence on what was made."""
        if self.place is None:
            return ""
        return f", but not kept in {self.place}" if self.failure else f" and kept in {self.place}"

    def check(self) -> None:
        """Look at the place before the work; one that does not answer is told.

        Raises:
            KeepingError: It cannot become right by itself: it is not mounted, public, or holds
                copies of another folder, which would be lost.
        """
        if self.place is None:
            return
        self.place.check(self.settings.folder)
        try:
            found = place.look(self.place)
            check_ours(self.place, found, self.settings.folder)
            self.place.check_private()
        except UnreachableError as error:
            self._fail(error, always=False)

    def keep(self, last: bool = False) -> None:
        """Copy what is there now; a line says so where it is the first, the last or a change.

        Args:
            last: The work is over.
        """
        if self.place is None:
            return
        folder = self.settings.folder
        try:
            with disks.working_in(folder), locks.hold(folder, self.what):
                kept = copy_to(self.place, self.settings)
        except (StoryboardError, OSError) as error:  # what was made here is not worth less by it
            self._fail(error, always=last)
            return
        self.failure = None
        self._print(str(kept), kept.where, always=last)

    def _fail(self, error: Exception, always: bool) -> None:
        self.failure = str(error)
        line = f"{self.what}: what is made is not kept: {error}"
        self._print(line, line, always)

    def _print(self, line: str, about: str, always: bool) -> None:
        if always or about != self._printed:
            print(line, flush=True)
        self._printed = about
