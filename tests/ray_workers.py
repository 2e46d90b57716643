"""What tests have Ray's workers do."""

import os
import signal
from pathlib import Path

from storyboard.errors import DatasetError


class Square:
    def __init__(self, power, bad=None):
        self.power, self.bad = power, bad

    def __call__(self, row):
        if row["n"] == self.bad:
            raise DatasetError(f"row {self.bad} is bad")
        return {"n": row["n"], "result": row["n"] ** self.power, "process": os.getpid()}


class Killed:
    """Ends its own process at one row: once if there is a ``marker`` for it, else each time."""

    def __init__(self, at, marker=None):
        self.at, self.marker = at, marker and Path(marker)

    def __call__(self, row):
        if row["n"] == self.at and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"n": row["n"], "text": f"row {row['n']}"}
