"""Stage 4, render: base and LoRA file in, one picture a panel and the grid out."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from storyboard import artifacts, stages
from storyboard.errors import ResourceError
from storyboard.lora import reading
from storyboard.lora.file import Lora, path_of
from storyboard.models.run import Run, resolve
from storyboard.records import CHARACTER_FILE, PanelRecord
from storyboard.reference import Reference
from storyboard.rendering import pictures
from storyboard.rendering.panels import panel_records
from storyboard.rendering.pictures import Pictures, TextChunks
from storyboard.settings import Settings
from storyboard.story import Story

if TYPE_CHECKING:
    from storyboard.rendering.character import Character
    from storyboard.rendering.references import PreparedReference

BYTES_PER_PIXEL = 8  # of free space: PNGs of a panel and the grid, and what is replaced


@stages.stage("render")
def render(
    story: Story,
    settings: Settings,
    lora: Lora | Path | str | None,
    folder: Path | None = None,
    text_chunks: TextChunks | None = None,
) -> Pictures:
    """Draw ``story`` into ``<output>/story``, or by the base alone into ``<output>/base``.

    Only panels are drawn whose prompts, seed, reference (by content), base, LoRA or settings
    changed.

    Args:
        lora: None draws by the base alone.
        folder: Takes the place of both folders.
        text_chunks: Further text chunks of a panel's PNG, by name.

    Raises:
        SettingsError: A reference picture cannot be read, the base has no such ControlNet, or a
            file in ``folder`` that is not ours would be replaced.
        BaseError: A ControlNet or an IP-Adapter is missing, cut off or made for another base.
        LoraError: The LoRA file is missing or not the one that was trained, belongs to another
            base or does not attach whole.
        RenderingError: A picture is blank or not finite; those already drawn stay.
        ResourceError: The disk is full, or the card too small for one picture.
    """
    # 1. what panels are drawn with, checked before anything is drawn
    run = resolve(settings)
    lora_file = lora_path(lora)
    folder = folder or run.folder / ("story" if lora_file else "base")
    _check_disk(folder, len(story) * run.resolution**2 * BYTES_PER_PIXEL)
    references = _prepare_references(run, story)
    character = _prepare_character(run, folder, references)

    # 2. what each panel is made from
    records = panel_records(run, story, lora_file, references=references, character=character)
    fingerprints = [record.fingerprint() for record in records]
    fingerprint = artifacts.fingerprint(stage="render", panels=fingerprints)

    # 3. what is drawn already
    kept = _kept(run, folder, records)
    todo = [index for index in range(len(records)) if index not in kept]
    if not todo and artifacts.finished(folder, fingerprint):
        story_pictures = Pictures(folder, list(kept.values()))
        print(f"render: nothing to do, {story_pictures}")
        return story_pictures
    if pictures.drawn_by_earlier_version(folder):
        print("render: made anew: an earlier version drew these", flush=True)

    # 4. draw what is not, and what shows the whole story
    artifacts.check_free(folder, pictures.files_of(records))
    pictures.write_unfinished(folder, kept.values(), records)
    if character and character.source:
        pictures.write_image(folder / CHARACTER_FILE, character.picture())
    panels = _draw(run, lora_file, records, kept, folder, references, character, text_chunks)
    drawn = [panels[index] for index in range(len(records))]
    story_pictures = pictures.finish(folder, fingerprint, drawn)
    print(f"render: drew {len(todo)} of {len(records)} panels, {story_pictures}")
    return story_pictures


def _kept(run: Run, folder: Path, records: Sequence[PanelRecord]) -> dict[int, PanelRecord]:
    """The panels that are drawn in ``folder``, in tiles or not as the user set it, by index."""
    kept = pictures.kept_panels(folder, records)
    tiling = run.settings.vae_tiling
    if tiling is None:
        return kept
    return {i: panel for i, panel in kept.items() if panel.as_drawn.vae_tiling == tiling}


def lora_path(lora: Lora | Path | str | None) -> Path | None:
    """The path of a LoRA whose file is there and, where it was trained here, as it was written.

    Raises:
        LoraError: It is not.
    """
    if lora is None:
        return None
    path = path_of(lora)
    reading.check_file(path)
    return path


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


def _draw(
    run: Run,
    lora: Path | None,
    records: Sequence[PanelRecord],
    kept: dict[int, PanelRecord],
    folder: Path,
    references: "Sequence[PreparedReference | None]",
    character: "Character | None",
    text_chunks: TextChunks | None,
) -> dict[int, PanelRecord]:
    """Draw the panels that are not in ``kept``; returns all by index.

    The manifest is written after every batch, so that a break loses one at most.
    """
    from storyboard import show
    from storyboard.rendering.renderer import Renderer

    todo = [index for index in range(len(records)) if index not in kept]
    panels = dict(kept)
    if not todo:
        return panels
    saving: dict[int, Future[PanelRecord]] = {}
    renderer = Renderer(run, lora, references=references, character=character)

    # one picture is written while the next is decoded
    steps = sum(records[index].steps for index in todo)
    with show.Live("render", steps) as live, ThreadPoolExecutor(1) as writer:
        for drawing in renderer.draw(records, todo, on_step=live.step):
            index = drawing.index
            if drawing.control_image and drawing.record.reference:
                path = folder / drawing.record.reference.file
                pictures.write_image(path, drawing.control_image)
            saving[index] = writer.submit(
                pictures.save_panel, folder, index, drawing.image, drawing.record, text_chunks
            )
            written = [i for i, saved in saving.items() if drawing.ends_batch or saved.done()]
            for i in written:
                panels[i] = saving.pop(i).result()
                live.picture(f"panel {i + 1}", [folder / pictures.panel_file(i)])
            if drawing.ends_batch:
                pictures.write_unfinished(folder, panels.values(), records)

    if cost := renderer.character_cost():
        print(cost, flush=True)
    return panels
