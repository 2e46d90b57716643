"""Sliced Wasserstein distance of small patches: a measure of crispness, and a loss.

Patches of 7 x 7 of the two finest levels of a Laplacian pyramid, as in
https://arxiv.org/abs/1710.10196, section 5. Blur narrows their distribution, noise widens it.
"""

import torch
import torch.nn.functional as F

PATCH = 7


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


def sample_patches(level: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count, 3 * 7 * 7) patches at random places."""
    pictures, _, height, width = level.shape
    rows = torch.randint(0, pictures, (count,), generator=generator)
    tops = torch.randint(0, height - PATCH + 1, (count,), generator=generator)
    lefts = torch.randint(0, width - PATCH + 1, (count,), generator=generator)
    windows = level.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # (n, 3, h', w', 7, 7), a view
    rows, tops, lefts = (index.to(level.device) for index in (rows, tops, lefts))
    return windows[rows, :, tops, lefts].flatten(1)


@torch.no_grad()
def distance(pictures: torch.Tensor, real: torch.Tensor, count: int = 20000) -> list[float]:
    """Distance x 1,000 at the finest level and the next, of pictures (n, 3, h, w) in [0, 1]."""
    distances = []
    for ours, theirs in zip(levels(pictures), levels(real), strict=True):
        generator = torch.Generator().manual_seed(0)
        b = sample_patches(theirs, count, generator)
        a = sample_patches(ours, count, generator)
        mean, deviation = b.mean(0), b.std(0) + 1e-6
        directions = torch.randn(b.shape[1], 256, generator=generator).to(b.device)
        directions /= directions.norm(dim=0)
        a, b = ((x - mean) / deviation @ directions for x in (a, b))
        difference = (a.sort(0).values - b.sort(0).values).abs().mean()
        distances.append(round(1000 * difference.item(), 1))
    return distances
