"""What the notebook displays: tables, galleries, curves, grids, progress, as plain HTML and SVG.

Knows nothing of what is shown: everything comes as text, numbers and paths of pictures.
"""

import base64
import html
import io
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from storyboard import charts, images

GAP = 8  # pixels between pictures of a grid
REDRAW_INTERVAL = 2.0  # seconds between redraws of a running cell
# set by `python -m storyboard`: print progress, since nobody sees the cells
TERMINAL = "STORYBOARD_TERMINAL"
LINE_WIDTH = 100  # characters of a line of progress
PREVIEW_SIDE = 130  # pixels
LOSSES_AVERAGED = 200  # latest ones, in the progress line
CSS = (
    "<style>.sb{font:13px/1.5 system-ui,sans-serif;overflow-x:auto}"
    ".sb table{border-collapse:collapse}"
    ".sb td,.sb th{padding:2px 10px;text-align:left!important}"
    ".sb figure{display:inline-block;margin:4px;vertical-align:top}"
    ".sb figcaption{font-size:11px;max-width:150px}"
    ".sb img,.sb svg{display:block;border-radius:4px;max-width:100%;height:auto}"
    ".sb pre{margin:0;background:none;color:inherit}"
    ".sb .row{display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start}"
    ".sb .bar{display:inline-block;height:10px;border-radius:3px;background:#8e44ad}"
    ".sb .bar.out{background:#d9d3e3}</style>"
)


def page(*parts: str) -> str:
    """HTML ``parts`` with the style that all displays share."""
    return f"{CSS}<div class='sb'>{''.join(parts)}</div>"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; every cell is escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    return page(f"<b>{html.escape(title)}</b><table><tr>{head}</tr>{body}</table>")


def _cells(row: Sequence[object]) -> str:
    return "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)


def details(summary: str, content: str) -> str:
    """HTML ``content`` that unfolds under a line of text."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def bullets(lines: Iterable[str]) -> str:
    """Lines of text as a list."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def image(path: Path, side: int) -> str:
    """An ``<img>`` of at most ``side`` pixels that holds the picture, so that the file may go."""
    thumbnail = images.read(path).image
    thumbnail.thumbnail((side, side))
    content = io.BytesIO()
    thumbnail.save(content, format="JPEG", quality=88)
    encoded = base64.b64encode(content.getvalue()).decode()
    size = f"width='{thumbnail.width}' height='{thumbnail.height}'"
    return f"<img src='data:image/jpeg;base64,{encoded}' {size}>"


def gallery(pictures: Iterable[tuple[Path, str]], side: int = 120) -> str:
    """Pictures with a line of text under each."""
    return "".join(
        f"<figure title='{html.escape(text)}'>{image(path, side)}"
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
        for path, text in pictures
    )


def row_of(paths: Iterable[Path], side: int) -> str:
    """Pictures without text."""
    return gallery(((path, "") for path in paths), side)


def training(
    title: str, losses: Sequence[float], previews: Iterable[tuple[int, Sequence[Path]]]
) -> str:
    """Loss curve, and the pictures drawn at some steps."""
    rows = [f"<div>step {step}<br>{row_of(paths, PREVIEW_SIDE)}</div>" for step, paths in previews]
    return page(f"<b>{html.escape(title)}</b><br>", charts.curve(losses, len(losses)), *rows)


def grid(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Pictures of one size in rows on white.

    Args:
        columns: None puts up to three in a row, up to eight in two rows, more in about as many rows
            as columns.
    """
    columns = columns or _columns(len(pictures))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    size = (columns * width + (columns + 1) * GAP, rows * height + (rows + 1) * GAP)
    sheet = Image.new("RGB", size, "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet


def _columns(count: int) -> int:
    if count <= 3:
        return count
    if count <= 8:
        return math.ceil(count / 2)
    return round(count**0.5 + 0.49)


def story(panels: Sequence[tuple[Path, str]]) -> str:
    """Panels with their prompts, four in a row."""
    side = 230 if len(panels) > 1 else 460
    return page(f"<div style='max-width:{4 * (side + 12)}px'>{gallery(panels, side)}</div>")


def in_notebook() -> bool:
    """Whether a person sees the cells: a kernel runs, and not to print to a terminal."""
    return "ipykernel" in sys.modules and not os.environ.get(TERMINAL)


def tell(result: object) -> None:
    """Print ``result`` where it is not about to show itself in a cell."""
    if not in_notebook():
        print(result, flush=True)


class Live:
    """Progress of a long stage: redrawn in a notebook's cell, printed at times in a terminal."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.began = time.perf_counter()
        self.first: int | None = None  # steps that an interrupted run had done
        self.losses: list[float] = []
        self.pictures: dict[str, str] = {}
        self.number = 0
        self.drawn_at = 0.0
        self.tenths_printed = 0
        self.handle: Any = None  # IPython's, of the output that is redrawn

    def __enter__(self) -> "Live":
        if "ipykernel" in sys.modules:
            from IPython.display import HTML, display

            self.handle = display(HTML(""), display_id=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # what the stage returns shows itself below
            self.pictures, self.losses = {}, []
        self._draw(force=True)

    def step(self, number: int, loss: float | None = None) -> None:
        """``number`` of ``total`` is done."""
        if self.first is None:
            self.first = number - 1
        if loss is not None:
            self.losses.append(loss)
        self.number = number
        self._draw()

    def picture(self, title: str, paths: list[Path]) -> None:
        """Show what has just been drawn, in the place of earlier pictures of that title."""
        if self.handle is not None:
            row = row_of(paths, PREVIEW_SIDE)
            self.pictures[title] = f"<div>{html.escape(title)}<br>{row}</div>"
        self._draw(force=True)

    def _draw(self, force: bool = False) -> None:
        tenths = self.number * 10 // self.total
        if not in_notebook() and tenths > self.tenths_printed:
            self.tenths_printed = tenths
            print(self._line(), flush=True)

        now = time.perf_counter()
        if self.handle is not None and (force or now - self.drawn_at > REDRAW_INTERVAL):
            self.drawn_at = now
            self._redraw()

    def _line(self) -> str:
        """As tqdm writes it: the share that is done, time gone and left, and the speed."""
        from tqdm import tqdm

        loss = (
            f"loss={charts.smooth(self.losses[-LOSSES_AVERAGED:])[-1]:.4f}" if self.losses else ""
        )
        return tqdm.format_meter(
            self.number,
            self.total,
            time.perf_counter() - self.began,
            ncols=LINE_WIDTH,
            prefix=self.title,
            postfix=loss,
            unit=" steps",
            initial=self.first or 0,
        )

    def _redraw(self) -> None:
        from IPython.display import HTML

        line = f"<pre>{html.escape(self._line())}</pre>"
        curve = charts.curve(self.losses, self.total)
        content = f"<div class='row'>{curve}{''.join(self.pictures.values())}</div>"
        self.handle.update(HTML(page(line, content)))
