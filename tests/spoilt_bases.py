"""Opening a base whose files were spoilt."""

import json

import pytest

from storyboard.errors import BaseError
from storyboard.models import bases, loading, weights
from storyboard.models.tokenizing import tokenizer


def opened(folder):
    """The base in ``folder``, as far as it is opened before a text encoder is loaded."""
    base = weights.fetch(bases.get(str(folder)))
    loading.check_layouts(base)
    tokenizer(base, "text_encoder")
    return base


def refused(folder, *expected):
    """The message by which the base in ``folder`` is refused; it holds all of ``expected``."""
    with pytest.raises(BaseError) as error:
        opened(folder)
    message = str(error.value)
    assert "\n" not in message and len(message) < 900
    for part in expected:
        assert part in message, message
    return message


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
