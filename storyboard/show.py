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
# tqdm's own line without the bar of letters, which is drawn in a notebook
WITHOUT_BAR = "{desc}: {percentage:.0f}%{r_bar}"
PREVIEW_SIDE = 130  # pixels
LONG_TEXT, TEXT_WIDTH = 40, 170  # characters of a table's cell, and its pixels at least
CAPTION_WIDTH = 120  # pixels, at least
PANEL_LEAST = 110  # pixels, so that two fit on a telephone
PANEL = 230  # pixels
LOSSES_AVERAGED = 200  # latest ones, in the progress line
# What layout needs stands at the elements: notebooks that are not trusted yet drop <style>.
CSS = "<style>.sb table{border-collapse:collapse}.sb td,.sb th{padding:2px 6px}</style>"
PAGE = "font:13px/1.5 system-ui,sans-serif;overflow-x:auto"
FIGURE = "display:inline-block;margin:4px;vertical-align:top"
ROW = "display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start"
LINE = "margin:0;background:none;color:inherit;white-space:pre-wrap"


def page(*parts: str) -> str:
    """HTML ``parts`` with the style that all displays share."""
    return f"{CSS}<div class='sb' style='{PAGE}'>{''.join(parts)}</div>"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; every cell is escaped."""
    lines = [_row(header, "th"), *(_row(row, "td") for row in rows)]
    return page(f"<b>{html.escape(title)}</b><table>{''.join(lines)}</table>")


def _row(texts: Sequence[object], tag: str) -> str:
    return f"<tr>{''.join(_cell(str(text), tag) for text in texts)}</tr>"


def _cell(text: str, tag: str) -> str:
    width = f";min-width:{TEXT_WIDTH}px" if len(text) > LONG_TEXT else ""
    return f"<{tag} style='text-align:left{width}'>{html.escape(text)}</{tag}>"


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
    style = "display:block;max-width:100%;height:auto;border-radius:4px"
    return f"<img src='data:image/jpeg;base64,{encoded}' {size} style='{style}'>"


def gallery(pictures: Iterable[tuple[Path, str]], side: int = 120) -> str:
    """Pictures with their texts, at least two in a row; ``side`` is the longer one in pixels."""
    width = max(side, CAPTION_WIDTH)
    return _figures(pictures, side, f"{FIGURE};width:{width}px;max-width:46%")


def _figures(pictures: Iterable[tuple[Path, str]], side: int, style: str) -> str:
    return "".join(
        f"<figure title='{html.escape(text)}' style='{style}'>{image(path, side)}"
        f"<figcaption style='font-size:11px'>{html.escape(text)}</figcaption></figure>"
        for path, text in pictures
    )


def row_of(paths: Iterable[Path], side: int) -> str:
    """Pictures without text."""
    return _figures(((path, "") for path in paths), side, FIGURE)


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
    """Panels with their prompts, four in a row, two on a telephone."""
    side = PANEL if len(panels) > 1 else 2 * PANEL
    style = f"flex:1 1 22%;margin:0;min-width:{PANEL_LEAST}px;max-width:{side}px"
    width = 4 * (side + GAP)
    return page(f"<div style='{ROW};max-width:{width}px'>{_figures(panels, side, style)}</div>")


def in_notebook() -> bool:
    """Whether a person sees the cells: a kernel runs, and not to print to a terminal."""
    return "ipykernel" in sys.modules and not os.environ.get(TERMINAL)


def tell(result: object) -> None:
    """Print ``result`` where it is not about to show itself in a cell."""
    if not in_notebook():
        print(result, flush=True)


class Live:
    """Progress of a long stage: redrawn in a notebook's cell, printed at times in a terminal."""

    def __init__(self, title: str, total: int, unit: str = "steps") -> None:
        self.title, self.total, self.unit = title, total, unit
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

    def _line(self, bar_format: str | None = None) -> str:
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
            unit=f" {self.unit}",
            initial=self.first or 0,
            bar_format=bar_format,
        )

    def _redraw(self) -> None:
        from IPython.display import HTML

        line = f"<pre style='{LINE}'>{html.escape(self._line(WITHOUT_BAR))}</pre>"
        bar = charts.progress(min(1.0, self.number / self.total))
        curve = charts.curve(self.losses, self.total)
        content = f"<div style='{ROW}'>{curve}{''.join(self.pictures.values())}</div>"
        self.handle.update(HTML(page(line, bar, content)))
