"""The story: panels, what they share, their seeds; read back from PNGs in test_png.py."""

import pytest

from storyboard import Panel, Story
from storyboard.errors import SettingsError
from storyboard.story import MAX_SEED, ResolvedPanel


def test_strings_become_panels_and_inherit_the_negative_prompt():
    story = Story(["一", Panel("二", negative_prompt="丑", seed=7)], negative_prompt="模糊")
    assert story.resolved(seed=10) == [
        ResolvedPanel("一", "模糊", 10),
        ResolvedPanel("二", "丑", 7),
    ]


def test_a_panel_keeps_its_seed_when_others_are_edited():
    before, after = Story(["a", "b", "c"]).resolved(5), Story(["a", "x", "c"]).resolved(5)
    assert [panel.seed for panel in before] == [panel.seed for panel in after] == [5, 6, 7]


def test_an_empty_negative_prompt_is_kept_empty():
    story = Story([Panel("a", negative_prompt="")], negative_prompt="模糊")
    assert story.resolved(0)[0].negative_prompt == ""


@pytest.mark.parametrize("count", [1, 8, 64])
def test_one_to_sixty_four_panels(count):
    assert len(Story(["a"] * count)) == count


@pytest.mark.parametrize(
    ("panels", "said"),
    [
        ([], "has no panels: give it 1 to 64"),
        (["a"] * 65, "has over 64 panels"),
        ("a", "takes a list"),
        ([3], "Panel 1 of the story is int"),
    ],
)
def test_a_story_that_cannot_be_says_why(panels, said):
    with pytest.raises(SettingsError, match=said):
        Story(panels)


def test_a_storys_negative_prompt_is_text():
    with pytest.raises(SettingsError, match="negative_prompt=None"):
        Story(["a"], negative_prompt=None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": "  "}, "nothing to draw"),
        ({"prompt": "a", "seed": -1}, "seed=-1"),
        ({"prompt": "a", "seed": "x"}, "seed='x'"),
        ({"prompt": "a", "negative_prompt": 3}, "negative_prompt=3"),
        ({}, "nothing to draw"),
        ({"prompt": "()"}, "nothing to draw"),
        ({"prompt": None}, "prompt=None"),
        ({"subject": 3}, "subject=3"),
    ],
)
def test_a_panel_that_cannot_be_says_why(arguments, said):
    with pytest.raises(SettingsError, match=said):
        Panel(**arguments)


@pytest.mark.parametrize(
    ("panel", "prompt"),
    [
        (
            Panel(
                subject="紫色短发女孩",
                details="微笑，",
                modifiers="高清",
                style="二次元",
                artist="宫崎骏",
            ),
            "紫色短发女孩，微笑，高清，二次元，宫崎骏",
        ),
        (Panel(artist="by nobody", subject="a girl"), "a girl, by nobody"),
        (Panel("a (cat:1.2),", details="in rain"), "a (cat:1.2), in rain"),
        (Panel(" a,b ，"), "a,b ，"),
        (Panel(subject="(a", details="b:1.2)"), "(a, b:1.2)"),
    ],
)
def test_a_prompt_is_joined_from_its_parts(panel, prompt):
    assert Story([panel]).resolved(0)[0].prompt == prompt


def test_what_panels_share_stands_before_each():
    story = Story(
        ["微笑", Panel("难过", details="教室", seed=3)],
        "模糊",
        common="紫色短发女孩",
        trigger="二次元",
    )
    assert story.resolved(1) == [
        ResolvedPanel("二次元，紫色短发女孩，微笑", "模糊", 1),
        ResolvedPanel("二次元，紫色短发女孩，难过，教室", "模糊", 3),
    ]
    assert Story(["smiling"], trigger="anime").resolved(0)[0].prompt == "anime, smiling"
    assert Panel("a", "b", 3) == Panel("a", negative_prompt="b", seed=3)


@pytest.mark.parametrize(
    "shared",
    [
        {"common": "(a"},
        {"trigger": "a)"},
        {"negative_prompt": "[a"},
        {"common": 3},
        {"trigger": None},
    ],
)
def test_what_panels_share_is_checked(shared):
    with pytest.raises(SettingsError, match="must be text|that is never"):
        Story(["a"], **shared)


def test_panels_of_the_largest_seed_of_a_story_can_stand_alone():
    plain = Story(["a", "b"]).plain(MAX_SEED)
    assert plain.resolved(0) == Story(["a", "b"]).resolved(MAX_SEED)
