"""Where the results of a run are kept: a folder, or a repository at a model hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from storyboard.errors import SettingsError, brief

HUBS = {"modelscope": "ModelScope", "huggingface": "Hugging Face"}
_PREFIX = re.compile(r"[A-Za-z]{2,}:")  # one letter is a drive of Windows


@dataclass(frozen=True)
class RepositoryId:
    """A repository at a hub.

    Attributes:
        hub: A key of ``HUBS``.
        repo_id: ``owner/name``.
    """

    hub: str
    repo_id: str

    def __str__(self) -> str:
        return f"{self.hub}:{self.repo_id}"


def looks_like_id(text: str) -> bool:
    """Whether ``text`` has the form ``owner/name``."""
    return re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", text) is not None


def names_hub(where: str) -> bool:
    """Whether ``where`` begins as a repository does."""
    return where.partition(":")[0] in HUBS


def parse(where: str) -> Path | RepositoryId:
    """A folder, or ``"modelscope:owner/name"`` or ``"huggingface:owner/name"``.

    Raises:
        ValueError: It begins with a word and a colon as a hub's, and is none.
    """
    if not _PREFIX.match(where):
        return Path(where)
    hub, _, repo_id = where.partition(":")
    if hub not in HUBS or not looks_like_id(repo_id):
        raise ValueError("it is neither a folder nor a repository")
    return RepositoryId(hub, repo_id)


def check(name: str, where: str | None) -> None:
    """Raise SettingsError unless the setting ``name`` is a place or None."""
    try:
        if where is not None:
            parse(where)
    except ValueError as error:
        raise SettingsError(
            f'{name}={brief(where)} must be a folder, "modelscope:owner/name", '
            '"huggingface:owner/name" or None.'
        ) from error
