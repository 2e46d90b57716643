"""Training steps replayed as CUDA graphs: on a fast card a step else waits for Python most of its time."""

from collections.abc import Callable

import torch

Batch = dict[str, torch.Tensor]


class Replay:
    """``work`` on batches of tensors on the card, captured as a CUDA graph for each set of shapes and then replayed.

    The first batch of new shapes is worked on without a graph, which makes libraries load and gradients come into being;
    the second is captured (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Gradients must stay where they
    are: ``zero_grad(set_to_none=False)``.

    Args:
        work: (batch, constant) -> a tensor; neither random numbers nor copies from the CPU are allowed inside.
    """

    def __init__(self, work: Callable[[Batch, float], torch.Tensor]) -> None:
        self.work = work
        self.stream = (
            torch.cuda.Stream()
        )  # gradients are summed on the stream of their first use, which must be the graph's
        self.seen: set[tuple] = set()
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Batch, torch.Tensor]] = {}
        self.pool = (
            torch.cuda.graph_pool_handle()
        )  # one for all: graphs are replayed one after another

    def __call__(self, batch: Batch, constant: float) -> torch.Tensor:
        """What ``work`` gives; valid until the next call."""
        shapes = (constant, *((name, tensor.shape, tensor.dtype) for name, tensor in batch.items()))
        if shapes not in self.seen:
            self.seen.add(shapes)
            return self._eager(batch, constant)
        if shapes not in self.graphs:
            self.graphs[shapes] = self._captured(batch, constant)
        graph, inputs, result = self.graphs[shapes]
        for name, tensor in batch.items():
            inputs[name].copy_(tensor)
        graph.replay()
        return result

    def _eager(self, batch: Batch, constant: float) -> torch.Tensor:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = self.work(batch, constant)
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def _captured(
        self, batch: Batch, constant: float
    ) -> tuple[torch.cuda.CUDAGraph, Batch, torch.Tensor]:
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            result = self.work(inputs, constant)
        return graph, inputs, result
