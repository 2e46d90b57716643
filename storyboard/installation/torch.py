"""Which torch stays, and which is taken where none works."""

import http.client
import json
import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, replace

from storyboard import drivers
from storyboard.errors import InstallError
from storyboard.installation import host

INDEX = "STORYBOARD_TORCH_INDEX"  # variable: address of a mirror of PyTorch's index of wheels
OFFICIAL = "https://download.pytorch.org/whl"
REACHED = 10  # seconds to wait for it
PROBED = 300  # seconds; a first import from a slow disk takes a minute
NO_CODE = "no kernel image"  # said of a card that a torch was not built for
# of a package that pip may have to add; modules of torch itself are lacking where it is half there
LACKING = re.compile(r"ModuleNotFoundError: No module named '(?!torch|functorch)([\w.]+)'")
PROBE = """
import json, sys
told = {"torch": "", "cuda": "", "error": "", "vision": "", "card": ""}
try:
    import torch
    told["torch"], told["cuda"] = str(torch.__version__), torch.version.cuda or ""
    torch.ones(2).add(1).sum().item()
except Exception as error:
    told["error"] = f"{type(error).__name__}: {error}"
if not told["error"]:
    try:
        import torchvision
    except Exception as error:
        told["vision"] = f"{type(error).__name__}: {error}"
    try:
        if not torch.cuda.is_available():
            told["card"] = "none"
        else:
            torch.ones(1, device="cuda").add(1).sum().item()
    except Exception as error:
        told["card"] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Probe:
    """What a process of its own found of the torch that is installed.

    Attributes:
        torch: Version with its local part, as 2.6.0+cu124; empty where it cannot be imported.
        cuda: Version of CUDA it is for; empty for none.
        error: Why torch cannot be imported; empty where it can.
        vision: Why torchvision cannot be imported.
        card: "none", or why the CUDA card cannot be used; empty where it computes.
    """

    torch: str = ""
    cuda: str = ""
    error: str = ""
    vision: str = ""
    card: str = ""


@dataclass(frozen=True)
class Choice:
    """What becomes of torch.

    Attributes:
        constraints: Lines for pip.
        index: Address of a further index of wheels; empty for none.
        notes: Lines for the reader.
        doubtful: Packages that stay and cannot be imported, as they lack another.
    """

    constraints: tuple[str, ...] = ()
    index: str = ""
    notes: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()


def probe() -> Probe:
    """Import torch and torchvision in a process of its own, and compute a little.

    Raises:
        InstallError: It did not come to an end, which tells nothing of torch.
    """
    command = [sys.executable, "-c", PROBE]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PROBED, check=False)
    except subprocess.TimeoutExpired as error:
        raise InstallError(
            f"Importing torch takes more than {PROBED} s: "
            "run this cell again when the machine is less busy."
        ) from error
    if ran.returncode:
        raise InstallError(
            f"Importing torch ended its process with exit code {ran.returncode}: free some memory "
            "and run this cell again, or `pip uninstall -y torch torchvision` to get another torch."
        )
    told = json.loads(ran.stdout.strip().splitlines()[-1])
    return Probe(**{name: " ".join(text.split())[:200] for name, text in told.items()})


def choose(lines: list[str], versions: dict[str, str], card: drivers.Card | None) -> Choice:
    """Keep the torch of the host where it works, else take one that the machine can use.

    Args:
        lines: Requirements, those of torch and torchvision among them.
        versions: What is installed.
        card: The NVIDIA card, if there is one.
    """
    asked = {host.requirement(line).name: line for line in lines}
    version = versions.get("torch")
    if version is None:
        return _new(card, "torch is not installed")
    if not host.holds(asked["torch"], versions):
        tested = host.requirement(asked["torch"]).specifier
        return _new(card, f"torch {version} is not in the tested range ({tested})")
    found = probe()
    if LACKING.match(found.error):
        lacking = f"torch {version} stays and gets what it lacks ({found.error})"
        return Choice((f"torch=={version}",), notes=(lacking,), doubtful=("torch",))
    if found.error:
        without = (f"torch!={version}",)
        return _new(card, f"torch {version} cannot be imported ({found.error})", without)

    kept = Choice((f"torch=={version}",), notes=(f"torch {found.torch} stays",))
    if "torchvision" in asked:
        kept = _with_vision(kept, found, asked["torchvision"], versions)
    if card and found.card:
        kept = replace(kept, notes=(*kept.notes, _card_unused(found, card)))
    return kept


def _new(card: drivers.Card | None, why: str, constraints: tuple[str, ...] = ()) -> Choice:
    """The torch that suits ``card``: from PyPI, or from PyTorch's index where that is reached."""
    fit = card.fit() if card else drivers.Fit(index="cpu", reason="there is no NVIDIA card")
    if card and sys.platform == "win32":
        fit = _for_windows(fit)
    folder = fit.index
    if folder == "cpu" and sys.platform != "linux":  # PyPI has wheels without CUDA for the others
        folder = ""
    suits = f"{fit.torch}, {fit.reason}" if fit.reason else fit.torch
    notes = [f"{why}; what suits this machine: {suits}"]
    if fit.below:
        constraints = (*constraints, fit.torch)
    index = f"{_root()}/{folder}" if folder else ""
    if index and not _reached(index):
        brings = "without CUDA" if sys.platform == "win32" else "with CUDA's libraries"
        notes.append(f"{index} is not reached, so torch comes from PyPI, {brings}")
        if folder != "cpu":
            notes.append(
                f'the card is not used until `pip install "{fit.torch}" torchvision '
                f"--index-url {index}` has run"
            )
        index = ""
    return Choice(constraints, index, tuple(notes))


def _for_windows(fit: drivers.Fit) -> drivers.Fit:
    """``fit`` by wheels of PyTorch's index: those of PyPI for Windows are without CUDA."""
    if fit.index:
        return fit
    if fit.below == "2.8":
        return replace(fit, index="cu126")
    # up to 2.10 are known to be there for CUDA 12.8; PyPI's would be taken of a later one
    return drivers.Fit("2.11", "cu128", fit.reason or "PyPI's for Windows is without CUDA")


def _with_vision(kept: Choice, found: Probe, asked: str, versions: dict[str, str]) -> Choice:
    """``kept``, and a torchvision that fits it where that of the host does not.

    PyPI's fits by its version alone: a torch for another CUDA needs one of the same index.
    """
    version = versions.get("torchvision")
    fits = host.fits(asked, "torch", versions)
    if fits and not found.vision:
        return kept
    if fits and LACKING.match(found.vision):
        return replace(kept, doubtful=("torchvision",))

    local = found.torch.partition("+")[2]
    if not fits:
        from_pypi = "+" not in versions["torch"]
        return kept if from_pypi else replace(kept, index=_index_of(local, found, version))

    note = f"torchvision {version} cannot be imported ({found.vision})"
    public = str(version).partition("+")[0]
    another = f"torchvision=={public}+{local}" if local else f"torchvision!={version}"
    index = _index_of(local, found, version) if local else ""
    return Choice((*kept.constraints, another), index, (*kept.notes, note))


def _index_of(local: str, found: Probe, vision: str | None) -> str:
    """PyTorch's index for builds of ``local``, such as cu124; InstallError if it is not reached."""
    index = f"{_root()}/{local}"
    if not _reached(index, "torchvision"):
        has = f"torchvision {vision} does not fit" if vision else "there is no torchvision for"
        raise InstallError(
            f"{has} torch {found.torch}, and {index}, which has one, is not reached: name a mirror "
            f"of {OFFICIAL} by the variable {INDEX}, or run `pip uninstall -y torch torchvision` "
            "and this cell again to take both from PyPI."
        )
    return index


def _card_unused(found: Probe, card: drivers.Card) -> str:
    """Why a torch that works leaves the card alone, and what helps."""
    fit = card.fit()
    if fit.index == "cpu":
        return f"the card is not used: {fit.reason}"
    met = "" if found.card == "none" else found.card
    if card.runs(found.cuda) and NO_CODE not in met:  # another torch would not either
        if not met:
            return f"the card is not used: torch {found.torch} {drivers.HIDDEN}"
        return f"the card is not used: torch {found.torch} suits it and meets {met}"
    built = f"is for CUDA {found.cuda}" if found.cuda else "is without CUDA"
    why = met or fit.reason
    return (
        f"the card is not used: torch {found.torch} {built}{', ' + why if why else ''}; for "
        f"{fit.torch} that uses it, run `pip uninstall -y torch torchvision` and this cell again"
    )


def _root() -> str:
    return os.environ.get(INDEX, OFFICIAL).rstrip("/")


def _reached(index: str, package: str = "torch") -> bool:
    try:
        with urllib.request.urlopen(f"{index}/{package}/", timeout=REACHED):
            return True
    # refused, unknown, silent; not an address; no answer of HTTP
    except (OSError, ValueError, http.client.HTTPException):
        return False
