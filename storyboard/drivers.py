"""NVIDIA's driver and card, and which torch they run."""

import shutil
import subprocess
from dataclasses import dataclass

TIMEOUT = 30  # seconds
# The least driver (its first number) of a CUDA release, from table 1 of
# docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html: CUDA 13.x 580,
# 12.x 525, 11.x 450. Which CUDA a torch of PyPI is for says its own metadata: 2.6 is for 12.4,
# 2.7 for 12.6, 2.8 to 2.10 for 12.8, from 2.11 on for 13.x. For CUDA 11.8 there are wheels of
# 2.6 and 2.7 at PyTorch's own index alone (pytorch.org/get-started/previous-versions).
CUDA_13, CUDA_12, CUDA_11 = 580, 525, 450
# of a torch for a CUDA that the driver runs
HIDDEN = (
    "does not see the card, though the driver runs its CUDA: see whether the variable "
    "CUDA_VISIBLE_DEVICES hides it"
)
LEAST = {"13": CUDA_13, "12": CUDA_12, "11": CUDA_11}
# Wheels for CUDA 12.8 and later have no code for cards before Turing, those of PyPI up to torch 2.7
# have (release notes of torch 2.8; github.com/pytorch/pytorch/issues/172352).
TURING, MAXWELL = (7, 5), (5, 0)


@dataclass(frozen=True)
class Fit:
    """Which torch a machine can use.

    Attributes:
        below: First version of torch that it cannot use; empty where it can use all.
        index: Folder of PyTorch's index of wheels ("cu118", "cpu"); empty for PyPI.
        reason: What asks for it, as "the NVIDIA driver 535.104 runs CUDA 12"; empty with PyPI's
            newest.
    """

    below: str = ""
    index: str = ""
    reason: str = ""

    @property
    def torch(self) -> str:
        """As pip reads it: ``torch``, or ``torch<2.11``."""
        return f"torch<{self.below}" if self.below else "torch"


@dataclass(frozen=True)
class Card:
    """The first NVIDIA card.

    Attributes:
        driver: Version of the driver, such as "535.104.05".
        capability: CUDA's compute capability; None where the driver is too old to tell.
    """

    driver: str
    capability: tuple[int, int] | None = None

    def fit(self) -> Fit:
        """The torch that uses this card; of PyTorch's ``cpu`` index where none does."""
        driver = self._release
        if self.capability and self.capability < MAXWELL:
            return Fit(index="cpu", reason=f"no torch has code for a card of {self._capability}")
        if driver < CUDA_11:
            reason = f"the NVIDIA driver {self.driver} is older than {CUDA_11}"
            return Fit(index="cpu", reason=reason)
        if driver < CUDA_12:
            return Fit("2.8", "cu118", f"the NVIDIA driver {self.driver} runs CUDA 11")
        if self.capability and self.capability < TURING:
            return Fit("2.8", reason=f"a card of {self._capability} is not in newer ones")
        if driver < CUDA_13:
            return Fit("2.11", reason=f"the NVIDIA driver {self.driver} runs CUDA 12")
        return Fit()

    def runs(self, cuda: str | None) -> bool:
        """Whether the driver is new enough for a torch for this version of CUDA."""
        least = LEAST.get((cuda or "").split(".")[0])
        return least is not None and self._release >= least

    @property
    def _release(self) -> int:
        return int(self.driver.split(".")[0])

    @property
    def _capability(self) -> str:
        return "compute capability {}.{}".format(*self.capability or ())


def card() -> Card | None:
    """The first NVIDIA card of this machine, if it has one and a driver that answers."""
    if not shutil.which("nvidia-smi"):
        return None
    answer = _asked("driver_version,compute_cap") or _asked("driver_version")
    return read(answer) if answer else None


def read(answer: str) -> Card | None:
    """``answer`` of nvidia-smi: ``535.104.05, 8.6``, a line for each card."""
    driver, _, capability = (part.strip() for part in answer.split("\n")[0].partition(","))
    if not driver.split(".")[0].isdecimal():
        return None
    major, _, minor = capability.partition(".")
    known = major.isdecimal() and minor.isdecimal()
    return Card(driver, (int(major), int(minor)) if known else None)


def _asked(fields: str) -> str:
    """What nvidia-smi says of ``fields``; empty where it does not know them or does not answer."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return ""
    return "" if answer.returncode else answer.stdout.strip()
