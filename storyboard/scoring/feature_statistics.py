"""What features say of a set of pictures: how alike they are, how far from the training set."""

import torch

NEIGHBOURS = 3
DRAWS = 64  # of training pictures, for the distance that chance alone makes
QUANTILE = 0.95


def coherence(features: torch.Tensor) -> float:
    """Mean cosine of every two rows of (n, d), n > 1, in percent: 100 where all are the same."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    count = len(unit)
    cosines = unit @ unit.T
    return 100 * max(0.0, (cosines.sum() - cosines.trace()).item() / (count * (count - 1)))


def kid(features: torch.Tensor, reference: torch.Tensor) -> float:
    """Kernel distance of (n, d) and (m, d): the unbiased squared MMD under ``(x·y / d + 1)³``.

    See https://arxiv.org/abs/1801.01401, section 4. It is unbiased from two pictures on, where a
    Fréchet distance would need more pictures than features; so it can come out slightly below 0 for
    sets of the same kind.
    """
    count = len(features)
    return _distance(
        _kernel(torch.cat([features, reference]).double()),
        torch.arange(count),
        torch.arange(count, count + len(reference)),
    )


def chance(reference: torch.Tensor, count: int) -> float:
    """The distance within which 19 of 20 sets of ``count`` training pictures are to the others."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(reference), generator=generator) for _ in range(DRAWS)]
    kernel = _kernel(reference.double())
    distances = [_distance(kernel, order[:count], order[count:]) for order in orders]
    return torch.tensor(distances).quantile(QUANTILE).item()


def precision(features: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(n,) which rows of (n, d) lie among those of (m, d), m > NEIGHBOURS.

    That is, within some row's distance to its third neighbour (https://arxiv.org/abs/1904.06991).
    """
    reference = reference.double()
    between = torch.cdist(reference, reference).fill_diagonal_(float("inf"))
    radius = between.topk(NEIGHBOURS, largest=False).values[:, -1]
    return (torch.cdist(features.double(), reference) <= radius).any(1)


def _kernel(x: torch.Tensor) -> torch.Tensor:
    return (x @ x.T / x.shape[1] + 1) ** 3


def _distance(kernel: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    """Between the rows ``a`` and ``b`` of a kernel matrix; no picture is compared with itself."""
    within = [
        (part.sum() - part.trace()) / (len(part) * (len(part) - 1))
        for part in (kernel[a][:, a], kernel[b][:, b])
    ]
    return (sum(within) - 2 * kernel[a][:, b].mean()).item()
