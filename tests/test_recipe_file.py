"""A recipe's YAML: what is not one is refused in a sentence, in little time and memory."""

import pytest

from storyboard.data import recipe_file
from storyboard.errors import SettingsError, StoryboardError


@pytest.fixture
def read(tmp_path):
    """text or bytes -> what a file that holds it is read as."""

    def write(content: str | bytes):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return recipe_file.read(path)

    return write


def bomb(levels: int = 12, width: int = 9) -> str:
    """Lists of lists by aliases: ``width ** levels`` values."""
    lines = ["a: &a0 [x]"]
    lines += [f"b{i}: &a{i + 1} [{', '.join([f'*a{i}'] * width)}]" for i in range(levels)]
    return "\n".join(lines)


def merging_bomb(levels: int = 12) -> str:
    lines = ["a: &a0 {x: 1}"]
    lines += [
        f"b{i}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}], k{i}: 1}}" for i in range(levels)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(), "Line 6 of .*recipe.yaml comes to over 20,000 values"),
        (merging_bomb(), "comes to over 20,000 values"),
        ("process:\n" + " - a: {x: 1}\n" * 6000, "comes to over 20,000 values"),
        ("a: " + "x" * 300_000, "has over 200,000 bytes"),
        ("[" * 100_000, "line 1 is nested over 30 levels deep"),
        ("".join(" " * i + "a:\n" for i in range(200)), "nested over 30 levels deep"),
        (
            "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 500)),
            "Line 30 .*is nested over 30 levels deep",
        ),
        ("a: &a [*a]", "holds itself by an alias"),
        ("a: &a {b: *a}", "holds itself by an alias"),
        ("a: !!python/object/apply:os.system ['touch run']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !mine x", "could not determine a constructor"),
        ("a:\n  b: 1\n  b: 2", "Line 3 of .* names 'b' a second time"),
        ("a: 1\na: 2", "names 'a' a second time"),
        ("a: {1: x}", "has a name that is not text"),
        ("? [1, 2]\n: 3", "has a name that is not text"),
        ("a: 1:30", "'1:30', which YAML reads as a number of base 60"),
        ("a: 0100", "'0100', which YAML reads as a number of base 8"),
        ("a: 2024-13-45", "month must be in 1..12"),
        ("a: " + "9" * 5000, "limit"),
        ("a: !!float abc", "could not convert"),
        ("a: \0", "is not YAML"),
        ("a: [1", "is not YAML"),
        ("a:\n\t- b", r"is not YAML: .*'\\t'"),
        ("a: 1\n---\nb: 2\n", "single document"),
        (bytes(range(256)), "recipe.yaml"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(read, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoryboardError, match=message) as error:
        read(content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert "recipe.yaml" in str(error.value) and not (tmp_path / "run").exists()


def test_what_is_meant_is_read(read):
    assert read("") is None and read("a") == "a"
    assert read("\ufeffa: [1, 0, 0.5, 1_000, yes, '007', 2024-01-01x]") == {
        "a": [1, 0, 0.5, 1000, True, "007", "2024-01-01x"]
    }
    assert read("a: &size {min: 1}\nb: *size\nc: {<<: *size, max: 2}") == {
        "a": {"min": 1},
        "b": {"min": 1},
        "c": {"min": 1, "max": 2},
    }
    assert read("a: 锐度  # 注释".encode("gb18030")) == {"a": "锐度"}


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"gone.yaml cannot be read \(No such file"):
        recipe_file.read(tmp_path / "gone.yaml")
