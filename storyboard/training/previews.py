"""Panels drawn along the way, to see a LoRA take effect."""

import io
from collections.abc import Sequence

from PIL import Image
from torch import nn

from storyboard import artifacts
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

    Attributes:
        fingerprint: Of what they are drawn from, besides the UNet.
    """

    def __init__(self, run: Run, story: Story) -> None:
        self.run = run
        self.records = [
            record.model_copy(update={"steps": STEPS})
            for record in panel_records(run, story)[:PANELS]
        ]
        self.renderer: Renderer | None = None
        panels = [record.fingerprint() for record in self.records]
        self.fingerprint = artifacts.fingerprint(stage="previews", panels=panels)

    def draw(self, unet: nn.Module, step: int) -> Sequence[bytes]:
        """A PNG of each panel after ``step`` steps.

        Previews that fail are left out with a line printed: the story itself is drawn with a check
        that raises.
        """
        if self.renderer is None:
            self.renderer = Renderer(self.run, unet=unet)
        try:
            drawings = sorted(self.renderer.draw(self.records), key=lambda drawing: drawing.index)
        except (RenderingError, ResourceError) as error:
            print(f"train: no preview at step {step}: {error}", flush=True)
            return []
        return [_png(drawing.image) for drawing in drawings]


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()
