"""What is done along the way: a live curve, previews, and the LoRA as it stands."""

import math

from torch import nn

from storyboard.data.captions import Captions
from storyboard.lora import file as lora_file
from storyboard.models.run import Run
from storyboard.show import Live
from storyboard.training.loop import Step, trainable
from storyboard.training.metadata import metadata
from storyboard.training.milestones import Milestones
from storyboard.training.previews import Previews

PARTS = 3  # of the steps; after each a preview is drawn and the LoRA is written


class Progress:
    """Takes each step's report.

    Args:
        unet: With the LoRA that is trained.
        previews: None draws nothing.
        kept: Takes previews, and the LoRA as it stands along the way.
    """

    def __init__(
        self,
        captions: Captions,
        run: Run,
        unet: nn.Module,
        live: Live,
        previews: Previews | None,
        kept: Milestones,
    ) -> None:
        self.captions, self.run, self.unet = captions, run, unet
        self.live, self.previews, self.kept = live, previews, kept
        self.milestones = {round(run.train_steps * part / PARTS) for part in range(PARTS + 1)}

    def report(self, step: Step) -> None:
        """A step is finished, or training begins."""
        if step.number in self.milestones:
            if self.previews is not None:
                self._draw(self.previews, step.number)
            if 0 < step.number < step.total:
                self._write_lora(step.number)
        if step.number and math.isfinite(step.loss):
            self.live.step(step.number, step.loss)

    def _draw(self, previews: Previews, number: int) -> None:
        if number not in self.kept.previews:
            names = []
            for index, content in enumerate(previews.draw(self.unet, number), 1):
                names.append(f"previews/step-{number:06d}-panel-{index}.png")
                self.kept.add(names[-1], content)
            self.kept.add_previews(number, names)
        paths = [self.kept.folder / name for name in self.kept.previews[number]]
        self.live.picture(f"step {number}", paths)

    def _write_lora(self, number: int) -> None:
        prefix = self.run.base.family.kohya_prefixes["unet"]
        tensors = lora_file.to_kohya(trainable(self.unet), self.run.alpha, prefix)
        content = lora_file.serialised(tensors, metadata(self.captions, self.run, number))
        self.kept.add(f"step-{number:06d}.safetensors", content)
