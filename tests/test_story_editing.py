"""A story edited panel by panel: the calls, and the widgets as a browser would set them."""

import sys
from dataclasses import replace
from unittest.mock import Mock

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from storyboard import Panel, Reference, Story, edit_story, render, variations
from storyboard.errors import RenderingError, SettingsError
from storyboard.widgets import display, panels
from storyboard.widgets.panels import PanelCards
from tests.conftest import picture
from tests.test_rendering import pixels


@pytest.fixture
def editor(trained, tmp_path):
    settings, story, _, lora = trained
    return edit_story(story, settings.but(output=str(tmp_path)), lora)


@pytest.fixture
def cards(editor, monkeypatch):
    monkeypatch.setattr(panels, "QUEUED", -1)  # tests press sooner than people
    return PanelCards(editor, "zh")


@pytest.fixture
def in_ipython(monkeypatch, tmp_path):
    """``ipywidgets.Output`` swallows what is raised inside it where there is IPython."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # it puts its own there
    without_history = Config({"HistoryManager": {"enabled": False}})  # or it writes a file at exit
    yield InteractiveShell.instance(config=without_history)
    InteractiveShell.clear_instance()


def written(story: Story) -> Story:
    """The story that its code makes."""
    names = {"Story": Story, "Panel": Panel, "Reference": Reference}
    exec(story.code(), names)
    return names["story"]


@pytest.mark.parametrize(
    "story",
    [
        Story(["二次元，猫"]),
        Story(
            [Panel('a "b"\n\\', seed=3, negative_prompt=""), Panel(subject="x", style="y")],
            negative_prompt="模糊",
            common="c",
            trigger="t",
        ),
        Story([Panel("a", reference=Reference("é/a b.png", control="image", strength=0.4))]),
    ],
)
def test_the_code_of_a_story_makes_that_story(story):
    again = written(story)
    assert again.panels == story.panels
    assert again.resolved(7) == story.resolved(7)


def test_only_a_changed_panel_is_drawn_again(editor, capsys):
    before = [path.read_bytes() for path in editor.pictures.paths]
    editor.change(2, prompt="二次元，绿色长发女孩，大笑", seed=8)
    capsys.readouterr()
    editor.draw()
    assert "drew 1 of 3 panels" in capsys.readouterr().out
    after = [path.read_bytes() for path in editor.pictures.paths]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]
    assert 'Panel("二次元，绿色长发女孩，大笑", seed=8)' in str(editor)
    editor.change_all("难看")
    assert written(editor.story).resolved(1) == editor.story.resolved(1)
    assert {each.negative_prompt for each in editor.story.resolved(1)} == {"难看"}


def test_what_a_panel_refuses_leaves_the_story(editor):
    before = editor.story
    for number, changes in ((1, {"prompt": " "}), (1, {"seed": -1}), (4, {"seed": 1})):
        with pytest.raises(SettingsError):
            editor.change(number, **changes)
    assert editor.story is before


def test_a_variation_that_is_kept_is_the_picture_that_was_shown(editor):
    first = editor.variations(2)
    own = editor.story.resolved(editor.settings.seed)[1].seed
    assert [caption for _, caption in first.pictures] == [f"seed {own + n}" for n in (1, 2, 3, 4)]
    shown = pixels(first.paths[2])
    assert editor.variations(2).pictures[0][1] == f"seed {own + 5}"
    editor.change(2, seed=own + 3)
    assert abs(pixels(editor.draw().paths[1]) - shown).max() <= 1


def test_variations_are_drawn_once(trained, tmp_path, capsys):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    strip = variations(story, settings, lora, panel=3, count=2, first=7)
    assert [caption for _, caption in strip.pictures] == ["seed 7", "seed 8"]
    capsys.readouterr()
    assert variations(story, settings, lora, panel=3, count=2, first=7) == strip
    assert "render: nothing to do" in capsys.readouterr().out
    alone = render(Story([Panel(story[2].text, "模糊", seed=8)]), settings, lora, tmp_path / "x")
    assert abs(pixels(alone.paths[0]) - pixels(strip.paths[1])).max() <= 1


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("character", [None, "shared"])
def test_a_variation_follows_what_its_panel_follows(trained, tmp_path, number, character):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path), character=character)
    picture(3).save(tmp_path / "sketch.png")
    panels = list(story)
    panels[1] = Panel(story[1].text, reference=Reference(tmp_path / "sketch.png"))
    if character is None:  # beside which panel 1 follows nothing
        panels[0] = Panel(
            story[0].text, reference=Reference(tmp_path / "sketch.png", control="image")
        )
    strip = variations(Story(panels), settings, lora, number, count=2, first=70)
    panels[number - 1] = replace(panels[number - 1], seed=71)
    kept = render(Story(panels), settings, lora).paths[number - 1]
    assert abs(pixels(kept) - pixels(strip.paths[1])).max() <= 1


@pytest.mark.parametrize("changes", [{"count": 0}, {"count": 65}, {"count": 1.5}, {"panel": 4}])
def test_numbers_out_of_range_are_refused(trained, tmp_path, changes):
    settings, story, _, lora = trained
    with pytest.raises(SettingsError, match="must be a whole number from 1 to"):
        variations(story, settings.but(output=str(tmp_path)), lora, **changes)


def test_widgets_change_draw_vary_and_keep(editor, cards):
    before = [panel.picture.value for panel in cards.panels]
    card = cards.panels[1]
    card.prompt.value = "二次元，绿色长发女孩，大笑"
    assert "第 2 格改了" in cards.state.value and "大笑" in cards.code.value
    card.draw.click()
    after = [panel.picture.value for panel in cards.panels]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]

    card.vary.click()
    assert len(card.varied.children) == 4
    keep = card.varied.children[2].children[1]
    seed = int(keep.description.split()[-1])
    keep.click()
    assert editor.story[1].seed == seed and card.seed.value == str(seed)
    assert card.varied.children == () and f"seed={seed}" in cards.code.value
    assert not card.draw.disabled


@pytest.mark.parametrize(("box", "value"), [("seed", "-3"), ("seed", "x"), ("prompt", "(猫")])
def test_what_a_widget_refuses_is_said_until_it_is_typed_back(editor, cards, box, value):
    before = editor.story
    typed = getattr(cards.panels[0], box)
    was = typed.value
    typed.value = value
    assert display.ERROR in cards.state.value and editor.story is before
    typed.value = was
    assert cards.labels["ready"] in cards.state.value


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RenderingError("Panel 2 is blank."), "Panel 2 is blank."),
        (ValueError("a bug"), "ValueError a bug"),
        (KeyboardInterrupt(), "停下了"),
    ],
)
@pytest.mark.usefixtures("in_ipython")
def test_what_fails_while_drawing_is_said_in_a_notebook_too(cards, monkeypatch, error, said):
    monkeypatch.setattr(cards.editor, "draw", Mock(side_effect=error))
    if isinstance(error, RenderingError):
        cards.draw(2)
    else:
        with pytest.raises(type(error)):
            cards.draw(2)
    assert said in cards.state.value and not cards.panels[1].draw.disabled


def test_an_emptied_seed_is_that_of_the_story(editor, cards):
    card = cards.panels[1]
    card.seed.value = "77"
    assert "第 2 格改了" in cards.state.value
    card.seed.value = ""
    assert editor.story[1].seed is None
    assert card.seed.value == str(editor.settings.seed + 1)
    assert cards.labels["ready"] in cards.state.value


def test_every_changed_panel_is_drawn_and_named_and_no_button_works_meanwhile(cards, monkeypatch):
    cards.panels[0].vary.click()
    keep = cards.panels[0].buttons[2]
    cards.panels[2].seed.value = "77"
    cards.panels[0].seed.value = "78"
    assert "第 1、3 格改了" in cards.state.value
    draw = cards.editor.draw

    def look():
        assert "正在画第 1、2、3 格" in cards.state.value
        assert keep.disabled and cards.panels[1].vary.disabled
        return draw()

    monkeypatch.setattr(cards.editor, "draw", look)
    cards.panels[1].draw.click()
    assert cards.labels["ready"] in cards.state.value and not keep.disabled


def test_the_second_click_of_a_double_click_draws_nothing(cards, monkeypatch):
    monkeypatch.setattr(panels, "QUEUED", 60)
    for _ in range(2):
        cards.panels[0].vary.click()
    own = cards.editor.story.resolved(cards.editor.settings.seed)[0].seed
    assert [each.description for each in cards.panels[0].buttons[2:]] == [
        f"留这张 · {own + n}" for n in (1, 2, 3, 4)
    ]


def test_a_variation_is_kept_as_soon_as_it_is_seen(cards, monkeypatch):
    monkeypatch.setattr(panels, "QUEUED", 60)
    cards.panels[0].vary.click()
    cards.panels[0].buttons[3].click()
    own = cards.editor.settings.seed
    assert cards.editor.story[0].seed == own + 2 and cards.panels[0].buttons[2:] == []


def test_labels_are_in_the_language_of_the_prompts_or_as_asked(editor):
    assert editor.language == "zh"
    english = Story(["a", "b", "二次元，绿色长发女孩，难过"])
    assert display.language_of([panel.text for panel in english], None) == "en"


def test_without_a_notebook_it_is_its_code(editor):
    assert editor._repr_mimebundle_() == {"text/plain": editor.story.code()}
