"""The syntax of weights in prompts."""

import contextlib
import cProfile

import pytest

from storyboard import Panel, Story, png, prompts
from storyboard.errors import SettingsError
from tests.test_png import RECORD


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("()", []),
        (
            "(lowres, low quality, worst quality:1.2), (text:1.2), deformed",
            [
                ("lowres, low quality, worst quality", 1.2),
                (", ", 1),
                ("text", 1.2),
                (", deformed", 1),
            ],
        ),
        ("(a) [b]", [("a ", 1.1), ("b", 0.909091)]),
        ("((a) b [c:2])", [("a ", 1.21), ("b ", 1.1), ("c:2", 1)]),
        ("x (a (b:2):0.5)", [("x ", 1), ("a ", 0.5), ("b", 1)]),
        (r"a \(b\) \[c\] \\ d", [("a (b) [c] \\ d", 1)]),
        ("([a]) (b:1.0) c", [("a b c", 1)]),
        ("1:2, (3:x)", [("1:2, ", 1), ("3:x", 1.1)]),
        ("二次元，(紫色短发: .5 )", [("二次元，", 1), ("紫色短发", 0.5)]),
    ],
)
def test_weights_are_read_as_a1111_reads_them(prompt, pieces):
    assert prompts.parse(prompt) == pieces


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("二次元，(紫色:1.2，女孩", r"'\(' at character 5 that is never closed \(二次元，►\(紫色"),
        ("a) b", r"'\)' at character 2 that is never opened \(a►\) b\)"),
        ("(a]", r"'\(' at character 1"),
        ("a [b", r"'\[' at character 3"),
        ("(a:11)", "weight 11 at character 4"),
        ("(a:-1)", "weight -1"),
        ("(a:" + "9" * 400 + ")", "weight 999999999999 at character 4"),
        ("((a:4) b:3)", "weight 12 in all at character 2"),
        ("(" * 30 + "a" + ")" * 30, "weight 10.8347 in all at character 25"),
        ("a" * 20_001, "has 20,001 characters: write at most 20,000"),
        ("a smile \ud83d", r"holds '\\ud83d' at character 9, which is no character"),
        ("a\0b", r"holds '\\x00' at character 2"),
    ],
)
def test_a_wrong_weight_shows_where_before_anything_runs(prompt, message):
    for make in (
        lambda: Panel(prompt),
        lambda: Panel("a", negative_prompt=prompt),
        lambda: Story([prompt]),
        lambda: Story(["a"], negative_prompt=prompt),
    ):
        with pytest.raises(SettingsError, match=message) as error:
            make()
        assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "prompt",
    [
        "[" * 9_999 + "a" + "]" * 9_999,
        "([" * 5_000 + "])" * 5_000,
        ":" * 20_000,
        ": " * 10_000,
        "(a:" + "1" * 19_990,
        "\\" * 20_000,
        "a b" * 6_000,
    ],
)
def test_time_is_linear_in_the_length(prompt):
    def calls(text: str) -> int:
        """Function calls, which do not depend on the machine's speed."""
        profile = cProfile.Profile()
        with contextlib.suppress(SettingsError):
            profile.runcall(prompts.parse, text)
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(prompt) < 25 * len(prompt)


def test_a_weighted_prompt_stands_in_the_png_as_typed():
    panel = Story([r"(a:1.2) \(b\)"], "[c]").resolved(3)[0]
    record = RECORD.model_copy(
        update={"prompt": panel.prompt, "negative_prompt": panel.negative_prompt}
    )
    assert png.parameters(record).startswith("(a:1.2) \\(b\\)\nNegative prompt: [c]\n")
