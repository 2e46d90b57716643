"""A repository at ModelScope or Hugging Face as a place for copies."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from storyboard import locks
from storyboard.compat import quiet
from storyboard.errors import KeepingError, UnreachableError
from storyboard.keeping import copies
from storyboard.keeping.copies import Sizes
from storyboard.models import hubs, uploading
from storyboard.models.hubs import HubModel
from storyboard.places import HUBS, RepositoryId

MESSAGE = "Kept by Storyboard"  # of commits
MADE_BY_HUBS = {".gitattributes", copies.README, "configuration.json"}
ABSENT = (401, 404)  # both hubs hide a private repository from who is not its owner
LOGIN = {
    "modelscope": "run `modelscope login`, or set MODELSCOPE_API_TOKEN",
    "huggingface": "run `hf auth login`, or set HF_TOKEN",
}


class Repository:
    """Copies in a repository, with the token that the hub's client is logged in with.

    Args:
        private: Refuse one that is not.
    """

    def __init__(self, where: RepositoryId, private: bool = True) -> None:
        self.where, self.private = where, private

    def __str__(self) -> str:
        return str(self.where)

    def check(self, output: Path) -> None:
        """Any repository will do."""

    def check_seen(self, exists: bool) -> None:
        """Raise KeepingError where there is no repository, or none that the client may see."""
        if not exists:
            raise KeepingError(
                f"{HUBS[self.where.hub]} shows no repository {self.where.repo_id}: log its client "
                f"in ({LOGIN[self.where.hub]}), or leave restore() out until something is kept."
            )

    def check_private(self) -> None:
        """Raise KeepingError where others can read it."""
        if self.private and uploading.is_public(self.where.hub, self.where.repo_id):
            raise KeepingError(
                f"{self.where} is not private, and a copy holds your captions, settings and "
                "pictures: make it private there, name another repository, or give keep() "
                "private=False."
            )

    def note(self, output: Path) -> str:
        """Nothing ought to be known of the place."""
        return ""

    def sizes(self) -> Sizes | None:
        """Bytes of its files by name; None where no repository is seen, or for an unlisted size."""
        failure = ""
        with quiet.quiet_hubs():
            try:
                # 0 stands for what the hub does not say
                return {name: size or None for name, size in self._hub().files().items()}
            except Exception as error:  # clients raise whatever an answer leads to
                if hubs.status_of(error) in ABSENT:
                    return None
                failure = hubs.reason(error)
        raise UnreachableError(
            f"{self.where} cannot be read ({failure}): check the network, and run this cell again."
        )

    def others(self, sizes: Sizes) -> list[str]:
        """Its files but those that hubs make with it."""
        return sorted(set(sizes) - MADE_BY_HUBS)

    def fetch(self, names: Iterable[str]) -> Path:
        """A folder in which the files ``names`` can be read, downloaded where they are not yet."""
        failure = ""
        with quiet.quiet_hubs():
            try:
                return self._hub().download(list(names), False)
            except Exception as error:
                failure = hubs.reason(error)
        raise UnreachableError(
            f"{self.where} cannot be read ({failure}): check the network, and run this cell again."
        )

    def write(self, files: Mapping[str, Path]) -> None:
        """Upload files, under new names; the repository is made if need be.

        Raises:
            KeepingError: The hub does not take them.
        """
        hub, repo_id = self.where.hub, self.where.repo_id
        with tempfile.TemporaryDirectory(dir=locks.temporary_files()) as folder:
            for name, path in files.items():
                _link(path, Path(folder) / name)
            with quiet.quiet_hubs():
                failure = uploading.send(hub, repo_id, Path(folder), MESSAGE, self.private)
        if failure:
            raise KeepingError(
                f"{HUBS[hub]} did not take {repo_id} ({failure}): check the network, and that its "
                f"client is logged in ({LOGIN[hub]}); the copy before is untouched."
            )

    def remove(self, names: Iterable[str]) -> None:
        """Delete files from the newest revision; what cannot be deleted stays."""
        if names := list(names):
            with quiet.quiet_hubs():
                uploading.remove(self.where.hub, self.where.repo_id, names, MESSAGE)

    def _hub(self) -> hubs.Hub:
        return hubs.publishing(HubModel(**{self.where.hub: self.where.repo_id}))[0]


def _link(source: Path, target: Path) -> None:
    """Put a file into the folder that is uploaded, without its bytes where the disk can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)
