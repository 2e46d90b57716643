"""Panels drawn along the way, to see a LoRA take effect."""

from pathlib import Path

import torch

from storyboard.errors import RenderingError
from storyboard.models import conditioning
from storyboard.models.run import Run
from storyboard.rendering import sampling
from storyboard.story import Story

PANELS = 4  # the first ones of the story
STEPS = 12


class Previews:
    """Draws the first panels of the story with the UNet as it stands in training.

    Without their references and character consistency.
    """

    def __init__(self, run: Run, story: Story, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.panels = story.resolved(run.seed)[:PANELS]
        self.pipe = None
        (folder / "previews").mkdir()

    def draw(self, unet: torch.nn.Module, step: int) -> dict[str, object]:
        """Write the panels after ``step`` steps; returns the step and the files' names.

        A preview that fails is left out with a line printed: the story itself is drawn with a
        check that raises.
        """
        self.pipe = self.pipe or sampling.load_pipeline(self.run.base, self.run.plan, unet=unet)
        try:
            pictures = self._pictures()
        except (RenderingError, torch.OutOfMemoryError) as error:
            print(f"train: no preview at step {step}: {error}", flush=True)
            pictures = []

        names = []
        for number, picture in enumerate(pictures, start=1):
            names.append(f"previews/step-{step:06d}-panel-{number}.png")
            picture.save(self.folder / names[-1])
        return {"step": step, "pictures": names}

    def _pictures(self) -> list:
        run, size = self.run, self.run.plan.render_at_once
        prompts = [panel[key] for panel in self.panels for key in ("prompt", "negative_prompt")]
        embeddings = conditioning.encode(run, prompts)  # from the cache, encoded with the captions
        pictures = []
        for start in range(0, len(self.panels), size):
            panels = self.panels[start : start + size]
            pictures += sampling.draw(
                self.pipe,
                [embeddings[panel["prompt"]] for panel in panels],
                [embeddings[panel["negative_prompt"]] for panel in panels],
                [panel["seed"] for panel in panels],
                run.resolution,
                STEPS,
                run.guidance_scale,
                run.guidance_end,
            )
        return pictures
