"""Panels drawn along the way, to see a LoRA take effect."""

from pathlib import Path

from torch import nn

from storyboard.errors import RenderingError, ResourceError
from storyboard.models.run import Run
from storyboard.rendering.panels import panel_records
from storyboard.rendering.renderer import Renderer
from storyboard.story import Story

PANELS = 4  # the first ones of the story
STEPS = 12


class Previews:
    """Draws the first panels of the story with the UNet as it stands in training.

    Without their references and character consistency.
    """

    def __init__(self, run: Run, story: Story, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.records = [
            record.model_copy(update={"steps": STEPS})
            for record in panel_records(run, story)[:PANELS]
        ]
        self.renderer: Renderer | None = None
        (folder / "previews").mkdir()

    def draw(self, unet: nn.Module, step: int) -> dict[str, object]:
        """Write the panels after ``step`` steps; returns the step and the files' names.

        Previews that fail are left out with a line printed: the story itself is drawn with a check
        that raises.
        """
        if self.renderer is None:
            self.renderer = Renderer(self.run, unet=unet)
        try:
            drawings = sorted(self.renderer.draw(self.records), key=lambda drawing: drawing.index)
        except (RenderingError, ResourceError) as error:
            print(f"train: no preview at step {step}: {error}", flush=True)
            drawings = []

        names = []
        for drawing in drawings:
            names.append(f"previews/step-{step:06d}-panel-{drawing.index + 1}.png")
            drawing.image.save(self.folder / names[-1])
        return {"step": step, "pictures": names}
