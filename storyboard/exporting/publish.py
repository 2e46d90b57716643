"""A story bundle to a model hub, by the hub's own client; a dry run unless set otherwise."""

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from storyboard import places
from storyboard.errors import BundleError, SettingsError
from storyboard.exporting.archive import LIMITS, PICTURE_LIMIT, check_size, expanded, opening
from storyboard.exporting.bundle import Bundle, check_private
from storyboard.models import uploading

HUBS = {"modelscope": "https://modelscope.cn/models", "huggingface": "https://huggingface.co"}
MESSAGE = "Story bundle"  # of the commit


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
        if self.sent:
            return f"publish: {size} are at {self.url}"
        lines = [f"publish: dry run, nothing sent; {size} would go to {self.url}"]
        for name, each in self.files.items():
            lines.append(f"  {name:20} {each / 1000:10,.1f} KB")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from storyboard import show

        return show.table(
            str(self).splitlines()[0],
            ["file", "KB"],
            [[name, f"{size / 1000:,.1f}"] for name, size in self.files.items()],
        )


def publish(
    bundle: Bundle | Path | str,
    repo_id: str,
    hub: str = "modelscope",
    token: str | None = None,
    dry_run: bool = True,
    private: bool = False,
) -> Publication:
    """Send a bundle's files, and the zip itself, to a repository, made if it is not there.

    Args:
        repo_id: ``owner/name``.
        hub: ``"modelscope"`` or ``"huggingface"``.
        token: Of the hub, with the right to write; None takes the one its client is logged in with.
            It is kept nowhere.
        dry_run: Only say what would be sent.
        private: A new repository is seen by its owner alone.

    Raises:
        SettingsError: Another hub, or an id or a token of another form.
        BundleError: It is no bundle, holds a path of this machine or a token, or the hub refuses.
    """
    path = bundle.path if isinstance(bundle, Bundle) else expanded(bundle)
    if hub not in HUBS:
        raise SettingsError(f"hub={hub!r} must be one of {', '.join(map(repr, HUBS))}.")
    if not isinstance(repo_id, str) or not places.looks_like_id(repo_id):
        # without what was given: a token may have got into it
        raise SettingsError('repo_id must have the form owner/name, such as "me/my-story".')
    # a pasted one often ends in a newline, and clients quote headers that they refuse
    token = token and token.strip()
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise SettingsError(
            "token must be one word of ASCII letters, digits and signs, as the hub shows it; "
            "leave it out to take the one its client is logged in with."
        )

    with tempfile.TemporaryDirectory() as folder:
        files = _unpack(path, Path(folder))
        publication = Publication(f"{HUBS[hub]}/{repo_id}", files, not dry_run)
        failure = None
        if not dry_run:
            failure = uploading.send(hub, repo_id, Path(folder), MESSAGE, private, token)
    if failure:
        # raised here, so that no library's exception, which may know the token, is our context
        raise BundleError(
            f"{hub} did not take {repo_id} ({failure}): check the token's right to write and the "
            "network, and run this cell again."
        )
    print(publication)
    return publication


def _unpack(path: Path, folder: Path) -> dict[str, int]:
    """The bundle's files and the bundle in ``folder``; returns their sizes."""
    with opening(path) as (archive, files):
        if missing := {"README.md", "lora.safetensors", "story.json"} - files.keys():
            raise BundleError(f"{path} lacks {min(missing)}: make the bundle again.")
        for name, entry in files.items():
            if "/" in name or name.startswith("."):
                raise BundleError(
                    f"{path} holds {name!r:.100}, which no bundle has: it was not made by bundle()."
                )
            check_size(path, entry, LIMITS.get(name, PICTURE_LIMIT))
        archive.extractall(folder)
    check_private({file.name: file.read_bytes() for file in folder.iterdir()})
    (folder / "story.zip").write_bytes(path.read_bytes())
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
