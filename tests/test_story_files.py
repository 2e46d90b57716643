"""Files of many stories: JSON lines and tables, and what is refused in one sentence."""

import pytest

from storyboard import Panel, Settings, Story, render_many
from storyboard.errors import SettingsError
from storyboard.rendering import story_files

LINE = '{"name": "a", "panels": [{"prompt": "雨天", "seed": 7}, "海边"], "negative_prompt": "模糊"}'


def written(tmp_path, text, name="stories.jsonl", encoding="utf-8"):
    path = tmp_path / name
    path.write_text(text, encoding=encoding)
    return path


def said(story):
    return [(each.prompt, each.negative_prompt, each.seed) for each in story.resolved(42)]


def test_json_lines_of_stories_and_of_single_panels(tmp_path):
    one = '{"name": "b c", "prompt": "夜空", "negative_prompt": "blurry", "seed": 3}'
    found = story_files.named(written(tmp_path, f"{LINE}\n\n{one}\n"))
    assert list(found) == ["a", "b c"]
    assert said(found["a"]) == [("雨天", "模糊", 7), ("海边", "模糊", 43)]
    assert said(found["b c"]) == [("夜空", "blurry", 3)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "utf-16"])
def test_rows_of_one_name_in_a_table_are_a_story(tmp_path, delimiter, encoding):
    rows = [
        "name,prompt,negative_prompt,seed",
        '甲,"雨天，撑着雨伞\n第二行",模糊,7',
        "甲,海边，红色短发男孩,,",
        ",,,",
        "乙,夜空里的绿色长发女孩,,12.0,",
    ]
    text = "\n".join(rows).replace(",", delimiter)
    found = story_files.named(written(tmp_path, text, "stories.CSV", encoding))
    assert said(found["甲"]) == [
        ("雨天，撑着雨伞\n第二行", "模糊", 7),
        ("海边，红色短发男孩", "", 43),
    ]
    assert said(found["乙"]) == [("夜空里的绿色长发女孩", "", 12)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON (Expecting property name enclosed in double quotes): write one"),
        ("[" * 10**5, "line 2 is no JSON (it is nested without end)"),
        ("[]", "line 2: [] is no JSON object with a name and panels"),
        ('{"prompt": "x"}', "line 2: name None must be one that a folder can have"),
        ('{"name": "b"}', "line 2: Panel(prompt='') has nothing to draw"),
        ('{"name": "b", "prompt": "x", "Seed": 1}', "A story of one panel has no 'Seed': it may "),
        ('{"name": "b", "panels": {}}', '"panels": {} must be a list of panels'),
        ('{"name": "b", "panels": []}', "line 2: The story has no panels"),
        ('{"name": "b", "panels": [{"prompt": "x", "cfg": 2}]}', "A panel has no 'cfg'"),
        ('{"name": "b", "panels": [4]}', "Panel 1 of the story is int"),
        ('{"name": "b", "prompt": "x", "seed": "1"}', "line 2: Panel(seed='1') must be a whole"),
        ('{"name": "b", "panels": ["x"], "negative_prompt": 1}', "Story(negative_prompt=1) must"),
        ('{"name": "b", "prompt": "(x"}', "line 2: "),
        ('{"name": "A", "prompt": "x"}', "line 2: the name 'A' is that of"),
        ('{"name": "../b", "prompt": "x"}', "line 2: name '../b' must be one that a folder can"),
    ],
)
def test_bad_lines_are_refused_before_anything_is_drawn(tmp_path, line, message):
    path = written(tmp_path, f"{LINE}\n{line}\n")
    with pytest.raises(SettingsError) as error:
        render_many(path, Settings(output=tmp_path / "out"), None)
    assert message in str(error.value) and f"{path}, line 2" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,text\na,x", "line 1, the header of the table, is name, text: its columns must be"),
        ("name,prompt,prompt\na,x,y", "line 1, the header of the table"),
        ("name,prompt\na,x,y\n", "line 2 has 3 cells where the header has 2: put a prompt with"),
        ('name,prompt\na,"x', "line 2 cannot be read as a row ("),
        ("name,prompt\na,\n", "line 2: Panel(prompt='') has nothing to draw"),
        ("name,prompt,seed\na,x,one", "line 2: Panel(seed='one') must be a whole number"),
        ('name,prompt\na,"x\ny"\nb,x\na,x', "line 5: the name 'a' is that of "),
        ("name,prompt\n", "has no story: give it one"),
        ("", "has no story: give it one"),
        ("name,prompt\n,x", "line 2: name '' must be one that a folder can have on every system"),
        ("name,prompt\n" + "a,x\n" * 65, "line 2: The story has over 64 panels"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    path = written(tmp_path, text, "stories.csv")
    with pytest.raises(SettingsError) as error:
        story_files.named(path)
    assert message in str(error.value) and str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("stories", "message"),
    [
        ("none.jsonl", "none.jsonl cannot be read (No such file or directory): give the path"),
        ("stories.xlsx", "it must end in .jsonl or .csv"),
        ([Story(["x"])], "must be stories by name"),
        ({}, "stories has no story"),
        ({"a": ["x"]}, r"stories['a'] is ['x']: write Story([...])"),
        ({"a": Story(["x"]), "A": Story(["x"])}, "the name 'A' is that of stories['a']"),
        ({3: Story(["x"])}, "The story's name 3 must be one"),
    ],
)
def test_what_are_no_stories_is_refused(stories, message):
    with pytest.raises(SettingsError) as error:
        story_files.named(stories)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a/b", "a\\b", "a ", " a", "a.", "nul", "a\0", "a\n", "x" * 101]
)
def test_a_name_that_no_folder_can_have_everywhere_is_refused(name):
    with pytest.raises(SettingsError, match="must be one that a folder can have on every system"):
        story_files.named({name: Story(["x"])})


def test_stories_are_taken_as_they_are():
    story = Story([Panel("x", seed=1)], common="y")
    assert story_files.named({"甲 1": story}) == {"甲 1": story}
