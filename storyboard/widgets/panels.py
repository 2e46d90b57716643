"""The widgets of ``edit_story``: a card for each panel, and the story's code below."""

import html
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets

from storyboard.errors import StoryboardError, reason
from storyboard.story import LARGEST_SEED
from storyboard.widgets.display import ERROR, cards, line, picture
from storyboard.widgets.edited_story import EditedStory

WIDTH = 230  # pixels of a card
SIDE = 256  # of a panel's picture
SMALL = 110  # of a variation
QUEUED = 0.3  # seconds
LABELS = {
    "en": {
        "prompt": "prompt",
        "negative": "negative prompt; empty: that of the story",
        "all": "negative prompt of the story",
        "seed": "seed",
        "draw": "draw",
        "vary": "4 variations",
        "keep": "keep",
        "ready": "Change words or seeds, then draw: every changed panel is drawn, no other.",
        "drawing": "drawing panel {} …",
        "changed": "panel {} is changed, not drawn yet",
        "stopped": "stopped; what was drawn stays",
        "code": "The story as it is now: copy it into its cell.",
        "log": "what was printed",
        "and": ", ",
    },
    "zh": {
        "prompt": "提示词",
        "negative": "反向提示词；留空则用全篇的",
        "all": "全篇的反向提示词",
        "seed": "种子",
        "draw": "画这一格",
        "vary": "四个变化",
        "keep": "留这张",
        "ready": "改文字或种子，再画；改过的格子一起重画，别的不动。",
        "drawing": "正在画第 {} 格……",
        "changed": "第 {} 格改了，还没有重画",
        "stopped": "停下了，画好的还在",
        "code": "现在的故事：把它复制到故事的单元格里。",
        "log": "打印的内容",
        "and": "、",
    },
}
CODE = "overflow-x:auto;user-select:all;padding:8px;border:1px solid currentColor;border-radius:4px"


class PanelCards:
    """A story editor as widgets; errors are shown in one line, and the story stays."""

    def __init__(self, editor: EditedStory, language: str) -> None:
        self.editor = editor
        self.labels = LABELS[language]
        self._pressed: Any = None  # the last button, and when what it drew was done
        self._done = 0.0
        self.state = ipywidgets.HTML(line(self.labels["ready"]))
        self.negative = ipywidgets.Text(
            editor.story.negative_prompt,
            description=self.labels["all"],
            continuous_update=False,
            layout={"width": "auto"},
        )
        self.negative.style.description_width = "initial"
        self.negative.observe(
            lambda change: self.change(lambda: editor.change_all(change["new"])), "value"
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

    def change(self, change: Callable[[], None]) -> None:
        """Make a change of the story, and say what is not drawn yet; or why it is refused."""
        with self.refusals():
            change()
            self.show_state()
        self.show_code()

    def show_state(self) -> None:
        """Which panels are not drawn as the story has them."""
        changed = self._listed(self.editor.changed)
        self._say(self.labels["changed"].format(changed) if changed else self.labels["ready"])

    def show_code(self) -> None:
        """The story's code as it is now."""
        code = html.escape(self.editor.story.code())
        self.code.value = f"{line(self.labels['code'])}<pre style='{CODE}'>{code}</pre>"

    def draw(self, number: int) -> None:
        """Draw panel ``number`` and what else changed, and show it."""
        with self.working(sorted({number, *self.editor.changed})):
            self.editor.draw()
            for panel in self.panels:
                panel.show()

    def when_pressed(self, button: Any, act: Callable[[], None]) -> None:
        """Have ``button`` do ``act``, but by the second click of a double click.

        That waits while the first is worked on, and Jupyter hands it over as soon as this is done,
        sooner than anybody could press again.
        """

        def press(_: object) -> None:
            if button is not self._pressed or time.monotonic() - self._done > QUEUED:
                try:
                    act()
                finally:
                    self._pressed, self._done = button, time.monotonic()

        button.on_click(press)

    @property
    def _buttons(self) -> list[Any]:
        return [button for panel in self.panels for button in panel.buttons]

    @contextmanager
    def working(self, numbers: Iterable[int]) -> Iterator[None]:
        """While panels are drawn no button can be pressed, and what is printed is kept."""
        self._say(self.labels["drawing"].format(self._listed(numbers)))
        for button in self._buttons:
            button.disabled = True
        try:
            with self.refusals(), self._logged():
                yield
                self.show_state()
        finally:
            for button in self._buttons:
                button.disabled = False

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """What is printed goes into the log; errors do not, which swallows them in a notebook."""
        raised = None
        self.log.clear_output()
        with self.log:
            try:
                yield
            except BaseException as error:
                raised = error
        if raised:
            raise raised

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """What is refused becomes one line; what else is raised too, and goes on."""
        try:
            yield
        except StoryboardError as error:
            self._say(str(error), ERROR)
        except KeyboardInterrupt:
            self._say(self.labels["stopped"])
            raise
        except Exception as error:
            self._say(reason(error), ERROR)
            raise

    def _say(self, text: str, style: str = "") -> None:
        self.state.value = line(text, style)

    def _listed(self, numbers: Iterable[int]) -> str:
        return self.labels["and"].join(map(str, numbers))


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
        self.box = ipywidgets.VBox(
            [
                self.picture,
                self.prompt,
                self.negative,
                self.seed,
                ipywidgets.HBox([self.draw, self.vary]),
                self.varied,
            ]
        )
        self.prompt.observe(lambda change: self._change("prompt", change["new"]), "value")
        self.negative.observe(
            lambda change: self._change("negative_prompt", change["new"].strip() or None), "value"
        )
        self.seed.observe(lambda change: self._change_seed(change["new"]), "value")
        owner.when_pressed(self.draw, lambda: owner.draw(number))
        owner.when_pressed(self.vary, self._vary)
        self.show()

    @property
    def buttons(self) -> list[Any]:
        """All that draw, those of variations too."""
        return [self.draw, self.vary, *(each.children[1] for each in self.varied.children)]

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
        self.owner.change(lambda: self.owner.editor.change(self.number, **{name: value}))

    def _change_seed(self, text: str) -> None:
        if text == str(self._seed):  # shown anew, or what was refused is typed back
            self.owner.show_state()
            return
        # what is no whole number is for ``Panel`` to refuse
        is_whole = text.strip().isdecimal() and len(text.strip()) <= len(str(LARGEST_SEED))
        self._change("seed", int(text) if is_whole else text if text.strip() else None)
        if not text.strip():
            self.seed.value = str(self._seed)

    def _vary(self) -> None:
        with self.owner.working([self.number]):
            strip = self.owner.editor.variations(self.number)
            self.varied.children = [
                self._variation(path, int(caption.split()[-1])) for path, caption in strip.pictures
            ]

    def _variation(self, path: Any, seed: int) -> Any:
        shown = ipywidgets.HTML(picture(path, SMALL, f"seed {seed}"))
        keep = ipywidgets.Button(
            description=f"{self.owner.labels['keep']} · {seed}", layout={"width": f"{SMALL}px"}
        )

        def choose() -> None:
            self.varied.children = ()
            self.seed.value = str(seed)
            self.owner.draw(self.number)

        self.owner.when_pressed(keep, choose)
        return ipywidgets.VBox([shown, keep])
