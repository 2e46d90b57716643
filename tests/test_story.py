import pytest

from storyboard import Panel, Story
from storyboard.errors import SettingsError


def test_strings_become_panels_and_inherit_the_negative_prompt():
    story = Story(["一", Panel("二", negative_prompt="丑", seed=7)], negative_prompt="模糊")
    assert story.resolved(seed=10) == [
        {"prompt": "一", "negative_prompt": "模糊", "seed": 10}, {"prompt": "二", "negative_prompt": "丑", "seed": 7},
    ]


def test_a_panel_keeps_its_seed_when_others_are_edited():
    before, after = Story(["a", "b", "c"]).resolved(5), Story(["a", "x", "c"]).resolved(5)
    assert [panel["seed"] for panel in before] == [panel["seed"] for panel in after] == [5, 6, 7]


def test_an_empty_negative_prompt_is_kept_empty():
    assert Story([Panel("a", negative_prompt="")], negative_prompt="模糊").resolved(0)[0]["negative_prompt"] == ""


@pytest.mark.parametrize("count", [1, 8, 64])
def test_one_to_sixty_four_panels(count):
    assert len(Story(["a"] * count)) == count


@pytest.mark.parametrize("panels, said", [
    ([], "has 0 panels: give it 1 to 64"), (["a"] * 65, "has 65 panels"), ("a", "takes a list"), ([3], "Panel 1 of the story is int"),
])
def test_a_story_that_cannot_be_says_why(panels, said):
    with pytest.raises(SettingsError, match=said):
        Story(panels)


def test_a_storys_negative_prompt_is_text():
    with pytest.raises(SettingsError, match="negative_prompt=None"):
        Story(["a"], negative_prompt=None)


@pytest.mark.parametrize("arguments, said", [({"prompt": "  "}, "nothing to draw"), ({"prompt": "a", "seed": -1}, "seed=-1"), ({"prompt": "a", "seed": "x"}, "seed='x'"), ({"prompt": "a", "negative_prompt": 3}, "negative_prompt=3")])
def test_a_panel_that_cannot_be_says_why(arguments, said):
    with pytest.raises(SettingsError, match=said):
        Panel(**arguments)
