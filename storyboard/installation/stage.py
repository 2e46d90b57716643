"""``install()``, the notebook's first cell: the reader is told before anything is changed.

What the host has and what is asked for are compared without pip; where all of it holds, nothing is
done. Else pip says what it would do, a torch that works and the packages of the running kernel held
fast; that is told, and then done, unless it would break other packages of the host.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from storyboard import drivers, resources, threads
from storyboard.compat import packaging
from storyboard.errors import InstallError
from storyboard.facts import Facts
from storyboard.installation import host, pip, torch
from storyboard.installation.plan import Plan

# packages of the kernel that runs this cell, and of its connection to the page
KERNEL = (
    *("comm", "debugpy", "google-colab", "ipykernel", "ipython", "jupyter-client", "jupyter-core"),
    *("jupyter-server", "jupyterlab", "notebook", "pyzmq", "tornado", "traitlets"),
)
SHOWN = ("torch", "diffsynth", "diffusers", "transformers", "peft", "py-data-juicer", "pillow")
MODULES = {"pillow": "PIL", "py-data-juicer": "data_juicer"}  # where the name to import is another
# what is run in a process of its own after an installation
IMPORTS = {
    "torch": "import torch",
    "torchvision": "import torchvision",
    "numpy": "import numpy",
    "pillow": "import PIL.Image",
    "opencv-python-headless": "import cv2",
    "datasets": "import datasets",
    "accelerate": "import accelerate",
    "transformers": "import transformers",
    "peft": "import peft",
    "diffusers": "import diffusers",
    "diffsynth": "import diffsynth.core",
    "modelscope": "import modelscope.hub.api",
    "py-data-juicer": "from storyboard.compat import data_juicer as d\nwith d.data_juicer(): pass",
}
CHECK = """
import json, sys
failures = {}
for name, statement in json.loads(sys.argv[1]).items():
    try:
        exec(statement, {})
    except Exception as error:
        failures[name] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(failures))
"""
CHECKED = 900  # seconds: first imports compile what was just installed


def install(requirements: Path | None = None, allow_conflicts: bool | None = None) -> Facts:
    """Install what is missing, and say what is added, changed and kept, and whether to restart.

    A torch that works and is in the tested range stays. Where none is, one is taken that this
    machine's NVIDIA driver and card can use, or one without CUDA where there is no card.

    Args:
        requirements: Whose first paragraph is installed; None for this package's own.
        allow_conflicts: Whether other packages of the host may lose what they require. None allows
            it where the host forgets everything after the session (Colab, Kaggle).

    Returns:
        The versions that the notebook stands on, and whether the kernel holds older ones.

    Raises:
        InstallError: Nothing was installed, or something cannot be imported; one sentence says why.
    """
    if not packaging.is_here():
        pip.check_usable()
    lines = host.needed(requirements or resources.path("requirements.txt"))
    versions = host.installed()
    choice = torch.choose(lines, versions, drivers.card())
    for note in choice.notes:
        _tell(note)

    plan = Plan({}, {})
    if host.unmet([*lines, *choice.constraints], versions):
        plan = _installed(lines, choice, versions, allow_conflicts)
        _check_imports(map(host.canonical, (host.requirement(line).name for line in lines)))
    else:
        if choice.doubtful:  # though all that they require is said to be here
            _check_imports(choice.doubtful)
        _tell("nothing is missing")
    _tell(threads.choose())
    return Facts([*_versions(lines), ("kernel", _restart(plan))], "Packages")


def _installed(
    lines: list[str], choice: torch.Choice, versions: dict[str, str], allow_conflicts: bool | None
) -> Plan:
    """What pip has done."""
    pip.check_usable()
    kernel = (f"{name}=={versions[name]}" for name in KERNEL if name in versions)
    request = pip.Request(tuple(lines), (*choice.constraints, *kernel), choice.index)
    plan = Plan.of(pip.resolve(request), versions)
    compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    for line in (*plan.lines(compiler), *plan.check(allow_conflicts, os.environ)):
        _tell(line)

    pip.install(request, plan.versions, _tell)
    host.forget()
    return plan


def _check_imports(names: Iterable[str]) -> None:
    """Raise InstallError if a package of ``names`` cannot be imported by a fresh process."""
    statements = {name: IMPORTS[name] for name in names if name in IMPORTS}
    path = os.pathsep.join([str(resources.PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    try:
        ran = subprocess.run(
            [sys.executable, "-c", CHECK, json.dumps(statements)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=CHECKED,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(
            f"Importing {', '.join(statements)} takes more than {CHECKED} s: "
            "run this cell again when the machine is less busy."
        ) from error
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["without a word"])[-1]
        raise InstallError(
            f"A process that imports {', '.join(statements)} ended with exit code "
            f"{ran.returncode} ({last}): make an environment of its own (python3 -m venv .venv)."
        )
    failures = json.loads(ran.stdout.splitlines()[-1])
    for name, why in failures.items():
        raise InstallError(
            f"{name} is installed and cannot be imported ({why}): run "
            f"`pip uninstall -y {_damaged(name, why)}` and this cell again, or make an environment "
            "of its own (python3 -m venv .venv)."
        )
    _tell(f"{len(statements)} packages were imported by a process of its own")


def _damaged(name: str, why: str) -> str:
    """The package to take away: that of a module which ``name`` lacks, else ``name``."""
    lacking = torch.LACKING.match(why)
    packages = metadata.packages_distributions()
    return packages.get(lacking[1].split(".")[0], [name])[0] if lacking else name


def _versions(lines: list[str]) -> list[tuple[str, str]]:
    installed = host.installed()
    asked = {host.canonical(host.requirement(line).name) for line in lines}
    return [(name, installed[name]) for name in SHOWN if name in asked & installed.keys()]


def _restart(plan: Plan) -> str:
    """Whether this kernel holds modules of a version that is not the installed one any more."""
    stale = {name: old for name, (old, _) in plan.changed.items() if host.modules(name)}
    installed = host.installed()
    for name in SHOWN:
        module = sys.modules.get(MODULES.get(name, name))
        loaded = str(getattr(module, "__version__", "")).split("+")[0]
        if loaded and loaded != installed.get(name, loaded).split("+")[0]:
            stale.setdefault(name, loaded)

    if not stale:
        return "no restart needed: it holds nothing that was replaced"
    held = ", ".join(
        f"{name} {old} ({installed.get(host.canonical(name))} is installed)"
        for name, old in stale.items()
    )
    return f"restart the kernel, which still holds {held}"


def _tell(line: str) -> None:
    print(f"install: {line}", flush=True)
