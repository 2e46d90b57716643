"""tqdm's advice to install widgets is not shown in a kernel that has none."""

import subprocess
import sys

import pytest

KERNEL = """
import sys, warnings
import ipykernel.zmqshell  # by which tqdm knows a kernel
sys.modules["ipywidgets"] = None  # not installed
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    PUT_HERE
print([each.category.__name__ for each in seen])
"""


@pytest.mark.parametrize(
    ("imports", "warned"),
    [
        ("import tqdm.auto", "['TqdmWarning']"),  # or the library has moved
        ("from storyboard.compat import tqdm; tqdm.import_without_advice()", "[]"),
    ],
)
def test_tqdm_gives_no_advice(imports, warned):
    command = [sys.executable, "-c", KERNEL.replace("PUT_HERE", imports)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == warned
