"""What stands beside the pipeline while panels are drawn: ControlNets, image-to-image, the heroine of panel 1."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from PIL import Image

from ..bases import Base
from ..memory import Plan
from ..settings import Settings
from . import control, drawing, maps
from .control import Prepared
from .heroine import Heroine, shared


class Guides:
    """Draws panels of a story in batches that can be drawn together.

    Args:
        pipe: As ``drawing.load_pipeline`` gives it.
        references: One a panel, None where a panel has none.
        heroine: None where the story does not ask for it.
    """

    def __init__(
        self,
        base: Base,
        plan: Plan,
        pipe,
        settings: Settings,
        references: Sequence[Prepared | None],
        heroine: Heroine | None,
    ) -> None:
        self.base, self.plan, self.pipe, self.settings, self.references, self.heroine = (
            base,
            plan,
            pipe,
            settings,
            references,
            heroine,
        )
        self.controls: dict = {}
        self.shown: dict[int, Image.Image] = {}
        self.seconds = {False: [], True: []}  # a panel without and with the heroine

    def parts(self, todo: Sequence[int]) -> list[list[int]]:
        """``todo`` in parts that can be drawn together; what the heroine comes from is first and alone."""
        source = [place for place in todo if self.heroine and not self.heroine.on(place)]
        return [
            part
            for part in (
                source,
                *control.groups([place for place in todo if place not in source], self.references),
            )
            if part
        ]

    def at_once(self, part: Sequence[int]) -> int:
        """Panels of ``part`` in a batch: shared attention needs panel 1 in each."""
        return max(1, self.plan.render_at_once - self.beside(part))

    def beside(self, batch: Sequence[int]) -> int:
        """How many pictures are denoised with ``batch`` and not kept: panel 1 for shared attention."""
        return int(
            self.heroine is not None and self.heroine.by == "shared" and self.heroine.on(batch[0])
        )

    def reference(self, place: int) -> Image.Image:
        """What the panel at ``place``, which has a reference, follows; made once."""
        if place not in self.shown:
            self.shown[place] = control.shown(self.references[place], self.settings.resolution)
        return self.shown[place]

    def draw(
        self,
        batch: Sequence[int],
        panels: Sequence[dict],
        said: dict,
        on_step=None,
        text_length: int = 0,
    ) -> Iterator[Image.Image]:
        """Pictures of ``batch``, as ``drawing.draw`` gives them."""
        began, with_heroine = time.perf_counter(), bool(self.heroine and self.heroine.on(batch[0]))
        beside = self.beside(batch)
        rows = [panels[place] for place in (*range(beside), *batch)]
        positive, negative = (
            [said[row[key]] for row in rows] for key in ("prompt", "negative_prompt")
        )
        with ExitStack() as open_:
            pipe, named = self._reference(batch, beside, open_)
            if beside:
                open_.enter_context(shared(pipe.unet, len(rows), self.heroine.strength))
            elif with_heroine:
                named |= {"ip_adapter_image": self.heroine.attach(self.pipe, pipe)}
            yield from drawing.draw(
                pipe,
                positive,
                negative,
                [row["seed"] for row in rows],
                self.settings.resolution,
                self.settings.num_inference_steps,
                self.settings.guidance_scale,
                rows[-1]["guidance_end"],
                on_step=on_step,
                leave_out=beside,
                text_length=text_length,
                **named,
            )
        self.seconds[with_heroine] += [(time.perf_counter() - began) / len(batch)] * len(batch)

    def _reference(
        self, batch: Sequence[int], beside: int, open_: ExitStack
    ) -> tuple[object, dict]:
        """The pipeline that draws ``batch`` and its further arguments; a ControlNet is attached while ``open_`` is."""
        prepared = [self.references[place] for place in batch]
        if prepared[0] is None:
            return self.pipe, {}
        if prepared[0].folder is None:
            image = control.latents(self.pipe, [self.reference(place) for place in batch])
            return control.image_to_image(self.base, self.pipe), {
                "image": image,
                "strength": 1 - prepared[0].reference.strength,
            }
        folder, unet = prepared[0].folder, self.pipe.unet
        if folder not in self.controls:
            self.controls = {
                folder: control.Control(self.base, folder, unet, self.plan.dtype, self.plan.device)
            }  # one at a time in memory
        conditions = torch.stack([maps.as_tensor(self.reference(place)) for place in batch])
        conditions = torch.cat([conditions.new_zeros(beside, *conditions.shape[1:]), conditions])
        strengths, ends = (
            [0.0] * beside + [getattr(each.reference, name) for each in prepared]
            for name in ("strength", "end")
        )
        open_.enter_context(
            self.controls[folder].attached(
                unet, conditions, strengths, ends, self.settings.num_inference_steps
            )
        )
        return self.pipe, {}

    def cost(self) -> str | None:
        """What the heroine cost, in a line; None where there is nothing to tell."""
        if not self.seconds[True]:
            return None
        mean = lambda found: sum(found) / len(found)
        without = (
            f", {mean(self.seconds[False]):.1f} s without (panel 1, alone in its batch)"
            if self.seconds[False]
            else ""
        )
        return (
            f"heroine: {self.heroine.by}, {mean(self.seconds[True]):.1f} s a panel with it{without}"
        )
