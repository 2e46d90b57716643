"""The widgets of ``curate``: a page of pictures, each with a tick and a box for its caption."""

from collections.abc import Callable
from typing import Any

import ipywidgets

from storyboard.data import edits_file
from storyboard.data.curation import BULK, Curation
from storyboard.errors import StoryboardError
from storyboard.widgets.display import ERROR, cards, line, picture

PAGE = 24  # pictures
SIDE = 180  # pixels of a picture
WIDTH = 140  # least of a card: two fit on a telephone
ROOMY = {"width": "auto", "flex": "1 1 160px"}  # takes the room there is, wraps where it is narrow
LABELS = {
    "en": {
        "filter": "only captions with these words",
        "first": "put first (a trigger word)",
        "last": "put last",
        "replace": "replace, or take out",
        "words": "words",
        "other": "by (empty: nothing)",
        "apply": "apply to {} pictures",
        "undo": "undo",
        "keep": "keep",
        "page": "page {} of {}",
        "state": "{} pictures, {} taken out, {} captions changed. Changes are written to {}; "
        "cleaning goes by it.",
    },
    "zh": {
        "filter": "只看描述里有这些字的",
        "first": "加在最前面（触发词）",
        "last": "加在最后面",
        "replace": "替换或删去",
        "words": "文字",
        "other": "换成（留空则删去）",
        "apply": "应用到 {} 张",
        "undo": "撤销",
        "keep": "保留",
        "page": "第 {} 页，共 {} 页",
        "state": "共 {} 张，去掉 {} 张，改了 {} 条描述。改动写在 {} 里，清洗时会照办。",
    },
}


class Gallery:
    """A curation as widgets: every change is written at once, errors are shown in one line."""

    def __init__(self, curation: Curation, language: str) -> None:
        self.curation = curation
        self.labels = LABELS[language]
        self.number = 0  # of the page, from 0

        self.state = ipywidgets.HTML()
        # not at every key: the page's pictures are made anew
        self.filter = ipywidgets.Text(
            placeholder=self.labels["filter"], continuous_update=False, layout=dict(ROOMY)
        )
        self.back = ipywidgets.Button(icon="chevron-left", layout={"width": "40px"})
        self.forward = ipywidgets.Button(icon="chevron-right", layout={"width": "40px"})
        self.page = ipywidgets.Label()
        self.action = ipywidgets.Dropdown(
            options=[(self.labels[name], name) for name in BULK], layout=dict(ROOMY)
        )
        self.words = ipywidgets.Text(placeholder=self.labels["words"], layout=dict(ROOMY))
        self.other = ipywidgets.Text(placeholder=self.labels["other"], layout=dict(ROOMY))
        self.apply = ipywidgets.Button(button_style="primary", layout={"width": "auto"})
        self.undo = ipywidgets.Button(
            description=self.labels["undo"], icon="undo", layout={"width": "auto"}
        )
        self.cards = cards([], WIDTH)
        wrap = ipywidgets.Layout(flex_flow="row wrap", align_items="center", width="100%")
        self.box = ipywidgets.VBox(
            [
                self.state,
                ipywidgets.Box([self.filter, self.back, self.page, self.forward], layout=wrap),
                ipywidgets.Box(
                    [self.action, self.words, self.other, self.apply, self.undo], layout=wrap
                ),
                self.cards,
            ]
        )
        self._connect()
        self._show()

    def _connect(self) -> None:
        self.filter.observe(lambda _: self._turn_to(0), "value")
        self.back.on_click(lambda _: self._turn_to(self.number - 1))
        self.forward.on_click(lambda _: self._turn_to(self.number + 1))
        self.apply.on_click(lambda _: self._try(self._apply, show=True))
        self.undo.on_click(lambda _: self._try(self.curation.undo, show=True))
        self.action.observe(lambda _: self._show_state(), "value")

    def _apply(self) -> None:
        words = self.words.value.strip()
        if words:
            BULK[self.action.value](self.curation, words, self.other.value.strip(), self._names())

    def _turn_to(self, number: int) -> None:
        self.number = number
        self._show()

    def _names(self) -> list[str]:
        return self.curation.containing(self.filter.value)

    def _try(self, change: Callable[[], None], show: bool = False) -> bool:
        """Make a change; where it is refused, say why instead. Returns whether it was made."""
        try:
            change()
        except StoryboardError as error:
            self.state.value = line(str(error), ERROR)
            return False
        if show:
            self._show()
        self._show_state()
        return True

    def _show(self) -> None:
        """Fill the page."""
        names = self._names()
        pages = max(1, -(-len(names) // PAGE))
        self.number = min(max(0, self.number), pages - 1)
        self.page.value = self.labels["page"].format(self.number + 1, pages)
        self.back.disabled, self.forward.disabled = self.number == 0, self.number == pages - 1
        old = self.cards.children
        first = self.number * PAGE
        self.cards.children = [self._card(name) for name in names[first : first + PAGE]]
        for card in old:
            for part in card.children:
                part.close()
            card.close()
        self._show_state()

    def _show_state(self) -> None:
        self.other.layout.display = None if self.action.value == "replace" else "none"
        count = sum(map(self.curation.is_kept, self._names()))
        self.apply.description = self.labels["apply"].format(count)
        self.state.value = line(
            self.labels["state"].format(
                *self.curation.counts, self.curation.settings.folder / edits_file.FILE
            )
        )

    def _card(self, name: str) -> Any:
        curation = self.curation
        shown = ipywidgets.HTML(self._picture(name), layout={"min_height": f"{WIDTH}px"})
        kept = ipywidgets.Checkbox(
            curation.is_kept(name), description=self.labels["keep"], indent=False
        )
        kept.layout.width = "auto"
        text = ipywidgets.Textarea(
            curation.text(name),
            continuous_update=False,
            layout=ipywidgets.Layout(width="auto", height="76px"),
        )
        shown.layout.opacity = text.layout.opacity = _opacity(kept.value)

        def tick(change: dict) -> None:
            if change["new"] != curation.is_kept(name):
                self._try(lambda: curation.keep(name, change["new"]))
                kept.value = curation.is_kept(name)  # another where it was refused
            shown.layout.opacity = text.layout.opacity = _opacity(kept.value)

        def write(change: dict) -> None:
            if change["new"] == curation.text(name):
                self._show_state()
            elif self._try(lambda: curation.describe(name, change["new"])):
                text.value = curation.text(name)  # the collected one where it was emptied

        kept.observe(tick, "value")
        text.observe(write, "value")
        return ipywidgets.VBox([shown, kept, text])

    def _picture(self, name: str) -> str:
        path = self.curation.collected.path(self.curation.row(name))
        try:
            return picture(path, SIDE, name)
        except StoryboardError as error:  # it is gone since
            return line(str(error), ERROR)


def _opacity(kept: bool) -> str:
    return "1" if kept else "0.35"
