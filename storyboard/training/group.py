"""Workers that train together: data parallelism by ``torch.distributed``.

Every worker draws the whole step from the seed and computes its share of the pictures, weighted
so that the sum over all workers is the loss of one process; the gradients of the LoRA, a few MB,
are summed at once. So the result depends on the number of workers by rounding alone.

torch's DistributedDataParallel averages instead, asks for the same number of backward passes on
each worker (here batches are smaller at the end of a bucket, and one whose memory is full takes
more passes), and hides the UNet's attributes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import distributed

from storyboard.errors import StoryboardError
from storyboard.training.batches import Batch
from storyboard.training.checkpoint import TrainingState
from storyboard.training.workers import Alone

T = TypeVar("T")


class Group(Alone):
    """The workers of torch's process group, as ``Alone`` describes them.

    Objects travel by its backend for the CPU.

    Attributes:
        error: What all workers raised.
    """

    def __init__(self) -> None:
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        self.is_first = self.rank == 0
        self.error: StoryboardError | None = None

    def each(self, function: Callable[[], T], in_turn: bool = False) -> T:
        """As ``Alone``."""
        if in_turn and not self.is_first:
            self._agree(None)
        value, error = _tried(function)
        self._agree(error)
        if in_turn and self.is_first:
            self._agree(None)
        return value

    def shared(self, function: Callable[[], T]) -> T:
        """As ``Alone``; what it returns is pickled."""
        outcome = list(_tried(function)) if self.is_first else [None, None]
        distributed.broadcast_object_list(outcome, src=0)
        value, error = outcome
        self._raise(error)
        return value

    def part(self, batches: Sequence[tuple[Batch, float]]) -> list[tuple[Batch, float]]:
        """As ``Alone``; may be empty."""
        parts = []
        for batch, weight in batches:
            pictures = len(batch["latents"])
            start, end = (pictures * rank // self.count for rank in (self.rank, self.rank + 1))
            if start < end:
                part = {name: tensor[start:end] for name, tensor in batch.items()}
                parts.append((part, weight * (end - start) / pictures))
        return parts

    def summed(
        self,
        parameters: Iterable[torch.nn.Parameter],
        accumulate: Callable[[], tuple[float, int]],
    ) -> tuple[float, int]:
        """As ``Alone``; an error of one is raised by all."""
        parameters = list(parameters)
        result, error = _tried(accumulate)
        loss, micro_batch_size = result or (0.0, 1)
        gradients = [
            torch.zeros_like(each) if each.grad is None else each.grad for each in parameters
        ]
        facts = torch.tensor([loss, float(error is not None)], device=parameters[0].device)
        flat = torch.cat([each.flatten() for each in (*gradients, facts)])
        distributed.all_reduce(flat)

        *sums, facts = flat.split([each.numel() for each in (*gradients, facts)])
        if facts[1].item():
            self._agree(error)
        for parameter, gradient, total in zip(parameters, gradients, sums, strict=True):
            # in their own memory, which CUDA graphs know
            parameter.grad = gradient.copy_(total.view(gradient.shape))
        return facts[0].item(), micro_batch_size

    def equalise(self, state: TrainingState) -> None:
        """As ``Alone``."""
        tensors = self.shared(lambda: {k: tensor.cpu() for k, tensor in state.tensors().items()})
        if not self.is_first:
            state.take(tensors)

    def _agree(self, error: StoryboardError | None) -> None:
        """Wait for all; raise the error of the first that has one."""
        errors: list = [None] * self.count
        distributed.all_gather_object(errors, error)
        self._raise(next(filter(None, errors), None))

    def _raise(self, error: StoryboardError | None) -> None:
        if error is not None:
            self.error = error
            raise error


def _tried(function: Callable[[], T]) -> tuple[T | None, StoryboardError | None]:
    try:
        return function(), None
    except StoryboardError as error:
        return None, error
