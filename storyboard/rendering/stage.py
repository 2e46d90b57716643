"""Stage 4, render: base and LoRA file in, one picture a panel and the grid out."""

from pathlib import Path

from storyboard import stages
from storyboard.lora import reading
from storyboard.lora.file import Lora, path_of
from storyboard.models.run import resolve
from storyboard.records import PanelRecord
from storyboard.rendering import job as jobs
from storyboard.rendering import pictures
from storyboard.rendering.job import Job
from storyboard.rendering.pictures import Pictures, TextChunks
from storyboard.settings import Settings
from storyboard.story import Story


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
    # 1. what panels are drawn with and made from, and what is drawn already
    run = resolve(settings)
    lora_file = lora_path(lora)
    folder = folder or run.folder / ("story" if lora_file else "base")
    job = jobs.prepare(run, story, lora_file, folder)
    if story_pictures := job.finished():
        print(f"render: nothing to do, {story_pictures}")
        return story_pictures

    # 2. draw what is not, and what shows the whole story
    job.begin()
    panels = _draw(job, text_chunks) if job.todo else list(job.kept.values())
    story_pictures = job.finish(panels)
    print(f"render: drew {len(job.todo)} of {len(job.records)} panels, {story_pictures}")
    return story_pictures


def _draw(job: Job, text_chunks: TextChunks | None) -> list[PanelRecord]:
    """Draw what is not drawn, which the cell shows as it comes."""
    from storyboard import show

    renderer = job.renderer()
    with show.Live("render", job.steps) as live:

        def show_panel(index: int) -> None:
            live.picture(f"panel {index + 1}", [job.folder / pictures.panel_file(index)])

        panels = job.draw(renderer, text_chunks, on_step=live.step, on_panel=show_panel)
    if cost := renderer.character_cost():
        print(cost, flush=True)
    return panels


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
