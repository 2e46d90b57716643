"""Back to the last good weights when a loss is no number any more."""

import math

import torch


class Guard:
    """Watches a training.

    Args:
        parameters: In training.
        averages: Their moving averages, in the same order.
    """

    def __init__(self, parameters: list[torch.Tensor], averages: list[torch.Tensor]) -> None:
        self.parameters, self.averages = parameters, averages
        self.good = [average.detach().clone() for average in averages]

    @torch.no_grad()
    def passes(self, loss: float) -> bool:
        """Keep the averages if ``loss`` is finite; otherwise put the last kept ones back."""
        if math.isfinite(loss):
            torch._foreach_copy_(self.good, self.averages)
            return True
        torch._foreach_copy_(self.averages, self.good)
        torch._foreach_copy_(self.parameters, self.good)
        return False
