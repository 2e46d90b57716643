"""Every error is one sentence that says something, and docs/messages.md lists it."""

import re

from tools import messages

FILLED_IN = re.compile(r"\{[^}]*\}")
WORDS = 12  # letters that a message has beside what is filled in


def test_the_list_is_what_the_code_says():
    """``make messages`` writes it."""
    assert messages.TARGET.read_text(encoding="utf-8") == messages.document()


def test_every_error_says_something_and_ends():
    for each in messages.messages():
        own = FILLED_IN.sub("", each.text)
        passed_on = each.text.endswith("}")  # another message comes last
        assert passed_on or len(re.sub(r"\W", "", own)) >= WORDS, each
        assert passed_on or each.text.endswith((".", "。")), each


def test_every_kind_of_error_is_there_with_its_meaning():
    document = messages.document()
    assert {each.kind for each in messages.messages()} <= set(messages.kinds())
    for meaning in messages.kinds().values():
        assert meaning in document and meaning.endswith(".")
