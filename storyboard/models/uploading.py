"""Files into a repository at a hub, by the hub's own client; a token is written nowhere."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from storyboard.errors import StoryboardError, UnreachableError
from storyboard.models import tokens
from storyboard.places import HUBS


def send(
    hub: str, repo_id: str, folder: Path, message: str, private: bool, token: str | None = None
) -> str | None:
    """Upload ``folder`` to a repository, which is made if it is not there.

    Args:
        hub: A key of ``places.HUBS``.
        private: A new repository is seen by its owner alone.
        token: None takes the one its client is logged in with.

    Returns:
        None, or what went wrong without the token: whoever raises it does so outside of the
        library's exception, which may know the token.
    """
    upload = {"modelscope": _modelscope, "huggingface": _huggingface}[hub]
    return _failure(lambda: upload(token, repo_id, folder, private, message), token)


def remove(hub: str, repo_id: str, names: Sequence[str], message: str) -> str | None:
    """Delete files of a repository; returns None, or what went wrong without the token."""
    delete = {"modelscope": _delete_at_modelscope, "huggingface": _delete_at_huggingface}[hub]
    return _failure(lambda: delete(repo_id, names, message))


def is_public(hub: str, repo_id: str) -> bool:
    """Whether the repository is there and not known to be seen by its owner alone.

    Raises:
        UnreachableError: The hub does not say.
    """
    ask = {"modelscope": _public_at_modelscope, "huggingface": _public_at_huggingface}[hub]
    answers: list[bool] = []
    failure = _failure(lambda: answers.append(ask(repo_id)))
    if failure:
        raise UnreachableError(
            f"{HUBS[hub]} did not say whether {repo_id} is private ({failure}): check the network, "
            "and that its client is logged in."
        )
    return answers[0]


def _failure(call: Callable[[], object], token: str | None = None) -> str | None:
    try:
        call()
    except StoryboardError:
        raise
    except Exception as error:
        # of whatever kind a client's libraries raise: its text and its frames may hold the token
        text = tokens.masked(str(error), token)
        return f"{type(error).__name__} {' '.join(text.split())[:200]}"
    return None


def _api_of_huggingface(token: str | None = None):
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)


def _api_of_modelscope(token: str | None = None):
    from modelscope_hub import HubApi

    return HubApi(endpoint=os.environ.get("MODELSCOPE_ENDPOINT"), token=token)


def _huggingface(
    token: str | None, repo_id: str, folder: Path, private: bool, message: str
) -> None:
    api = _api_of_huggingface(token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)


def _modelscope(token: str | None, repo_id: str, folder: Path, private: bool, message: str) -> None:
    api = _api_of_modelscope(token)
    if not api.repo_exists(repo_id, "model"):
        api.create_repo(repo_id, "model", visibility="private" if private else "public")
    api.upload_folder(repo_id, "model", folder, commit_message=message, use_cache=False)


def _delete_at_huggingface(repo_id: str, names: Sequence[str], message: str) -> None:
    from huggingface_hub import CommitOperationDelete

    operations = [CommitOperationDelete(path_in_repo=name) for name in names]
    _api_of_huggingface().create_commit(repo_id, operations, commit_message=message)


def _delete_at_modelscope(repo_id: str, names: Sequence[str], message: str) -> None:
    _api_of_modelscope().delete_files(repo_id, "model", list(names), commit_message=message)


def _public_at_huggingface(repo_id: str) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return not _api_of_huggingface().repo_info(repo_id).private
    except RepositoryNotFoundError:
        return False


def _public_at_modelscope(repo_id: str) -> bool:
    from modelscope_hub.errors import NotExistError

    try:
        visibility = _api_of_modelscope().get_repo(repo_id, "model").visibility
    except NotExistError:
        return False
    return getattr(visibility, "label", visibility) != "private"  # also "internal", and None
