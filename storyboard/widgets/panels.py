"""The widgets of ``edit_story``: a card for each panel, and the story's code below."""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets

from storyboard.errors import StoryboardError
from storyboard.story import MAX_SEED
from storyboard.widgets.display import ERROR, cards, line, picture
from storyboard.widgets.edited_story import EditedStory

WIDTH = 230  # pixels of a card
SIDE = 256  # of a panel's picture
SMALL = 110  # of a variation
LABELS = {
    "en": {
        "prompt": "prompt",
        "negative": "negative prompt; empty: that of the story",
        "all": "negative prompt of the story",
        "seed": "seed",
        "draw": "draw",
        "vary": "4 variations",
        "keep": "keep",
        "ready": "Change words or seeds, then draw; only what changed is drawn again.",
        "drawing": "drawing panel {} …",
        "changed": "panel {} is changed, not drawn yet",
        "code": "The story as it is now: copy it into its cell.",
        "log": "what was printed",
    },
    "zh": {
        "prompt": "提示词",
        "negative": "反向提示词；留空则用全篇的",
        "all": "全篇的反向提示词",
        "seed": "种子",
        "draw": "画这一格",
        "vary": "四个变化",
        "keep": "留这张",
        "ready": "改文字或种子，再画；只重画改过的格子。",
        "drawing": "正在画第 {} 格……",
        "changed": "第 {} 格改了，还没有重画",
        "code": "现在的故事：把它复制到故事的单元格里。",
        "log": "打印的内容",
    },
}
CODE = "overflow-x:auto;user-select:all;padding:8px;border:1px solid currentColor;border-radius:4px"


class PanelCards:
    """A story editor as widgets; errors are shown in one line, and the story stays."""

    def __init__(self, editor: EditedStory, language: str) -> None:
        self.editor = editor
        self.labels = LABELS[language]
        self.state = ipywidgets.HTML(line(self.labels["ready"]))
        self.negative = ipywidgets.Text(
            editor.story.negative_prompt,
            description=self.labels["all"],
            continuous_update=False,
            layout={"width": "auto"},
        )
        self.negative.style.description_width = "initial"
        self.negative.observe(
            lambda change: self._change(lambda: editor.change_all(change["new"])), "value"
        )
        self.log = ipywidgets.Output()
        folded = ipywidgets.Accordion([self.log], titles=(self.labels["log"],))
        self.code = ipywidgets.HTML()
        self.panels = [PanelCard(self, number) for number in editor.numbers]
        self.box = ipywidgets.VBox(
            [
                self.state,
                self.negative,
                cards([panel.box for panel in self.panels], WIDTH),
                self.code,
                folded,
            ]
        )
        self.show_code()

    def _change(self, change: Callable[[], None]) -> None:
        with self.refusals():
            change()
            self.state.value = line(self.labels["ready"])
        self.show_code()

    def show_code(self) -> None:
        """The story's code as it is now."""
        code = html.escape(self.editor.story.code())
        self.code.value = f"{line(self.labels['code'])}<pre style='{CODE}'>{code}</pre>"

    def draw(self, number: int) -> None:
        """Draw what changed, and show it."""
        with self.working(number):
            self.editor.draw()
            for panel in self.panels:
                panel.show()

    @contextmanager
    def working(self, number: int) -> Iterator[None]:
        """While panel ``number`` is drawn no button can be pressed, and what is printed is kept."""
        self.state.value = line(self.labels["drawing"].format(number))
        buttons = [button for panel in self.panels for button in panel.buttons]
        for button in buttons:
            button.disabled = True
        try:
            with self.refusals():
                self.log.clear_output()
                with self.log:
                    yield
                self.state.value = line(self.labels["ready"])
        finally:
            for button in buttons:
                button.disabled = False

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """What is refused becomes one line."""
        try:
            yield
        except StoryboardError as error:
            self.state.value = line(str(error), ERROR)


class PanelCard:
    """One panel: its picture, its words and seed, its buttons, and variations to choose from."""

    def __init__(self, owner: PanelCards, number: int) -> None:
        self.owner = owner
        self.number = number
        panel, labels = self._panel, owner.labels
        wide = {"width": "auto"}
        self.picture = ipywidgets.HTML()
        self.prompt = ipywidgets.Textarea(
            panel.text,
            placeholder=labels["prompt"],
            continuous_update=False,
            layout={"width": "auto", "height": "76px"},
        )
        self.negative = ipywidgets.Text(
            panel.negative_prompt or "",
            placeholder=labels["negative"],
            continuous_update=False,
            layout=wide,
        )
        self.seed = ipywidgets.Text(
            str(self._seed), description=labels["seed"], continuous_update=False, layout=wide
        )
        self.seed.style.description_width = "initial"
        self.draw = ipywidgets.Button(
            description=labels["draw"], button_style="primary", layout=wide
        )
        self.vary = ipywidgets.Button(description=labels["vary"], layout=wide)
        self.varied = ipywidgets.Box(layout={"flex_flow": "row wrap"})
        self.buttons = [self.draw, self.vary]
        self.box = ipywidgets.VBox(
            [
                self.picture,
                self.prompt,
                self.negative,
                self.seed,
                ipywidgets.HBox(self.buttons),
                self.varied,
            ]
        )
        self.prompt.observe(lambda change: self._change("prompt", change["new"]), "value")
        self.negative.observe(
            lambda change: self._change("negative_prompt", change["new"].strip() or None), "value"
        )
        self.seed.observe(lambda change: self._change_seed(change["new"]), "value")
        self.draw.on_click(lambda _: owner.draw(number))
        self.vary.on_click(lambda _: self._vary())
        self.show()

    @property
    def _panel(self) -> Any:
        return self.owner.editor.story[self.number - 1]

    @property
    def _seed(self) -> int:
        editor = self.owner.editor
        return editor.story.resolved(editor.settings.seed)[self.number - 1].seed

    def show(self) -> None:
        """The picture as it was drawn last."""
        path = self.owner.editor.pictures.paths[self.number - 1]
        self.picture.value = picture(path, SIDE, self._panel.text)

    def _change(self, name: str, value: object) -> None:
        owner = self.owner
        with owner.refusals():
            owner.editor.change(self.number, **{name: value})
            owner.state.value = line(owner.labels["changed"].format(self.number))
        owner.show_code()

    def _change_seed(self, text: str) -> None:
        if text == str(self._seed):
            return
        # what is no whole number is for ``Panel`` to refuse
        is_whole = text.strip().isdecimal() and len(text.strip()) <= len(str(MAX_SEED))
        self._change("seed", int(text) if is_whole else text)

    def _vary(self) -> None:
        with self.owner.working(self.number):
            strip = self.owner.editor.variations(self.number)
            self.varied.children = [
                self._variation(path, int(caption.split()[-1])) for path, caption in strip.pictures
            ]

    def _variation(self, path: Any, seed: int) -> Any:
        shown = ipywidgets.HTML(picture(path, SMALL, f"seed {seed}"))
        keep = ipywidgets.Button(
            description=f"{self.owner.labels['keep']} · {seed}", layout={"width": f"{SMALL}px"}
        )

        def choose(_: object) -> None:
            self.varied.children = ()
            self.seed.value = str(seed)
            self.owner.draw(self.number)

        keep.on_click(choose)
        return ipywidgets.VBox([shown, keep])
