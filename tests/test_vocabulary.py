"""Which attributes a prompt names, and that the classifier reads the same ones."""

import pytest

from storyboard import vocabulary
from storyboard.models import classifier


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "二次元，紫色短发女孩，闭着眼睛，白色衣服，抱着小猫，家里",
            {
                "hair_color": {"purple"},
                "hair_length": {"short"},
                "expression": {"asleep"},
                "clothes_color": {"white"},
                "prop": {"cat"},
                "background": {"home"},
            },
        ),
        (
            "anime, a girl with long blonde hair, with a smile, red clothes, "
            "under an umbrella, rainy day",
            {
                "hair_color": {"blonde"},
                "hair_length": {"long"},
                "expression": {"smiling"},
                "clothes_color": {"red"},
                "prop": {"umbrella"},
                "background": {"rain"},
            },
        ),
        ("女孩，(金发:1.3)，[蓝色背景]", {"hair_color": {"blonde"}, "background": {"blue"}}),
        (
            "a boy, (blue:1.2) background, short-haired",
            {"background": {"blue"}, "hair_length": {"short"}},
        ),
        (
            "红色长发，红色或蓝色的衣服",
            {"hair_color": {"red"}, "hair_length": {"long"}, "clothes_color": {"red", "blue"}},
        ),
        (
            "二次元，远景，面朝左，女孩，看书",
            {"framing": {"wide"}, "facing": {"left"}, "prop": {"book"}},
        ),
        (
            "anime, close-up, looking right, a girl, looking sad",
            {"framing": {"close"}, "facing": {"right"}, "expression": {"sad"}},
        ),
        ("a brain, a catalogue and a spaceship", {}),
        ("银河里的城堡", {}),
    ],
)
def test_attributes_that_a_prompt_names(prompt, expected):
    assert vocabulary.named_attributes(prompt) == expected


def test_the_classifier_has_the_vocabulary_in_the_order_of_its_weights():
    assert {
        "hair_color": (
            *("purple", "black", "brown", "blonde", "red", "pink", "blue", "green", "white"),
        ),
        "background": (
            *("seaside", "forest", "night", "rain", "snow", "sunset"),
            *("classroom", "home", "city", "stage", "garden", "space"),
            *("blue", "pink", "purple", "yellow", "green", "white", "orange", "gray"),
        ),
        "clothes_color": ("red", "blue", "green", "yellow", "purple", "white", "black", "pink"),
        "expression": ("smiling", "laughing", "sad", "surprised", "asleep", "winking"),
        "hair_length": ("short", "long"),
        "style": ("avataaars", "personas", "toonHead", "micah", "lorelei"),
        "prop": (
            *(None, "balloon", "umbrella", "book", "guitar", "cat", "flowers"),
            *("cup", "ice_cream", "camera", "microphone", "lantern", "gift"),
        ),
        "framing": ("half", "close", "wide"),
        "facing": (None, "right", "left"),
    } == classifier.VALUES
