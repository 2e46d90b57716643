"""Wheels of a few bytes, and an environment with pip and nothing else, in place of a host."""

import contextlib
import functools
import http.server
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tests import local_server
from tests.conftest import ROOT

NOWHERE = "http://127.0.0.1:9"  # nothing answers there
TORCH = """
class version: cuda = {cuda!r}
class cuda:
    @staticmethod
    def is_available(): return False
class _Tensor:
    def add(self, other): return self
    def sum(self): return self
    def item(self): return 4.0
def ones(count): return _Tensor()
"""


def wheel(
    folder: Path, name: str, version: str, requires: tuple[str, ...] = (), code: str = ""
) -> Path:
    """A wheel in ``folder`` with one module, which holds ``code``."""
    folder.mkdir(parents=True, exist_ok=True)
    base = name.replace("-", "_")
    module = {"pillow": "PIL"}.get(name, base)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    info = f"{base}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n{code}",
        f"{module}/Image.py": "",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{base}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(file, content)
    return path


def torch(folder: Path, version: str, **changes) -> Path:
    """A stand-in for torch that computes what ``install`` computes; without CUDA."""
    return wheel(folder, "torch", version, code=changes.get("code", TORCH.format(cuda=None)))


class _Folder(http.server.SimpleHTTPRequestHandler):
    """A folder of folders of wheels is an index, as pip reads it."""

    def log_message(self, *_) -> None:
        pass


@contextlib.contextmanager
def index(folder: Path) -> Iterator[str]:
    """The address of ``folder`` as PyTorch's index: ``cu118/torch/*.whl`` below it."""
    server = local_server.LocalServer(functools.partial(_Folder, directory=str(folder)))
    try:
        yield server.url
    finally:
        server.close()


class Host:
    """An environment that has pip, and packages from a folder of wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wheels = folder, folder / "wheels"
        self.wheels.mkdir(parents=True)
        environment = folder / "env"
        command = [sys.executable, "-m", "venv", "--without-pip", environment]
        subprocess.run(command, check=True)
        self.python = environment / "bin" / "python"
        scheme = {"base": str(environment), "platbase": str(environment)}
        self.site = Path(sysconfig.get_path("purelib", "venv", scheme))
        pip = metadata.distribution("pip")
        for folder in ("pip", f"pip-{pip.version}.dist-info"):
            (self.site / folder).symlink_to(pip.locate_file(folder))

    def has(self, *wheels: Path) -> None:
        """Install ``wheels`` with nothing that they require."""
        self.run(["-m", "pip", "install", "-q", "--no-deps", *wheels])

    def run(self, arguments: list, check: bool = True, **variables: str):
        """Run this host's Python: of indexes it sees the folder of wheels alone."""
        settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        settings |= {"PIP_CONFIG_FILE": "/dev/null", "PATH": "/usr/bin:/bin", "HOME": "/nowhere"}
        settings |= {"PYTHONPATH": str(ROOT), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        settings |= {"STORYBOARD_TORCH_INDEX": NOWHERE}
        return subprocess.run(
            [self.python, *arguments],
            env=settings | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=check,
        )

    def install(self, *requirements: str, before: str = "", arguments: str = "", **variables: str):
        """What ``install`` prints for ``requirements``; the last lines are what it returns."""
        listed = self.folder / "requirements.txt"
        listed.write_text("# a comment\n" + "\n".join(requirements) + "\n\n# test\npytest\n")
        script = f"{before}\nimport pathlib\nfrom storyboard import install\n"
        script += f"print(install(pathlib.Path({str(listed)!r}){arguments}))"
        return self.run(["-c", script], check=False, **variables)

    def versions(self) -> dict[str, str]:
        """What is installed, pip left out."""
        names = (path.stem for path in self.site.glob("*.dist-info"))
        return dict(name.rsplit("-", 1) for name in names if not name.startswith("pip-"))
