"""The notebook's calls that join stages which do not know each other."""

from pathlib import Path

from storyboard.exporting.comfyui import graph
from storyboard.lora.file import Lora
from storyboard.rendering import stage
from storyboard.rendering.pictures import Pictures
from storyboard.settings import Settings
from storyboard.story import Story


def render(
    story: Story, settings: Settings, lora: Lora | Path | str | None, folder: Path | None = None
) -> Pictures:
    """``rendering.stage.render``, each PNG with the graph that ComfyUI opens."""
    return stage.render(story, settings, lora, folder, graph.png_chunks)
