"""What references add to a batch: a ControlNet on the UNet, or pictures to start from."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from PIL import Image

from storyboard.models.run import Run
from storyboard.rendering import annotators, image_to_image, references
from storyboard.rendering.batching import Batch
from storyboard.rendering.controlnet import ControlNet
from storyboard.rendering.references import PreparedReference


class ReferenceControl:
    """Brings the references of a story's panels into their batches.

    Args:
        prepared: One a panel, None where it follows nothing; () where none does.
    """

    def __init__(self, run: Run, prepared: Sequence[PreparedReference | None]) -> None:
        self.run = run
        self.prepared = prepared
        self._images: dict[int, Image.Image] = {}
        self._controlnet: tuple[Path, ControlNet] | None = None  # one at a time in memory

    def image(self, index: int) -> Image.Image | None:
        """What the panel ``index``, from 0, follows: a map or a picture, made once; or None."""
        if not self.prepared or self.prepared[index] is None:
            return None
        if index not in self._images:
            self._images[index] = references.control_image(
                self.prepared[index], self.run.resolution
            )
        return self._images[index]

    def apply(
        self, pipe, batch: Batch, steps: int, stack: ExitStack
    ) -> tuple[object, dict[str, object]]:
        """The pipeline that draws ``batch`` and further arguments of ``sampling.draw``.

        A ControlNet is attached to the UNet of ``pipe`` while ``stack`` is open.
        """
        images = [self.image(index) for index in batch.indices]
        if images[0] is None:
            return pipe, {}

        prepared = [self.prepared[index] for index in batch.indices]
        if prepared[0].controlnet is None:
            latents = image_to_image.latents(pipe, images)
            strength = 1 - prepared[0].reference.strength
            drawing_pipe = image_to_image.pipeline(self.run.base, pipe)
            return drawing_pipe, {"image": latents, "strength": strength}

        # panel 1 in an extra row is not under control
        conditions = torch.stack([annotators.as_tensor(image) for image in images])
        blank = conditions.new_zeros(batch.extra_rows, *conditions.shape[1:])
        none = [0.0] * batch.extra_rows
        controlnet = self._load(prepared[0].controlnet, pipe.unet)
        attached = controlnet.attached(
            pipe.unet,
            torch.cat([blank, conditions]),
            none + [each.reference.strength for each in prepared],
            none + [each.reference.end for each in prepared],
            steps,
        )
        stack.enter_context(attached)
        return pipe, {}

    def _load(self, folder: Path, unet: torch.nn.Module) -> ControlNet:
        if self._controlnet is None or self._controlnet[0] != folder:
            self._controlnet = None  # before the next is loaded
            plan = self.run.plan
            model = ControlNet(self.run.base, folder, unet, plan.dtype, plan.device)
            self._controlnet = folder, model
        return self._controlnet[1]
