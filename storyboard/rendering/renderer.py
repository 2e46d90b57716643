"""The one place that draws panels: for stories, previews, reproductions and benchmarks."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from storyboard.compat.torch import memory_errors
from storyboard.errors import ResourceError
from storyboard.lora import attaching, fitting
from storyboard.lora.attaching import TextAdapter
from storyboard.models import conditioning
from storyboard.models.conditioning import Embedding
from storyboard.models.run import Run
from storyboard.records import TEXTS, DrawnRecord, PanelRecord
from storyboard.rendering import batching, sampling
from storyboard.rendering.batching import Batch
from storyboard.rendering.character import Character
from storyboard.rendering.reference_control import ReferenceControl
from storyboard.rendering.references import PreparedReference
from storyboard.rendering.sampling import OnStep
from storyboard.rendering.shared_attention import shared


@dataclass(frozen=True)
class Drawing:
    """A panel that was drawn.

    Attributes:
        index: Of the panel, from 0.
        record: With how it was drawn, except for its file.
        control_image: What it follows: the ControlNet's map, or the picture it started from.
        ends_batch: Whether it is the last of its batch.
    """

    index: int
    image: Image.Image
    record: PanelRecord
    control_image: Image.Image | None
    ends_batch: bool


class Renderer:
    """Draws panels in batches, the encoding of their prompts included.

    Base, strength of the LoRA, precision and memory plan are those of the run; all else is in the
    panels' records.

    Args:
        lora: File that text encoders and UNet are drawn with.
        unet: Draws in place of the base's own, as it stands in training.
        references: What each panel follows, None where it follows nothing; () where none does.
        character: How panels keep the character; None where none does.
        on_latents: Called after each step of each batch, as ``sampling.OnStep``.
        pipe: Of another renderer of this run and LoRA, without an IP-Adapter; None loads one.
    """

    def __init__(
        self,
        run: Run,
        lora: Path | None = None,
        *,
        unet: torch.nn.Module | None = None,
        references: Sequence[PreparedReference | None] = (),
        character: Character | None = None,
        on_latents: OnStep | None = None,
        pipe=None,
    ) -> None:
        if pipe is not None:
            self.pipe = pipe
        self.run = run
        self.lora = lora
        self.unet = unet
        self.character = character
        self.on_latents = on_latents
        self._control = ReferenceControl(run, references)
        self._seconds: dict[bool, list[float]] = {False: [], True: []}

    @cached_property
    def pipe(self):
        """diffusers' pipeline, loaded when it is first asked for."""
        run = self.run
        return sampling.load_pipeline(run.base, run.plan, self.lora, self.unet, run.lora_strength)

    def draw(
        self,
        records: Sequence[PanelRecord],
        indices: Sequence[int] | None = None,
        *,
        as_drawn: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[Drawing]:
        """Draw panels, one after another as they are decoded, in the order of their batches.

        Where memory runs out, batches are half as large from then on. With an IP-Adapter that looks
        at panel 1, its picture must lie at ``character.first_panel`` before the next is asked for.

        Args:
            records: Of all panels of the story.
            indices: Of those to draw, from 0; None draws all.
            as_drawn: In the batches in which ``records``, which then are all drawn, were drawn.
            on_step: Called with the number of steps that are done, summed over panels.

        Raises:
            LoraError: The LoRA belongs to another base or does not attach whole.
            RenderingError: A picture is blank or not finite.
            ResourceError: The memory is too small for one picture.
        """
        indices = range(len(records)) if indices is None else indices
        # it is checked before the text encoders are loaded; one in a pipeline was
        adapter = _text_adapter(self.run, self.lora, is_checked="pipe" in vars(self))
        texts = batching.texts(records, indices)
        embeddings = conditioning.encode(self.run, texts, adapter=adapter)
        if as_drawn:
            batches = batching.drawn_batches(records)
        else:
            batches = batching.new_batches(
                records,
                indices,
                embeddings,
                size=self.run.plan.render_micro_batch_size,
                text_length=self.run.base.text_length,
                vae_tiling=self.run.plan.vae_tiling,
            )
        yield from self._draw_batches(batches, records, embeddings, on_step)

    def _draw_batches(
        self,
        batches: Sequence[Batch],
        records: Sequence[PanelRecord],
        embeddings: Mapping[str, Embedding],
        on_step: Callable[[int], None] | None,
    ) -> Iterator[Drawing]:
        queue = deque(batches)
        size = max((len(batch.indices) for batch in batches), default=1)
        steps_done = 0

        while queue:
            batch = queue.popleft()
            if len(batch.indices) > size:
                queue.extendleft(reversed(batch.split(size)))
                continue

            left = batch.panels
            report = self._report(on_step, steps_done, len(left))
            try:
                with memory_errors():
                    for drawing in self._draw_batch(batch, records, embeddings, report):
                        left.remove(drawing.index)
                        steps_done += drawing.record.steps
                        yield drawing
            except torch.OutOfMemoryError as error:
                if len(batch.indices) == 1:
                    raise ResourceError(
                        "The memory of the card is too small for one picture: lower resolution, or "
                        "set offload=True and vae_tiling=True, and run this cell again; panels "
                        "that are drawn stay."
                    ) from error
                size = (len(batch.indices) + 1) // 2
                print(f"render: out of memory, going on with {size} panels at once", flush=True)

            # outside the clause: the error keeps the tensors of its frames
            if left:
                queue.extendleft(reversed(batch.split(size, left)))
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def _report(
        self, on_step: Callable[[int], None] | None, steps_done: int, panels: int
    ) -> OnStep:
        """What one batch of ``panels``, whose steps are counted from 1, calls after each."""

        def report(step: int, latents: torch.Tensor) -> None:
            if on_step:
                on_step(steps_done + step * panels)
            if self.on_latents:
                self.on_latents(step, latents)

        return report

    def _draw_batch(
        self,
        batch: Batch,
        records: Sequence[PanelRecord],
        embeddings: Mapping[str, Embedding],
        on_step: OnStep | None,
    ) -> Iterator[Drawing]:
        began = time.perf_counter()
        rows = [0] * batch.extra_rows + list(batch.indices)
        panels = [records[index] for index in rows]
        last = panels[-1]  # what a batch has in common, panel 1 in an extra row may lack
        self._set_vae_tiling(batch.vae_tiling)

        with ExitStack() as stack:
            pipe, options = self._control.apply(self.pipe, batch, last.steps, stack)
            if batch.extra_rows:
                strength = last.character.strength
                stack.enter_context(shared(pipe.unet, len(rows), strength))
            elif last.character:
                options["ip_adapter_image"] = self.character.attach(self.pipe, pipe)

            images = sampling.draw(
                pipe,
                [embeddings[panel.prompt] for panel in panels],
                [embeddings[panel.negative_prompt] for panel in panels],
                [panel.seed for panel in panels],
                last.width,
                last.steps,
                last.guidance_scale,
                last.guidance_end,
                on_step=on_step,
                extra_rows=batch.extra_rows,
                text_length=batch.text_length,
                **options,
            )
            text_length = self._text_length(batch, batching.lengths(records, rows, embeddings))
            kept = batch.panels
            for row, (index, image) in enumerate(zip(batch.indices, images, strict=True)):
                if row in batch.fillers:
                    continue
                drawn = DrawnRecord(
                    batch=len(rows),
                    row=batch.extra_rows + row,
                    text_length=text_length,
                    vae_tiling=batch.vae_tiling,
                    chunks=self._chunks(records[index], embeddings, text_length),
                    fingerprint=records[index].fingerprint(),
                )
                yield Drawing(
                    index=index,
                    image=image,
                    record=records[index].model_copy(update={"drawn": drawn}),
                    control_image=self._control.image(index),
                    ends_batch=index == kept[-1],
                )
        seconds = (time.perf_counter() - began) / len(kept)
        self._seconds[last.character is not None] += [seconds] * len(kept)

    def _text_length(self, batch: Batch, lengths: Iterable[int]) -> int:
        """Tokens that the prompts of ``batch`` are repeated to."""
        common = conditioning.common_length(lengths, self.run.base.text_length)
        is_multiple = batch.text_length and batch.text_length % common == 0
        return batch.text_length if is_multiple else common

    def _set_vae_tiling(self, tiling: bool) -> None:
        if tiling:
            sampling.decode_in_tiles(self.pipe.vae)
        else:
            self.pipe.vae.disable_tiling()

    def _chunks(
        self, record: PanelRecord, embeddings: Mapping[str, Embedding], text_length: int
    ) -> dict[str, tuple[str, ...]] | None:
        """What ``DrawnRecord.chunks`` holds."""
        at_once = self.run.base.text_length
        if text_length <= at_once:
            return None
        texts = {name: embeddings[getattr(record, name)] for name in TEXTS}
        return {name: text.chunks for name, text in texts.items() if len(text.tokens) > at_once}

    def character_cost(self) -> str | None:
        """What character consistency cost, in a line; None where no panel was drawn with it."""
        with_it, without = self._seconds[True], self._seconds[False]
        if not with_it:
            return None
        cost = f"character: {self.character.method}, {_mean(with_it):.1f} s a panel with it"
        if without:
            cost += f", {_mean(without):.1f} s without (panel 1, alone in its batch)"
        return cost


def encode_ahead(run: Run, lora: Path | None, texts: Iterable[str]) -> None:
    """Keep the embeddings of ``texts`` on disk, for renderers of this run and LoRA.

    Raises:
        BaseError, LoraError, SettingsError: As ``conditioning.encode_ahead``.
    """
    conditioning.encode_ahead(run, texts, _text_adapter(run, lora))


def _text_adapter(run: Run, lora: Path | None, is_checked: bool = False) -> TextAdapter | None:
    if lora and not is_checked:
        fitting.check(run.base, lora)
    return attaching.text_adapter(run.base, lora, run.lora_strength)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
