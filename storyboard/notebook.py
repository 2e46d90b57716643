"""The notebook's calls that join stages which do not know each other."""

from pathlib import Path

from storyboard import resources
from storyboard.exporting.comfyui import graph
from storyboard.keeping.along import Along
from storyboard.lora.file import Lora
from storyboard.models import bases
from storyboard.rendering import many, stage
from storyboard.rendering.many import ManyPictures
from storyboard.rendering.pictures import Pictures
from storyboard.rendering.story_files import Stories
from storyboard.settings import Settings
from storyboard.story import Story

EXAMPLE_LORA = "models/mini-lora/lora.safetensors"  # what the defaults train
PREVIEW = "preview"  # folder in the output folder


def render(
    story: Story, settings: Settings, lora: Lora | Path | str | None, folder: Path | None = None
) -> Pictures:
    """``rendering.stage.render``, each PNG with the graph that ComfyUI opens.

    What was drawn is kept in ``settings.keep_in``; a place that does not take it is told.
    """
    pictures = stage.render(story, settings, lora, folder, graph.png_chunks)
    Along(settings, "render").keep(last=True)
    return pictures


def render_many(
    stories: Stories, settings: Settings, lora: Lora | Path | str | None
) -> ManyPictures:
    """``rendering.many.render_many``, each PNG with the graph that ComfyUI opens.

    What was drawn is not kept in ``settings.keep_in``.
    """
    return many.render_many(stories, settings, lora, graph.png_chunks)


def preview(story: Story, settings: Settings) -> Pictures:
    """Draw ``story`` before anything is trained, into ``<output>/preview``.

    With ``mini`` and the LoRA in this repository, whatever the settings say, and at most as many
    steps as are usual for it: in seconds, on any machine. References and character consistency are
    left out.

    Raises:
        RenderingError, ResourceError, SettingsError: As of ``render``.
    """
    usual = bases.get("mini").num_inference_steps
    own = Settings(
        base="mini",
        output=settings.output,
        seed=settings.seed,
        num_inference_steps=min(settings.num_inference_steps or usual, usual),
    )
    lora = resources.path(EXAMPLE_LORA)
    return render(story.plain(settings.seed), own, lora, settings.folder / PREVIEW)
