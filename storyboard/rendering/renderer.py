"""What stands beside the pipeline while panels are drawn: ControlNets, image-to-image, the character of panel 1."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from PIL import Image

from storyboard.models.run import Run
from storyboard.rendering import annotators, controlnet, sampling
from storyboard.rendering.character import Character, shared
from storyboard.rendering.controlnet import Prepared


class Guides:
    """Draws panels of a story in batches that can be drawn together.

    Args:
        pipe: As ``sampling.load_pipeline`` gives it.
        references: One a panel, None where a panel has none.
        character: None where the story does not ask for it.
    """

    def __init__(
        self,
        run: Run,
        pipe,
        references: Sequence[Prepared | None],
        character: Character | None,
    ) -> None:
        self.run, self.pipe, self.references, self.character = run, pipe, references, character
        self.controls: dict = {}
        self.shown: dict[int, Image.Image] = {}
        self.seconds = {False: [], True: []}  # a panel without and with the character

    def parts(self, todo: Sequence[int]) -> list[list[int]]:
        """``todo`` in parts that can be drawn together; what the character comes from is first and alone."""
        source = [place for place in todo if self.character and not self.character.on(place)]
        return [
            part
            for part in (
                source,
                *controlnet.groups(
                    [place for place in todo if place not in source], self.references
                ),
            )
            if part
        ]

    def at_once(self, part: Sequence[int]) -> int:
        """Panels of ``part`` in a batch: shared attention needs panel 1 in each."""
        return max(1, self.run.plan.render_micro_batch_size - self.beside(part))

    def beside(self, batch: Sequence[int]) -> int:
        """How many pictures are denoised with ``batch`` and not kept: panel 1 for shared attention."""
        return int(
            self.character is not None
            and self.character.by == "shared"
            and self.character.on(batch[0])
        )

    def reference(self, place: int) -> Image.Image:
        """What the panel at ``place``, which has a reference, follows; made once."""
        if place not in self.shown:
            self.shown[place] = controlnet.shown(self.references[place], self.run.resolution)
        return self.shown[place]

    def draw(
        self,
        batch: Sequence[int],
        panels: Sequence[dict],
        said: dict,
        on_step=None,
        text_length: int = 0,
    ) -> Iterator[Image.Image]:
        """Pictures of ``batch``, as ``sampling.draw`` gives them."""
        began, with_character = (
            time.perf_counter(),
            bool(self.character and self.character.on(batch[0])),
        )
        beside = self.beside(batch)
        rows = [panels[place] for place in (*range(beside), *batch)]
        positive, negative = (
            [said[row[key]] for row in rows] for key in ("prompt", "negative_prompt")
        )
        with ExitStack() as open_:
            pipe, named = self._reference(batch, beside, open_)
            if beside:
                open_.enter_context(shared(pipe.unet, len(rows), self.character.strength))
            elif with_character:
                named |= {"ip_adapter_image": self.character.attach(self.pipe, pipe)}
            yield from sampling.draw(
                pipe,
                positive,
                negative,
                [row["seed"] for row in rows],
                self.run.resolution,
                self.run.num_inference_steps,
                self.run.guidance_scale,
                rows[-1]["guidance_end"],
                on_step=on_step,
                leave_out=beside,
                text_length=text_length,
                **named,
            )
        self.seconds[with_character] += [(time.perf_counter() - began) / len(batch)] * len(batch)

    def _reference(
        self, batch: Sequence[int], beside: int, open_: ExitStack
    ) -> tuple[object, dict]:
        """The pipeline that draws ``batch`` and its further arguments; a ControlNet is attached while ``open_`` is."""
        prepared = [self.references[place] for place in batch]
        if prepared[0] is None:
            return self.pipe, {}
        if prepared[0].folder is None:
            image = controlnet.latents(self.pipe, [self.reference(place) for place in batch])
            return controlnet.image_to_image(self.run.base, self.pipe), {
                "image": image,
                "strength": 1 - prepared[0].reference.strength,
            }
        folder, unet = prepared[0].folder, self.pipe.unet
        if folder not in self.controls:
            self.controls = {
                folder: controlnet.Control(
                    self.run.base, folder, unet, self.run.plan.dtype, self.run.plan.device
                )
            }  # one at a time in memory
        conditions = torch.stack([annotators.as_tensor(self.reference(place)) for place in batch])
        conditions = torch.cat([conditions.new_zeros(beside, *conditions.shape[1:]), conditions])
        strengths, ends = (
            [0.0] * beside + [getattr(each.reference, name) for each in prepared]
            for name in ("strength", "end")
        )
        open_.enter_context(
            self.controls[folder].attached(
                unet, conditions, strengths, ends, self.run.num_inference_steps
            )
        )
        return self.pipe, {}

    def cost(self) -> str | None:
        """What the character cost, in a line; None where there is nothing to tell."""
        if not self.seconds[True]:
            return None
        mean = lambda found: sum(found) / len(found)
        without = (
            f", {mean(self.seconds[False]):.1f} s without (panel 1, alone in its batch)"
            if self.seconds[False]
            else ""
        )
        return f"character: {self.character.by}, {mean(self.seconds[True]):.1f} s a panel with it{without}"
