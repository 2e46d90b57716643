"""A story on its way to a folder: what is drawn there already, and drawing the rest."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyboard import artifacts
from storyboard.errors import ResourceError
from storyboard.models.run import Run
from storyboard.records import CHARACTER_FILE, PanelRecord
from storyboard.reference import Reference
from storyboard.rendering import batching, pictures
from storyboard.rendering.panels import panel_records
from storyboard.rendering.pictures import Pictures, TextChunks
from storyboard.story import Story

if TYPE_CHECKING:
    from storyboard.rendering.character import Character
    from storyboard.rendering.references import PreparedReference
    from storyboard.rendering.renderer import Renderer

BYTES_PER_PIXEL = 8  # of free space: PNGs of a panel and the grid, and what is replaced


@dataclass(frozen=True)
class Job:
    """A story that is to be drawn into a folder, checked.

    Attributes:
        lora: File that it is drawn with; None draws by the base alone.
        records: Of all panels, before they are drawn.
        kept: Those that are drawn in the folder already, by index.
        references: What each panel follows, None where it follows nothing.
        character: How panels keep the character; None where none does.
    """

    run: Run
    lora: Path | None
    folder: Path
    records: list[PanelRecord]
    kept: dict[int, PanelRecord]
    references: "list[PreparedReference | None]"
    character: "Character | None"

    @cached_property
    def fingerprint(self) -> str:
        """Of the whole story."""
        fingerprints = [record.fingerprint() for record in self.records]
        return artifacts.fingerprint(stage="render", panels=fingerprints)

    @property
    def todo(self) -> list[int]:
        """Indices of the panels that are to be drawn."""
        return [index for index in range(len(self.records)) if index not in self.kept]

    @property
    def steps(self) -> int:
        """Denoising steps of all of them."""
        return sum(self.records[index].steps for index in self.todo)

    @property
    def texts(self) -> list[str]:
        """Prompts that drawing them needs."""
        return batching.texts(self.records, self.todo)

    def renderer(self, pipe: Any = None) -> "Renderer":
        """What draws it; ``pipe`` as of ``Renderer``."""
        from storyboard.rendering.renderer import Renderer

        return Renderer(
            self.run, self.lora, references=self.references, character=self.character, pipe=pipe
        )

    def finished(self) -> Pictures | None:
        """The pictures, where nothing is to be done; None where something is."""
        if self.todo or not artifacts.finished(self.folder, self.fingerprint):
            return None
        return Pictures(self.folder, list(self.kept.values()))

    def begin(self) -> None:
        """Write the manifest of a story that is not finished, and what panels follow.

        Raises:
            SettingsError: A file in the folder that is not ours would be replaced.
        """
        if pictures.drawn_by_earlier_version(self.folder):
            print("render: made anew: an earlier version drew these", flush=True)
        artifacts.check_free(self.folder, pictures.files_of(self.records))
        pictures.write_unfinished(self.folder, self.kept.values(), self.records)
        if self.character and self.character.source:
            pictures.write_image(self.folder / CHARACTER_FILE, self.character.picture())

    def draw(
        self,
        renderer: "Renderer",
        text_chunks: TextChunks | None = None,
        *,
        on_step: Callable[[int], None] | None = None,
        on_panel: Callable[[int], None] | None = None,
    ) -> list[PanelRecord]:
        """Draw the panels ``todo``; returns all in order.

        The manifest is written after every batch, so that a break loses one at most.

        Args:
            on_step: As of ``Renderer.draw``.
            on_panel: Called with the index of each panel that is written.
        """
        panels = dict(self.kept)
        saving: dict[int, Future[PanelRecord]] = {}

        # one picture is written while the next is decoded
        with ThreadPoolExecutor(1) as writer:
            for drawing in renderer.draw(self.records, self.todo, on_step=on_step):
                index = drawing.index
                if drawing.control_image and drawing.record.reference:
                    path = self.folder / drawing.record.reference.file
                    pictures.write_image(path, drawing.control_image)
                saving[index] = writer.submit(
                    pictures.save_panel,
                    self.folder,
                    index,
                    drawing.image,
                    drawing.record,
                    text_chunks,
                )
                written = [i for i, saved in saving.items() if drawing.ends_batch or saved.done()]
                for i in written:
                    panels[i] = saving.pop(i).result()
                    if on_panel:
                        on_panel(i)
                if drawing.ends_batch:
                    pictures.write_unfinished(self.folder, panels.values(), self.records)

        return [panels[index] for index in range(len(self.records))]

    def finish(self, panels: list[PanelRecord]) -> Pictures:
        """Write what shows the whole story, of which all ``panels`` are drawn."""
        return pictures.finish(self.folder, self.fingerprint, panels)


def prepare(run: Run, story: Story, lora: Path | None, folder: Path) -> Job:
    """Check what the panels are drawn with, and look for those that are drawn.

    Args:
        lora: A file that was checked.

    Raises:
        SettingsError: A reference picture cannot be read, or the base has no such ControlNet.
        BaseError: A ControlNet or an IP-Adapter is missing, cut off or made for another base.
        ResourceError: The disk is too small.
    """
    _check_disk(folder, len(story) * run.resolution**2 * BYTES_PER_PIXEL)
    references = _prepare_references(run, story)
    character = _prepare_character(run, folder, references)
    records = panel_records(run, story, lora, references=references, character=character)
    kept = _kept(run, folder, records)
    return Job(run, lora, folder, records, kept, references, character)


def _check_disk(folder: Path, needed: int) -> None:
    if missing := artifacts.free_space_needed(folder, needed):
        raise ResourceError(
            f"The disk of {folder} lacks {missing / 1e6:,.0f} MB for the pictures: free some space "
            "or set output to another disk."
        )


def _prepare_references(run: Run, story: Story) -> "list[PreparedReference | None]":
    """Each panel's reference, checked, or None."""
    if not any(panel.reference for panel in story):
        return [None] * len(story)
    from storyboard.rendering import references

    return [
        references.prepare(run.base, panel.reference, number, run.num_inference_steps)
        if isinstance(panel.reference, Reference)
        else None
        for number, panel in enumerate(story, 1)
    ]


def _prepare_character(
    run: Run, folder: Path, references: "Sequence[PreparedReference | None]"
) -> "Character | None":
    if run.character is None:
        return None
    from storyboard.rendering import character

    return character.prepare(run, folder / pictures.panel_file(0), references)


def _kept(run: Run, folder: Path, records: Sequence[PanelRecord]) -> dict[int, PanelRecord]:
    """The panels that are drawn in ``folder``, in tiles or not as the user set it, by index."""
    kept = pictures.kept_panels(folder, records)
    tiling = run.settings.vae_tiling
    if tiling is None:
        return kept
    return {i: panel for i, panel in kept.items() if panel.as_drawn.vae_tiling == tiling}
