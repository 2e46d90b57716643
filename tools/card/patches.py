"""Sliced Wasserstein distance of small patches: a measure of crispness, and a loss.

Patches of 7 x 7 of the two finest levels of a Laplacian pyramid, as in
https://arxiv.org/abs/1710.10196, section 5. Blur narrows their distribution, noise widens it.
"""

import torch
import torch.nn.functional as F

PATCH = 7  # pixels
DIRECTIONS = 256


def levels(pictures: torch.Tensor) -> list[torch.Tensor]:
    """The two finest levels of pictures (n, 3, h, w): (n, 3, h, w) and (n, 3, h / 2, w / 2)."""
    found = []
    for _ in range(2):
        coarse = F.avg_pool2d(pictures, 2)
        smooth = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        found.append(pictures - smooth)
        pictures = coarse
    return found


def sliced_loss(
    decoded: torch.Tensor, target: torch.Tensor, directions: int = 32, positions: int = 4096
) -> torch.Tensor:
    """How far each picture's patches are from its target's, along random directions.

    Args:
        decoded: (n, 3, h, w) float32.
        target: The same shape.
    """
    total = decoded.new_zeros(())
    for level, goal in zip(levels(decoded), levels(target), strict=True):
        filters = torch.randn(directions, 3, PATCH, PATCH, device=decoded.device)
        filters /= filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * (goal.std() + 1e-3)
        ours = F.conv2d(level, filters).flatten(2)
        theirs = F.conv2d(goal, filters).flatten(2)
        chosen = torch.randint(0, ours.shape[2], (positions,), device=decoded.device)
        ours, theirs = ours[:, :, chosen].sort(2).values, theirs[:, :, chosen].sort(2).values
        total = total + F.l1_loss(ours, theirs)
    return total


@torch.no_grad()
def distance(pictures: torch.Tensor, real: torch.Tensor, count: int = 20_000) -> list[float]:
    """Distance of two sets x 1,000, at the finest level and the next.

    The same in any order of the pictures: patches are drawn with a fixed seed, of pictures sorted.

    Args:
        pictures, real: (n, 3, h, w) and (m, 3, h, w) in [0, 1].
        count: Patches of each set.
    """
    return [
        _sliced_wasserstein(*pair, count)
        for pair in zip(levels(_sorted(pictures)), levels(_sorted(real)), strict=True)
    ]


def _sorted(pictures: torch.Tensor) -> torch.Tensor:
    """``pictures`` in an order that only their content decides."""
    contents = [picture.cpu().numpy().tobytes() for picture in pictures]
    order = sorted(range(len(contents)), key=contents.__getitem__)
    return pictures[order]


def _sliced_wasserstein(level: torch.Tensor, real: torch.Tensor, count: int) -> float:
    generator = torch.Generator().manual_seed(0)
    of_real = _patches(real, count, generator)
    of_level = _patches(level, count, generator)
    mean, scale = of_real.mean(0), of_real.std(0) + 1e-6

    directions = torch.randn(of_level.shape[1], DIRECTIONS, generator=generator).to(level.device)
    directions /= directions.norm(dim=0)
    sides = [
        torch.sort((patches - mean) / scale @ directions, 0).values
        for patches in (of_real, of_level)
    ]
    return 1000 * (sides[0] - sides[1]).abs().mean().item()


def _patches(level: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """(n, 3, h, w) -> (count, 147) patches from anywhere."""
    number, _, height, width = level.shape
    limits = (number, height - PATCH + 1, width - PATCH + 1)
    draws = [torch.randint(0, limit, (count,), generator=generator) for limit in limits]
    picture, top, left = (draw.to(level.device)[:, None, None] for draw in draws)

    window = torch.arange(PATCH, device=level.device)
    rows, columns = top + window[:, None], left + window
    return level.permute(0, 2, 3, 1)[picture, rows, columns].flatten(1)
