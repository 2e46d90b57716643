"""Folders and repositories, told from each other."""

from pathlib import Path

import pytest

from storyboard import places
from storyboard.places import RepositoryId


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("AI-ModelScope/lowres_anime", True),
        ("/tmp/x", False),
        ("a/b/c", False),
        ("one", False),
        ("../x", False),
        ("x/..", False),
        ("x" * 97 + "/a", False),
    ],
)
def test_ids_are_told_from_paths(text, is_id):
    assert places.looks_like_id(text) is is_id


def test_repositories_are_told_from_folders():
    assert places.parse("huggingface:me/my-story") == RepositoryId("huggingface", "me/my-story")
    assert str(places.parse("modelscope:me/my-story")) == "modelscope:me/my-story"
    for folder in ("/content/drive/MyDrive/story", "story", "D:\\story", "me/my-story"):
        assert places.parse(folder) == Path(folder)


@pytest.mark.parametrize("text", ["huggingface:story", "github:me/story", "modelscope:", "hf:a/b"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(ValueError, match="neither a folder nor a repository"):
        places.parse(text)
