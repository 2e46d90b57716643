"""Many stories: each as ``render`` draws it, in this process or on a cluster."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from storyboard import cluster, show, stages
from storyboard.lora.file import Lora
from storyboard.models import conditioning, embedding_files
from storyboard.rendering import many_workers, stage, story_files
from storyboard.rendering.many_manifest import MANIFEST, Manifest
from storyboard.rendering.many_workers import FOLDER, Drawer, Drawn
from storyboard.rendering.pictures import Pictures, TextChunks
from storyboard.rendering.story_files import Stories
from storyboard.settings import Settings
from storyboard.story import Story

SHOWN, SIDE = 6, 230  # grids in the display, and pixels of their sides


@dataclass(frozen=True)
class ManyPictures:
    """The pictures of many stories on disk.

    Attributes:
        folder: Holds a folder for each story, as ``render`` makes it, and ``manifest.jsonl``.
        stories: The pictures of each that was drawn, by name.
        failures: Why others were not, by name.
    """

    folder: Path
    stories: dict[str, Pictures] = field(repr=False)
    failures: dict[str, str] = field(repr=False)

    @property
    def manifest(self) -> Path:
        """A line of JSON for each panel, or for a story that failed."""
        return self.folder / MANIFEST

    @property
    def paths(self) -> list[Path]:
        """All panels, story by story."""
        return [path for pictures in self.stories.values() for path in pictures.paths]

    def __str__(self) -> str:
        total = len(self.stories) + len(self.failures)
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"{len(self.stories)} of {total} stories{failed}, {len(self.paths)} pictures in "
            f"{self.folder}, listed in {self.manifest}"
        )

    def _repr_html_(self) -> str:
        grids = [(pictures.grid, name) for name, pictures in self.stories.items()]
        lines = [str(self), *(f"{name}: {error}" for name, error in self.failures.items())]
        if len(grids) > SHOWN:
            lines.append(f"the first {SHOWN} of {len(grids)} grids:")
        return show.page(show.bullets(lines), show.gallery(grids[:SHOWN], SIDE))


@stages.stage("render_many")
def render_many(
    stories: Stories,
    settings: Settings,
    lora: Lora | Path | str | None,
    text_chunks: TextChunks | None = None,
) -> ManyPictures:
    """Draw each of ``stories`` into ``<output>/many/<name>``, as ``render`` draws it.

    Only panels are drawn that are not there as they should be, so that a call that was interrupted
    goes on. A story that fails does not end the others.

    Args:
        stories: Stories by name, or the path of a ``.jsonl`` or ``.csv`` file of them
            (``story_files.named``).
        settings: ``cluster`` says where; None draws in this process.
        lora: None draws by the base alone.
        text_chunks: Further text chunks of a panel's PNG, by name.

    Raises:
        SettingsError: A name or a line of the file that cannot be, or the cluster does not answer.
        BaseError, LoraError, ResourceError: As of ``render``; stories that are drawn stay.
    """
    # 1. what is drawn, checked before anything is
    named = story_files.named(stories)
    lora_file = stage.lora_path(lora)
    folder = settings.folder / FOLDER
    manifest = Manifest(folder, named)

    # 2. story by story
    result, progress = ManyPictures(folder, {}, {}), _Progress(sum(map(len, named.values())))
    found = _drawn(named, settings, lora_file, text_chunks, progress.count)
    with progress.live, manifest, closing(found):
        for drawn in found:
            manifest.add(drawn)
            if drawn.pictures is None:
                result.failures[drawn.name] = drawn.error
                print(f"render_many: {drawn.name} failed: {drawn.error}", flush=True)
            else:
                story_pictures = Pictures(folder / drawn.name, drawn.pictures.panels)
                result.stories[drawn.name] = story_pictures
                progress.live.picture("the latest story", [story_pictures.grid])
            progress.finish(len(named[drawn.name]), len(drawn.new))

    embedding_files.forget_oldest(settings.folder / conditioning.CACHE, ())
    print(f"render_many: drew {progress.new} of {progress.live.total} panels, {result}", flush=True)
    return result


def _drawn(
    stories: Mapping[str, Story],
    settings: Settings,
    lora: Path | None,
    text_chunks: TextChunks | None,
    on_panel: Callable[[], None],
) -> Generator[Drawn, None, None]:
    """What became of each of ``stories``, in order."""
    if settings.cluster is None:
        drawer = Drawer(settings, lora, text_chunks, on_panel=on_panel)
        yield from many_workers.here(drawer, stories)
        return
    with cluster.connected(settings.cluster, settings.folder) as connected:
        print(f"render_many: {connected}", flush=True)
        yield from many_workers.there(connected, settings, lora, text_chunks, stories)


class _Progress:
    """Panels that are done; those of a story in this process as they come."""

    def __init__(self, total: int) -> None:
        self.live = show.Live("render_many", total, "panels")
        self.done = self.new = self._of_story = 0

    def count(self) -> None:
        """A panel of the story that is being drawn is done."""
        self._of_story += 1
        self.live.step(self.done + self._of_story)

    def finish(self, panels: int, new: int) -> None:
        """A story of so many ``panels`` is done, of which ``new`` were drawn."""
        self.done, self.new, self._of_story = self.done + panels, self.new + new, 0
        self.live.step(self.done)
