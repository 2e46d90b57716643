"""Charts as SVG, legible on light and dark pages: a loss curve, a histogram."""

import html
import math
from collections.abc import Sequence

ACCENT, MUTED = "#9b59b6", "#a9a2b3"  # on white and on black
POINTS = 400  # of a curve, at most
LEFT, TOP, WIDTH, HEIGHT = 44, 8, 340, 104  # pixels of a curve's axes
BINS, BIN, TALLEST = 25, 6, 46  # of a histogram; pixels


def smooth(values: Sequence[float], weight: float = 0.95) -> list[float]:
    """Exponential moving average, without bias at its start.

    See https://arxiv.org/abs/1412.6980, section 3.
    """
    mean, means = 0.0, []
    for count, value in enumerate(values, 1):
        mean = weight * mean + (1 - weight) * value
        means.append(mean / (1 - weight**count))
    return means


def curve(losses: Sequence[float], total: int) -> str:
    """The loss of each step and its smoothed mean, over ``total`` steps.

    Nothing for fewer than two losses. The axis of the loss ends where nearly all of it does.
    """
    if len(losses) < 2:
        return ""
    means = smooth(losses)
    stride = max(1, math.ceil(len(losses) / POINTS))
    shown = sorted(losses)[: max(2, round(0.98 * len(losses)))]
    low, high = min(shown[0], *means), max(shown[-1], *means)
    spread = (high - low) or 1.0

    def line(values: Sequence[float]) -> str:
        points = []
        for index in range(0, len(values), stride):
            x = LEFT + WIDTH * index / max(1, total - 1)
            share = (min(max(values[index], low), high) - low) / spread
            points.append(f"{x:.1f},{TOP + HEIGHT * (1 - share):.1f}")
        return " ".join(points)

    bottom, right = TOP + HEIGHT, LEFT + WIDTH
    return (
        f"<svg width='{right + 12}' height='{bottom + 34}' style='font:10px sans-serif' "
        f"fill='currentColor' viewBox='0 0 {right + 12} {bottom + 34}'>"
        f"<path d='M{LEFT} {TOP}V{bottom}H{right}' fill='none' stroke='{MUTED}'/>"
        f"<polyline points='{line(losses)}' fill='none' stroke='{MUTED}' opacity='0.6'/>"
        f"<polyline points='{line(means)}' fill='none' stroke='{ACCENT}' stroke-width='2'/>"
        f"<text x='{LEFT - 4}' y='{TOP + 8}' text-anchor='end'>{high:.3f}</text>"
        f"<text x='{LEFT - 4}' y='{bottom}' text-anchor='end'>{low:.3f}</text>"
        f"<text x='{LEFT}' y='{bottom + 13}'>0</text>"
        f"<text x='{right}' y='{bottom + 13}' text-anchor='end'>{total:,}</text>"
        f"<text x='{LEFT + WIDTH / 2}' y='{bottom + 13}' text-anchor='middle'>step</text>"
        f"<text x='{LEFT}' y='{bottom + 28}'>loss: "
        f"<tspan fill='{MUTED}'>each step</tspan>, <tspan fill='{ACCENT}'>mean</tspan></text></svg>"
    )


def histogram(
    title: str, values: Sequence[float], low: float | None = None, high: float | None = None
) -> str:
    """How many ``values`` lie where, as SVG; what lies below ``low`` or above ``high`` is grey.

    Args:
        low, high: Drawn as lines where they lie within what is shown.
    """
    least, largest = min(values), max(values)
    width = (largest - least) / BINS or 1.0
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - least) / width))] += 1

    parts = []
    for index, count in enumerate(counts):
        middle = least + (index + 0.5) * width
        is_kept = (low is None or middle >= low) and (high is None or middle <= high)
        height = max(1.5, TALLEST * count / max(counts)) if count else 0
        parts.append(
            f"<rect x='{BIN * index}' y='{TALLEST + 2 - height:.1f}' width='{BIN - 1}' "
            f"height='{height:.1f}' fill='{ACCENT if is_kept else MUTED}'/>"
        )
    for limit in (low, high):
        if limit is not None and least <= limit <= largest:
            x = BIN * (limit - least) / width
            parts.append(f"<path d='M{x:.1f} 0V{TALLEST + 2}' stroke='currentColor'/>")
    ends = (
        f"<text x='0' y='{TALLEST + 14}'>{least:.4g}</text>"
        f"<text x='{BIN * BINS}' y='{TALLEST + 14}' text-anchor='end'>{largest:.4g}</text>"
    )
    cuts = [f"{sign} {limit:.4g}" for sign, limit in (("≥", low), ("≤", high)) if limit is not None]
    caption = html.escape(f"{title} {', '.join(cuts)}".strip())
    return (
        f"<figure><svg width='{BIN * BINS}' height='{TALLEST + 18}' "
        f"style='font:10px sans-serif' fill='currentColor'>{''.join(parts)}{ends}</svg>"
        f"<figcaption>{caption}</figcaption></figure>"
    )
