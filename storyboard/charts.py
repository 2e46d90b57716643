"""Charts as images, legible on light and dark pages: a loss curve, a histogram, bars."""

import base64
import html
import math
from collections.abc import Sequence

ACCENT, MUTED, CUT = "#9b59b6", "#8f879b", "#d35400"  # seen on white and on black
POINTS = 400  # of a curve, at most
LEFT, WIDTH, HEIGHT = 44, 340, 104  # pixels: a curve's labels, and its axes
BINS, BIN, TALLEST = 25, 6, 46  # of a histogram; pixels
# Text lies beside an image, not in it, to have the page's own colour.
ENDS = "display:flex;justify-content:space-between"


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
            x = WIDTH * index / max(1, total - 1)
            share = (min(max(values[index], low), high) - low) / spread
            points.append(f"{x:.1f},{HEIGHT * (1 - share):.1f}")
        return " ".join(points)

    drawing = image(
        f"the loss over {total:,} steps",
        WIDTH,
        HEIGHT,
        f"<path d='M0.5 0V{HEIGHT - 0.5}H{WIDTH}' fill='none' stroke='{MUTED}'/>"
        f"<polyline points='{line(losses)}' fill='none' stroke='{MUTED}' opacity='0.6'/>"
        f"<polyline points='{line(means)}' fill='none' stroke='{ACCENT}' stroke-width='2'/>",
    )
    heights = f"{ENDS};flex-direction:column;width:{LEFT - 4}px;text-align:right"
    legend = f"loss: {_swatch(MUTED)} each step {_swatch(ACCENT)} mean"
    return (
        f"<div style='max-width:{LEFT + WIDTH}px;font-size:11px'>"
        "<div style='display:flex;gap:4px'>"
        f"<div style='{heights}'><span>{high:.3f}</span><span>{low:.3f}</span></div>"
        f"<div style='flex:1;min-width:0'>{drawing}</div></div>"
        f"<div style='{ENDS};padding-left:{LEFT}px'><span>0</span><span>step</span>"
        f"<span>{total:,}</span></div><div style='padding-left:{LEFT}px'>{legend}</div></div>"
    )


def _swatch(colour: str) -> str:
    return f"<span style='{_box(colour)};width:10px'></span>"


def _box(colour: str) -> str:
    return f"display:inline-block;height:10px;border-radius:3px;background:{colour}"


def bars(kept: int, dropped: int) -> str:
    """Two bars in a row, so many pixels long."""
    widths = ((ACCENT, kept), (MUTED, dropped))
    return "".join(f"<span style='{_box(colour)};width:{px}px'></span>" for colour, px in widths)


def progress(share: float) -> str:
    """A bar over the whole width of which ``share``, 0 to 1, is filled."""
    style = "height:8px;border-radius:4px"
    done = f"<div style='{style};width:{100 * share:.1f}%;background:{ACCENT}'></div>"
    return f"<div style='{style};max-width:{LEFT + WIDTH}px;border:1px solid {MUTED}'>{done}</div>"


def image(text: str, width: int, height: int, drawing: str) -> str:
    """SVG as an ``<img>``, which stays where pages drop SVG itself: in notebooks not trusted yet.

    Args:
        text: Read out in the place of the image.
        width, height: In pixels; it shrinks on a narrow page.
    """
    size = f"width='{width}' height='{height}'"
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' {size} viewBox='0 0 {width} {height}'>"
    encoded = base64.b64encode(f"{svg}{drawing}</svg>".encode()).decode()
    return (
        f"<img alt='{html.escape(text)}' src='data:image/svg+xml;base64,{encoded}' {size} "
        "style='display:block;max-width:100%;height:auto'>"
    )


def histogram(
    title: str, values: Sequence[float], low: float | None = None, high: float | None = None
) -> str:
    """How many ``values`` lie where, as an image; what is no number is passed over.

    Args:
        low, high: What lies below and above is grey. Drawn as lines where they lie within what is
            shown.
    """
    values = [value for value in values if math.isfinite(value)]
    least, largest = min(values, default=0.0), max(values, default=0.0)
    step = (largest - least) / BINS or 1.0
    kept, dropped = [0] * BINS, [0] * BINS
    for value in values:
        is_kept = (low is None or value >= low) and (high is None or value <= high)
        counts = kept if is_kept else dropped
        counts[min(BINS - 1, int((value - least) / step))] += 1

    tallest = max(map(sum, zip(kept, dropped, strict=True))) or 1
    parts = []
    for index in range(BINS):
        bottom = TALLEST + 2.0
        for count, colour in ((kept[index], ACCENT), (dropped[index], MUTED)):
            if count:
                height = max(1.5, TALLEST * count / tallest)
                bottom -= height
                parts.append(
                    f"<rect x='{BIN * index}' y='{bottom:.1f}' width='{BIN - 1}' "
                    f"height='{height:.1f}' fill='{colour}'/>"
                )
    for limit in (low, high):
        if limit is not None and least <= limit <= largest:
            x = BIN * (limit - least) / step
            parts.append(f"<path d='M{x:.1f} 0V{TALLEST + 2}' stroke='{CUT}' stroke-width='2'/>")
    limits = [("≥", low), ("≤", high)]
    cuts = ", ".join(f"{sign} {_number(limit)}" for sign, limit in limits if limit is not None)
    caption = html.escape(f"{title} {cuts}".strip())
    width = BIN * BINS
    return (
        f"<figure style='display:inline-block;margin:4px;vertical-align:top;width:{width}px'>"
        f"{image(title, width, TALLEST + 2, ''.join(parts))}"
        f"<div style='{ENDS};font-size:11px'><span>{_number(least)}</span>"
        f"<span>{_number(largest)}</span></div>"
        f"<figcaption style='font-size:11px'>{caption}</figcaption></figure>"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
