"""Training steps replayed as CUDA graphs.

On a fast card a step of few pictures otherwise waits for Python most of its time.
"""

from collections.abc import Callable

import torch

Batch = dict[str, torch.Tensor]


class Replay:
    """``work`` on batches on the card, captured once for each set of shapes and replayed.

    The first batch of new shapes is worked on without a graph: libraries are loaded then and
    gradients allocated. The second is captured
    (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Gradients must stay at their
    addresses: ``zero_grad(set_to_none=False)``.

    Args:
        work: (batch, constant) -> a tensor; it must draw no random numbers and copy nothing from
            the CPU.
    """

    def __init__(self, work: Callable[[Batch, float], torch.Tensor]) -> None:
        self.work = work
        # gradients are summed on the stream of their first use, which must be the graph's
        self.stream = torch.cuda.Stream()
        self.seen: set[tuple] = set()
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Batch, torch.Tensor]] = {}
        # one for all: graphs are replayed one after another
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, batch: Batch, constant: float) -> torch.Tensor:
        """What ``work`` returns; valid until the next call."""
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
