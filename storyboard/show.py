"""Everything the notebook displays: tables, galleries, funnels, loss curves, grids, progress. Plain HTML and SVG."""

import base64
import html
import io
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

GAP = 8  # pixels between pictures of a grid
EVERY = 2.0  # seconds between redraws of a running cell
TERMINAL = (
    "STORYBOARD_TERMINAL"  # set by `python -m storyboard`: print progress, nobody sees the cells
)
CSS = (
    "<style>.sb{font:13px/1.5 system-ui,sans-serif}.sb table{border-collapse:collapse}.sb td,.sb th{padding:2px 10px;text-align:left!important}"
    ".sb figure{display:inline-block;margin:4px;vertical-align:top}.sb figcaption{font-size:11px;max-width:150px}.sb img{display:block;border-radius:4px}"
    ".sb .bar{display:inline-block;height:10px;border-radius:3px;background:#8e44ad}.sb .bar.out{background:#d9d3e3}</style>"
)


def _page(*parts: str) -> str:
    return f"{CSS}<div class='sb'>{''.join(parts)}</div>"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; every cell is escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return _page(f"<b>{html.escape(title)}</b><table><tr>{head}</tr>{body}</table>")


def image(path: Path, side: int) -> str:
    """An ``<img>`` of at most ``side`` pixels with the picture inside it, so that it stays when the file goes."""
    with Image.open(path) as picture:
        thumbnail = picture.convert("RGB")
        thumbnail.thumbnail((side, side))
    content = io.BytesIO()
    thumbnail.save(content, format="JPEG", quality=88)
    return f"<img src='data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}' width='{thumbnail.width}' height='{thumbnail.height}'>"


def gallery(pictures: Iterable[tuple[Path, str]], side: int = 120) -> str:
    """Pictures with a line of text under each."""
    return "".join(
        f"<figure>{image(path, side)}<figcaption>{html.escape(text)}</figcaption></figure>"
        for path, text in pictures
    )


def captions(found) -> str:
    """Counts and twelve pictures of a caption set, evenly spread."""
    step = max(1, len(found) // 12)
    some = found.rows[::step][:12]
    left_out = "".join(
        f"<li>{html.escape(item['source'])}: {html.escape(item['reason'])}</li>"
        for item in found.unreadable[:20]
    )
    return _page(
        f"<b>{len(found)} captioned pictures</b><br>",
        gallery((found.path(row), row["text"]) for row in some),
        f"<details><summary>{len(found.unreadable)} left out as unreadable</summary><ul>{left_out}</ul></details>"
        if left_out
        else "",
    )


def cleaning(report) -> str:
    """The funnel, operator by operator, and what was dropped with the reason."""
    width = lambda count: round(300 * count / report.total)
    stages = [
        {
            "operator": "readable",
            "kept": report.total - len(report.unreadable),
            "dropped": len(report.unreadable),
        },
        *report.operators,
    ]
    rows = "".join(
        f"<tr><td>{html.escape(s['operator'])}</td><td><span class='bar' style='width:{width(s['kept'])}px'></span>"
        f"<span class='bar out' style='width:{width(s['dropped'])}px'></span></td><td>{s['kept']}</td><td>{-s['dropped'] or ''}</td></tr>"
        for s in stages
    )
    dropped = gallery(
        (
            (report.origin / row["image"], f"{row['operator']}: {row['reason']}")
            for row in report.dropped[:24]
        ),
        90,
    )
    return _page(
        f"<b>kept {len(report.captions)} of {report.total}</b> (dropped {len(report.dropped)}, unreadable {len(report.unreadable)})<table>{rows}</table>",
        f"<details><summary>what was dropped, and why</summary>{dropped}</details>"
        if report.dropped
        else "",
    )


def smooth(values: Sequence[float], weight: float = 0.95) -> list[float]:
    """Exponential moving average, its start not biased (https://arxiv.org/abs/1412.6980, section 3)."""
    mean, found = 0.0, []
    for count, value in enumerate(values, 1):
        mean = weight * mean + (1 - weight) * value
        found.append(mean / (1 - weight**count))
    return found


def curve(losses: Sequence[float], total: int) -> str:
    """The smoothed loss as an SVG line over all steps."""
    if len(losses) < 2:
        return ""
    points = smooth(losses)
    low, high = min(points), max(points)
    spread = (high - low) or 1.0
    stride = max(1, len(points) // 400)
    line = " ".join(
        f"{40 + 440 * i / max(1, total - 1):.1f},{110 - 95 * (points[i] - low) / spread:.1f}"
        for i in range(0, len(points), stride)
    )
    return (
        "<svg width='500' height='130' style='font:10px sans-serif'><rect x='40' y='10' width='440' height='102' fill='none' stroke='#ccc'/>"
        f"<polyline points='{line}' fill='none' stroke='#8e44ad' stroke-width='2'/><text x='2' y='18'>{high:.3f}</text><text x='2' y='112'>{low:.3f}</text>"
        f"<text x='40' y='126'>step 0</text><text x='450' y='126'>{total}</text></svg>"
    )


def training(lora) -> str:
    """Loss curve and the panels drawn along the way."""
    rows = [
        f"<div>step {shot['step']}<br>{gallery(((lora.path.parent / name, '') for name in shot['pictures']), 130)}</div>"
        for shot in lora.previews
    ]
    return _page(
        f"<b>{html.escape(str(lora))}</b><br>", curve(lora.losses, len(lora.losses)), *rows
    )


def grid(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """All pictures in rows on white: up to three in one row, then two rows, then as square as it goes."""
    count = len(pictures)
    columns = columns or (
        count if count <= 3 else -(-count // 2) if count <= 8 else round(count**0.5 + 0.49)
    )
    width, height = pictures[0].size
    rows = -(-count // columns)
    sheet = Image.new(
        "RGB", (columns * width + (columns + 1) * GAP, rows * height + (rows + 1) * GAP), "white"
    )
    for place, picture in enumerate(pictures):
        sheet.paste(
            picture,
            (GAP + place % columns * (width + GAP), GAP + place // columns * (height + GAP)),
        )
    return sheet


def story(pictures) -> str:
    """The panels with their prompts."""
    side = 230 if len(pictures.panels) > 1 else 460
    shown = gallery(
        ((path, panel.prompt) for path, panel in zip(pictures.paths, pictures.panels)), side
    )
    return _page(f"<div style='max-width:{4 * (side + 12)}px'>{shown}</div>")


class Pair:
    """Two sets of pictures with the same prompts and seeds, one row each."""

    def __init__(self, base, lora) -> None:
        self.base, self.lora = base, lora

    def __str__(self) -> str:
        return f"base: {self.base.folder}, LoRA: {self.lora.folder}, mean difference {self.difference():.0f} of 255"

    def difference(self) -> float:
        """Mean absolute difference of the two sets, 0 to 255."""
        from PIL import ImageChops, ImageStat

        total = 0.0
        for one, other in zip(self.base.paths, self.lora.paths, strict=True):
            with Image.open(one) as a, Image.open(other) as b:
                total += (
                    sum(
                        ImageStat.Stat(
                            ImageChops.difference(a.convert("RGB"), b.convert("RGB"))
                        ).mean
                    )
                    / 3
                )
        return total / len(self.base.paths)

    def _repr_html_(self) -> str:
        rows = [
            f"<div><b>{name}</b><br>{gallery(((path, '') for path in side.paths), 120)}</div>"
            for name, side in (("base", self.base), ("LoRA", self.lora))
        ]
        return _page(*rows, f"mean difference {self.difference():.0f} of 255")


def in_notebook() -> bool:
    """Whether a person sees the cells: there is a kernel, and it was not started to print to a terminal."""
    return "ipykernel" in sys.modules and not os.environ.get(TERMINAL)


def tell(thing: object) -> None:
    """Print ``thing`` where it is not about to show itself in a cell."""
    if not in_notebook():
        print(thing, flush=True)


class Live:
    """Progress of a long stage: redrawn in a notebook's cell, printed now and then in a terminal."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.began = title, total, time.perf_counter()
        self.losses: list[float] = []
        self.pictures: list[str] = []
        self.number, self.left, self.drawn, self.printed = 0, float("nan"), 0.0, 0
        self.handle = None

    def __enter__(self) -> "Live":
        if "ipykernel" in sys.modules:
            from IPython.display import HTML, display

            self.handle = display(HTML(""), display_id=True)
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:  # what the stage returns shows itself below
            self.pictures, self.losses = [], []
        self._draw(force=True)

    def step(
        self, number: int, loss: float | None = None, seconds_left: float | None = None
    ) -> None:
        """``number`` of ``total`` is done."""
        if loss is not None:
            self.losses.append(loss)
        self.number = number
        elapsed = time.perf_counter() - self.began
        self.left = (
            elapsed / number * (self.total - number) if seconds_left is None else seconds_left
        )
        self._draw()

    def picture(self, title: str, paths: list[Path]) -> None:
        """Show what has just been drawn."""
        if self.handle is not None:
            self.pictures.append(
                f"<div>{html.escape(title)}<br>{gallery(((path, '') for path in paths), 130)}</div>"
            )
        self._draw(force=True)

    def _draw(self, force: bool = False) -> None:
        now = time.perf_counter()
        minutes, seconds = divmod(int(self.left), 60) if self.left == self.left else (0, 0)
        line = f"{self.title}: {self.number} of {self.total}, {minutes}:{seconds:02d} left"
        if self.losses:
            line += f", loss {smooth(self.losses[-200:])[-1]:.4f}"
        if not in_notebook() and self.number * 10 // self.total > self.printed:
            self.printed = self.number * 10 // self.total
            print(line, flush=True)
        if self.handle is not None and (force or now - self.drawn > EVERY):
            from IPython.display import HTML

            self.drawn = now
            share = f"<div><span class='bar' style='width:{round(300 * self.number / self.total)}px'></span> {html.escape(line)}</div>"
            self.handle.update(HTML(_page(share, curve(self.losses, self.total), *self.pictures)))
