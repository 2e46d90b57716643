"""A story bundle to a model hub, by the hub's own client; a dry run, which sends nothing, unless it is asked otherwise."""

import os
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from .. import hub as datasets
from ..errors import BundleError, SettingsError
from .bundle import Bundle
from .reproduce import LIMITS, PICTURE_LIMIT, entries

HUBS = {"modelscope": "https://modelscope.cn/models", "huggingface": "https://huggingface.co"}


@dataclass(frozen=True)
class Publication:
    """What was sent, or would be.

    Attributes:
        url: Where it is on the hub.
        files: Name -> bytes.
        sent: False after a dry run.
    """

    url: str
    files: dict[str, int] = field(repr=False)
    sent: bool

    def __str__(self) -> str:
        size = f"{len(self.files)} files, {sum(self.files.values()) / 1e6:.1f} MB"
        return f"publish: {size} are at {self.url}" if self.sent else f"publish: dry run, nothing sent; {size} would go to {self.url}: {', '.join(self.files)}"


def publish(bundle: Bundle | Path | str, repo_id: str, hub: str = "modelscope", token: str | None = None, dry_run: bool = True, private: bool = False) -> Publication:
    """Send a bundle's files, and the zip itself, to ``repo_id`` on ``hub``, which is made if it is not there.

    Args:
        repo_id: ``owner/name``.
        hub: ``"modelscope"`` or ``"huggingface"``.
        token: Of the hub, with the right to write; None takes the one its client is logged in with. It is kept nowhere.
        dry_run: Only say what would be sent.
        private: A new repository is seen by its owner alone.

    Raises:
        SettingsError: Another hub, or an id of another form.
        BundleError: It is no bundle, or the hub refuses.
    """
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    if hub not in HUBS:
        raise SettingsError(f"hub={hub!r} must be one of {', '.join(map(repr, HUBS))}.")
    if not isinstance(repo_id, str) or not datasets.looks_like_id(repo_id):
        raise SettingsError("repo_id must have the form owner/name, such as \"me/my-story\".")  # unquoted: a token may have got into it
    with tempfile.TemporaryDirectory() as folder:
        files = _unpack(path, Path(folder))
        publication = Publication(f"{HUBS[hub]}/{repo_id}", files, not dry_run)
        failure = None if dry_run else _send(hub, repo_id, Path(folder), token, private)
    if failure:  # raised here, so that no library's exception, which may know the token, hangs on ours
        raise BundleError(f"{hub} did not take {repo_id} ({failure}): check the token's right to write and the network, and run this cell again.")
    print(publication)
    return publication


def _unpack(path: Path, folder: Path) -> dict[str, int]:
    """The bundle's files and the bundle in ``folder``; returns their sizes."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = entries(path, archive)
            if missing := {"README.md", "lora.safetensors", "story.json"} - found.keys():
                raise BundleError(f"{path} lacks {min(missing)}: make the bundle again.")
            if wrong := [name for name, entry in found.items() if "/" in name or name.startswith(".") or entry.file_size > LIMITS.get(name, PICTURE_LIMIT)]:
                raise BundleError(f"{path} holds {wrong[0]!r}, which no bundle has: it was not made by bundle().")
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise BundleError(f"{path} is no whole story bundle ({type(error).__name__}): make it again.") from error
    (folder / "story.zip").write_bytes(path.read_bytes())
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


def _send(hub: str, repo_id: str, folder: Path, token: str | None, private: bool) -> str | None:
    """Upload ``folder``; returns None, or what went wrong without the token."""
    send, failures = _modelscope(token) if hub == "modelscope" else _huggingface(token)
    try:
        send(repo_id, folder, private)
    except failures as error:
        text = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        return text.replace(token, "***") if token else text
    return None


def _huggingface(token: str | None):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)

    def send(repo_id: str, folder: Path, private: bool) -> None:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Story bundle")

    return send, (HfHubHTTPError, OSError, ValueError, RuntimeError)


def _modelscope(token: str | None):
    from modelscope_hub import HubApi
    from modelscope_hub.errors import HubError

    api = HubApi(endpoint=os.environ.get("MODELSCOPE_ENDPOINT"), token=token)

    def send(repo_id: str, folder: Path, private: bool) -> None:
        if not api.repo_exists(repo_id, "model"):
            api.create_repo(repo_id, "model", visibility="private" if private else "public")
        api.upload_folder(repo_id, "model", folder, commit_message="Story bundle", use_cache=False)

    return send, (HubError, OSError, ValueError, RuntimeError)
