"""Tokenizers of bases that are damaged, or of another text encoder."""

import pytest

from storyboard.errors import BaseError
from storyboard.models import bases
from storyboard.models.tokenizing import tokenizer
from tests import tiny
from tests.spoilt_bases import edit, opened, refused


@pytest.fixture
def copy(hub, tmp_path):
    """Folder of a tiny SD 1.5 whose files may be spoilt."""
    return tiny.copied(hub("sd15"), tmp_path / "copy").folder


def test_what_a_tokenizer_does_not_say_of_its_length_is_taken_from_the_base(copy):
    edit(copy / "tokenizer/tokenizer_config.json", lambda content: content.pop("model_max_length"))
    assert tokenizer(opened(copy), "text_encoder").model_max_length == 77


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 0, "b": 0}', "gives two tokens one number"),
        ('{"a": -1}', "does not give each token a number"),
        ('{"a": 1.5}', "does not give each token a number"),
        ("{}", "does not give each token a number"),
    ],
)
def test_a_vocabulary_gives_each_token_a_number(copy, content, message):
    (copy / "tokenizer" / "vocab.json").write_text(content, encoding="utf-8")
    refused(copy, message, "vocab.json")


def test_merges_belong_to_the_vocabulary(copy):
    path = copy / "tokenizer" / "merges.txt"
    path.write_text("#version: 0.2\na b\n", encoding="utf-8")
    refused(copy, "'a b' as merge 1, which vocab.json does not know", str(path))
    path.write_bytes(b"\xff\xfe")
    refused(copy, str(path))
    path.unlink()
    refused(copy, "merges.txt is missing")


def test_a_vocabulary_whose_merges_are_cut_off_is_refused(copy):
    """Every word would be spelt, and no error said."""

    def more(content):
        content.update({f"word{number}": 1000 + number for number in range(600)})

    edit(copy / "tokenizer" / "vocab.json", more)
    refused(copy, "has 0 merges where the 1,114 tokens of vocab.json need more")


def test_a_vocabulary_larger_than_the_text_encoder_is_refused(copy):
    edit(copy / "tokenizer" / "vocab.json", lambda content: content.update(extra=5000))
    refused(copy, "the vocab_size of text_encoder is 514")


@pytest.mark.parametrize("change", [b"", b"<html>", None])
def test_a_damaged_sentencepiece_model_is_said_before_the_text_encoder_is_loaded(
    hub, tmp_path, change
):
    folder = tiny.copied(hub("kolors"), tmp_path / "copy").folder
    path = folder / "tokenizer" / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-1000] if change is None else change)
    with pytest.raises(BaseError, match=r"tokenizer\.model is (no SentencePiece|0 bytes)") as error:
        bases.get(str(folder)).check()
    assert "\n" not in str(error.value)
