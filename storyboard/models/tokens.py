"""The hubs' tokens, kept out of everything that is shown or given away."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress

VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")  # of the hubs' clients
SHORTEST = 8  # characters
# as clients quote a header that they refuse, whatever token they sent in it
HEADER = re.compile(r"(Bearer +)[^\s'\"]+")


def in_environment() -> list[str]:
    """Tokens that environment variables hold."""
    return _long_enough(os.environ.get(name) for name in VARIABLES)


def masked(text: str, token: str | None = None) -> str:
    """``text`` without ``token``, and without those that the clients are logged in with."""
    for secret in [*_long_enough([token]), *in_environment(), *_stored()]:
        text = text.replace(secret, "***")
    return HEADER.sub(r"\1***", text)


def _stored() -> list[str]:
    """Tokens that the clients keep in files, or a host for them."""
    found = []
    # a client that cannot say which it has must not hide the failure that is being told
    with suppress(Exception):
        from huggingface_hub import get_token

        found.append(get_token())
    with suppress(Exception):
        from modelscope_hub.config import HubConfig

        found.append(HubConfig().load_token())
    return _long_enough(found)


def _long_enough(values: Iterable[str | None]) -> list[str]:
    stripped = [value.strip() for value in values if value]
    return [value for value in stripped if len(value) >= SHORTEST]
