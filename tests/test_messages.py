"""Every error is one sentence that says something, and docs/messages.md lists it."""

import re

import pytest

from tools import messages

FILLED_IN = re.compile(r"\{[^}]*\}")
WORDS = 3  # letters that a message has beside what is filled in


def test_the_list_is_what_the_code_says():
    """``make messages`` writes it."""
    assert messages.TARGET.read_text(encoding="utf-8") == messages.document()


def test_every_error_says_something_and_ends():
    for each in messages.messages():
        own = FILLED_IN.sub("", each.text)
        # what is wrong comes from elsewhere
        passed_on = each.text.endswith("}") or "{reason}" in each.text
        assert passed_on or len(re.sub(r"\W", "", own)) >= WORDS, each
        assert passed_on or each.text.endswith((".", "。")), each


@pytest.mark.slow
def test_every_kind_of_error_is_there_with_its_meaning():
    document, kinds = messages.document(), messages.kinds()
    for kind in {each.kind for each in messages.messages()}:
        assert f"## {kind}\n\n{kinds[kind]}\n" in document and kinds[kind].endswith(".")
