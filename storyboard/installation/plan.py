"""What an installation would do to the host, in a few lines."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from storyboard.errors import InstallError
from storyboard.installation import host
from storyboard.installation.pip import Found

NAMED = 8  # packages in a line
# hosts whose disks are thrown away after a session say so by a variable
DISPOSABLE = {"COLAB_RELEASE_TAG": "Colab", "KAGGLE_KERNEL_RUN_TYPE": "Kaggle"}


@dataclass(frozen=True)
class Plan:
    """What pip would do.

    Attributes:
        added: Name -> version of packages that the host does not have.
        changed: Name -> (version on the host, version that replaces it).
        from_source: Names of those that are built here, as they have no wheel.
        broken: What other packages of the host would lack then, as ``host.broken`` says it.
    """

    added: dict[str, str]
    changed: dict[str, tuple[str, str]]
    from_source: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @staticmethod
    def of(found: Mapping[str, Found], versions: Mapping[str, str]) -> "Plan":
        """The plan of ``found``, what pip would install, on a host with ``versions``."""
        added, changed = {}, {}
        for name, one in sorted(found.items(), key=lambda item: item[0].lower()):
            before = versions.get(host.canonical(name))
            if before is None:
                added[name] = one.version
            else:
                changed[name] = (before, one.version)
        after = {host.canonical(name): new for name, (_, new) in changed.items()}
        return Plan(
            added,
            changed,
            tuple(name for name, one in found.items() if one.from_source),
            tuple(host.broken(after)),
        )

    @property
    def versions(self) -> list[tuple[str, str]]:
        """Name and version of each package that is installed by it."""
        return [*self.added.items(), *((name, new) for name, (_, new) in self.changed.items())]

    def lines(self, compiler: bool) -> list[str]:
        """What will be done, for the reader.

        Args:
            compiler: Whether a C compiler is here.
        """
        told = []
        if self.added:
            added = _listed(f"{name} {version}" for name, version in self.added.items())
            told.append(f"adds {_packages(len(self.added))}: {added}")
        if self.changed:
            changed = (f"{name} {old} -> {new}" for name, (old, new) in self.changed.items())
            told.append(f"changes on this host: {', '.join(changed)}")
            undo = (f'"{name}=={old}"' for name, (old, _) in self.changed.items())
            told.append(f"to undo the changes: pip install {' '.join(undo)}")
        if self.from_source and not compiler:
            sources = ", ".join(self.from_source)
            told.append(f"no C compiler is here; {sources} have no wheel and are built without one")
        return told

    def check(self, allow_conflicts: bool | None, environment: Mapping[str, str]) -> list[str]:
        """Raise InstallError if other packages of the host would break; lines if they may.

        Args:
            allow_conflicts: None allows them where the disk is thrown away after the session.
            environment: Variables, as ``os.environ``.
        """
        if not self.broken:
            return []
        thrown_away = [host for sign, host in DISPOSABLE.items() if sign in environment]
        broken = _listed((_with(text, self.changed) for text in self.broken), "; ")
        if allow_conflicts or (allow_conflicts is None and thrown_away):
            why = "as you allow it" if allow_conflicts else f"as {thrown_away[0]} forgets it all"
            return [f"goes on, {why}, though {broken}"]
        raise InstallError(
            f"Nothing was installed, as it would break other packages of this host: {broken}: "
            "make an environment of its own (python3 -m venv .venv; .venv/bin/pip install "
            "-r requirements.txt) and choose it as this notebook's kernel, or write "
            "install(allow_conflicts=True)."
        )


def _with(text: str, changed: Mapping[str, tuple[str, str]]) -> str:
    """``text``, as "gradio 5.1 needs numpy<2", with the version that numpy gets."""
    after = {host.canonical(name): new for name, (_, new) in changed.items()}
    needed = host.requirement(text.partition(" needs ")[2])
    return f"{text} and gets {after[host.canonical(needed.name)]}"


def _listed(parts: Iterable[str], separator: str = ", ") -> str:
    """The first of ``parts``, and how many more there are."""
    parts = list(parts)
    more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return separator.join(parts[:NAMED]) + more


def _packages(count: int) -> str:
    return "1 package" if count == 1 else f"{count} packages"
