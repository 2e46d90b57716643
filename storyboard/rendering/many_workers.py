"""What draws many stories: one object in a process, which loads the base once.

The bits of a picture drawn on a CPU depend on the number of threads that share its matrix
products: workers take as many as the notebook's process has.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from storyboard import artifacts, disks, locks
from storyboard.cluster import Cluster
from storyboard.errors import RenderingError, SettingsError
from storyboard.models.run import Run, absolute, resolve, settings_everywhere
from storyboard.reference import Reference
from storyboard.rendering import job as jobs
from storyboard.rendering.job import Job
from storyboard.rendering.pictures import Pictures, TextChunks
from storyboard.settings import Settings
from storyboard.story import Story

FOLDER = "many"  # in the output folder
MOST_ATTEMPTS = 4  # Ray itself would try without end
DIED = (
    f"The worker that drew it died {MOST_ATTEMPTS} times, for want of memory perhaps: start the "
    "cluster with fewer workers a machine, or lower resolution or render_batch_size."
)
OF_A_STORY = (RenderingError, SettingsError)  # others would meet every story
OnPanel = Callable[[], None]


@dataclass(frozen=True)
class Drawn:
    """What became of one story.

    Attributes:
        pictures: None where it failed.
        error: Why.
        new: Panels that were drawn now.
        seconds: That those took, one like the other.
        digests: SHA-256 of the panels' files.
    """

    name: str
    pictures: Pictures | None = None
    error: str = ""
    new: frozenset[int] = frozenset()
    seconds: float = 0.0
    digests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """What a machine draws with: the same on all, or pictures would differ."""

    base: str
    fingerprint: str
    precision: str


class Drawer:
    """Draws stories into ``<output>/many/<name>``, one after another by one pipeline.

    Args:
        settings: Whose paths hold wherever this runs.
        lora: A file that was checked; None draws by the base alone.
        threads: Of torch; None leaves them.
        on_panel: Called after each panel that is drawn.
    """

    def __init__(
        self,
        settings: Settings,
        lora: Path | None,
        text_chunks: TextChunks | None = None,
        threads: int | None = None,
        on_panel: OnPanel | None = None,
    ) -> None:
        self.settings, self.lora = settings, lora
        self.text_chunks, self.on_panel = text_chunks, on_panel
        self._jobs: dict[str, Job] = {}  # prepared, not drawn yet
        if threads:
            import torch

            torch.set_num_threads(threads)

    @cached_property
    def run(self) -> Run:
        """Of this machine, which may have another card than the notebook's."""
        return resolve(self.settings)

    @cached_property
    def _pipe(self):
        from storyboard.rendering.renderer import Renderer

        return Renderer(self.run, self.lora).pipe

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Encode all ``stories`` of a row, or draw its ``story``."""
        folder = self.settings.folder
        with locks.joined(folder), disks.working_in(folder):
            if "stories" in row:
                return {"encoded": self.encode(row["stories"])}
            with _attempt(row["name"]) as number:
                if number > MOST_ATTEMPTS:
                    return {"drawn": Drawn(row["name"], error=DIED)}
                drawn = self.draw(row["name"], row["story"])
                if drawn.error:
                    print(f"{row['name']} failed: {drawn.error}", flush=True)  # for Ray's dashboard
                return {"drawn": drawn}

    def encode(self, stories: Mapping[str, Story]) -> Encoded:
        """Keep the embeddings of all that is to be drawn, the text encoders loaded once."""
        from storyboard.rendering.renderer import encode_ahead

        run = self.run
        for name, story in stories.items():
            with suppress(*OF_A_STORY):  # drawing it tells
                self._jobs[name] = self._prepare(name, story)
        texts = [text for name in stories for text in self._texts(name)]
        encode_ahead(run, self.lora, dict.fromkeys(texts))
        return Encoded(run.base.name, run.base_fingerprint, run.plan.precision)

    def _texts(self, name: str) -> list[str]:
        return self._jobs[name].texts if name in self._jobs else []

    def _prepare(self, name: str, story: Story) -> Job:
        return jobs.prepare(self.run, story, self.lora, self.settings.folder / FOLDER / name)

    def draw(self, name: str, story: Story) -> Drawn:
        """Draw one story; what fails in it is told, what would fail in all is raised.

        Raises:
            BaseError, LoraError, ResourceError: As of ``render``.
        """
        self.run  # noqa: B018  (what is wrong with the settings is no story's fault)
        # of a worker that is taken for dead, and draws on, this one waits
        with locks.hold(self.settings.folder / FOLDER / name, "render_many"):
            try:
                job = self._jobs.pop(name, None) or self._prepare(name, story)
                return self._draw(name, job)
            except OF_A_STORY as error:
                return Drawn(name, error=str(error))

    def _draw(self, name: str, job: Job) -> Drawn:
        story_pictures, seconds = job.finished(), 0.0
        new = frozenset(job.todo)
        if story_pictures is None:
            job.begin()
            # an IP-Adapter stays in the pipeline that it was loaded into
            own_pipe = job.character is not None and job.character.method == "ip-adapter"
            pipe = None if own_pipe or not new else self._pipe
            began = time.perf_counter()
            panels = list(job.kept.values())
            if new:
                panels = job.draw(job.renderer(pipe), self.text_chunks, on_panel=self._count)
            seconds = (time.perf_counter() - began) / max(1, len(new))
            story_pictures = job.finish(panels)
        digests = tuple(artifacts.digest_of_file(path) for path in story_pictures.paths)
        return Drawn(name, story_pictures, new=new, seconds=seconds, digests=digests)

    def _count(self, _index: int) -> None:
        if self.on_panel:
            self.on_panel()


@contextmanager
def _attempt(name: str) -> Iterator[int]:
    """How many workers have begun with a story; one that died leaves its mark."""
    folder = locks.temporary_files()
    assert folder is not None
    marks = folder / f"{name}.begun"
    begun = (marks.read_text(encoding="ascii") if marks.exists() else "") + "."
    marks.write_text(begun, encoding="ascii")
    try:
        yield len(begun)
    finally:
        marks.unlink(missing_ok=True)


def here(drawer: Drawer, stories: Mapping[str, Story]) -> Iterator[Drawn]:
    """Draw ``stories`` in this process."""
    drawer.encode(stories)
    for name, story in stories.items():
        yield drawer.draw(name, story)


def there(
    cluster: Cluster,
    settings: Settings,
    lora: Path | None,
    text_chunks: TextChunks | None,
    stories: Mapping[str, Story],
) -> Iterator[Drawn]:
    """Draw ``stories`` by workers with a GPU each, or with CPUs where the cluster has none.

    Raises:
        SettingsError: Machines would draw with other bases, or in another precision.
    """
    import torch

    threads = torch.get_num_threads()
    gpu = cluster.gpus > 0 and settings.device != "cpu"
    share: dict[str, Any] = {"gpu": gpu, "cpus": cluster.cpus_for(threads)}
    own = {"lora": lora and lora.resolve(), "text_chunks": text_chunks, "threads": threads}
    settings = settings_everywhere(settings)
    rows = [{"name": name, "story": story_everywhere(story)} for name, story in stories.items()]

    # 1. text encoders and UNet are not in memory together
    count = cluster.workers(len(rows), 1, gpu, share["cpus"])
    parts = [rows[first::count] for first in range(count)]
    texts = [{"stories": {row["name"]: row["story"] for row in part}} for part in parts]
    found = cluster.map(texts, Drawer, {"settings": settings, **own}, **share)
    base, precision = agreed(row["encoded"] for row in found)

    # 2. a story at a time
    settings = settings.but(base=settings.base or base, precision=precision)
    drawn = cluster.map(
        rows, Drawer, {"settings": settings, **own}, blocks_per_worker=len(rows), **share
    )
    for row in drawn:
        yield row["drawn"]


def agreed(found: Iterable[Encoded]) -> tuple[str, str]:
    """Base and precision of all machines."""
    kinds = dict.fromkeys(found)
    if len(kinds) > 1:
        different = " and ".join(f"{each.base} in {each.precision}" for each in kinds)
        raise SettingsError(
            f"Machines of the cluster would draw with {different}: set base and precision, and "
            "have the same weights on all."
        )
    [kind] = kinds
    return kind.base, kind.precision


def story_everywhere(story: Story) -> Story:
    """``story`` with paths that hold in another working folder."""
    panels = [replace(each, reference=_reference_everywhere(each.reference)) for each in story]
    return Story(panels, story.negative_prompt, common=story.common, trigger=story.trigger)


def _reference_everywhere(reference: Reference | str | None) -> Reference | None:
    if not isinstance(reference, Reference):
        return None
    return replace(
        reference,
        picture=absolute(reference.picture),
        weights=absolute(reference.weights) if reference.weights else None,
        annotator=absolute(reference.annotator) if reference.annotator else None,
    )
