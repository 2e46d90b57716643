"""What is installed on this host, and which requirements of it hold."""

import importlib
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

from storyboard.compat import packaging


@cache
def requirement(text: str) -> Any:
    """``packaging``'s Requirement of a line such as ``torch>=2.6,<2.16``; ValueError for none."""
    return packaging.part("requirements").Requirement(text)


def canonical(name: str) -> str:
    """The name of a package as indexes write it: ``py_data_juicer`` is ``py-data-juicer``."""
    return packaging.part("utils").canonicalize_name(name)


def needed(path: Path) -> list[str]:
    """What running needs of ``requirements.txt``: its first paragraph.

    What is for the browser and for tests follows in others.
    """
    paragraph = path.read_text(encoding="utf-8").split("\n\n")[0]
    return [line for line in paragraph.splitlines() if line and not line.startswith("#")]


def installed() -> dict[str, str]:
    """Every package that Python finds -> version."""
    versions: dict[str, str] = {}
    for each in metadata.distributions():
        name = each.metadata["Name"]
        if name:  # a folder that a broken installation left has none
            versions.setdefault(canonical(name), each.version)
    return versions


def holds(text: str, versions: Mapping[str, str]) -> bool:
    """Whether ``versions`` satisfy a requirement, pre-releases of hosts included."""
    asked = requirement(text)
    version = versions.get(canonical(asked.name))
    if version is None:
        return False
    try:
        return asked.specifier.contains(version, prereleases=True)
    except ValueError:  # a version of no known form
        return False


def fits(line: str, other: str, versions: Mapping[str, str]) -> bool:
    """Whether a requirement holds, and what its package requires of the package ``other``."""
    asked = [each for each in _requires(requirement(line).name) if _applies(each, "")]
    of_other = [each for each in asked if canonical(requirement(each).name) == other]
    return all(holds(each, versions) for each in (line, *of_other))


def unmet(lines: Iterable[str], versions: Mapping[str, str]) -> list[str]:
    """Requirements that do not hold: of ``lines``, and of what they require in turn."""
    found, seen = [], set()
    asked = [(line, "") for line in lines]
    while asked:
        line, extra = asked.pop()
        if (line, extra) in seen or not _applies(line, extra):
            continue
        seen.add((line, extra))
        if not holds(line, versions):
            found.append(line)
            continue
        one = requirement(line)
        for wanted in ("", *one.extras):
            asked += [(each, wanted) for each in _requires(canonical(one.name))]
    return found


def broken(after: Mapping[str, str]) -> list[str]:
    """What other packages require that holds now, and would not with the versions ``after``.

    Args:
        after: New versions of packages that are installed.

    Returns:
        As "gradio 5.1 needs huggingface-hub<1"; those of packages that are replaced are left out.
    """
    before = installed()
    versions = before | dict(after)
    lost = []
    for name in sorted(before.keys() - after.keys()):
        for line in _requires(name):
            one = requirement(line)
            touched = canonical(one.name) in after and _applies(line, "")
            if touched and holds(line, before) and not holds(line, versions):
                lost.append(f"{name} {before[name]} needs {one.name}{one.specifier}")
    return lost


@cache
def _requires(name: str) -> tuple[str, ...]:
    """What a package requires; lines of older packages that are not valid any more are left out."""
    try:
        lines = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return ()
    return tuple(filter(_is_valid, lines))


def _is_valid(line: str) -> bool:
    try:
        requirement(line)
    except ValueError:
        return False
    return True


def _applies(line: str, extra: str) -> bool:
    marker = requirement(line).marker
    return marker is None or marker.evaluate({"extra": extra})


def modules(name: str) -> set[str]:
    """Modules that a package brings, as far as this process has imported them.

    Those of its own files: ``google`` is of many packages, ``google.protobuf`` of one. Private
    ones are left out: setuptools' ``_distutils_hack`` is imported by every Python.
    """
    try:
        files = metadata.distribution(name).files or []
    except metadata.PackageNotFoundError:
        return set()
    own = (_module(file) for file in files if file.suffix in (".py", ".so", ".pyd"))
    return {module for module in own if module in sys.modules and not module.startswith("_")}


def _module(file: PurePath) -> str:
    """``a.b`` for ``a/b.py``, ``a/b/__init__.py`` and ``a/b.cpython-311-x86_64-linux-gnu.so``."""
    last = file.name.split(".")[0]
    return ".".join([*file.parts[:-1], *([] if last == "__init__" else [last])])


def forget() -> None:
    """Read again what is installed: something was."""
    _requires.cache_clear()
    importlib.invalidate_caches()
