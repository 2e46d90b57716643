"""torch's switches for fp32 are as before, by whichever interface they were set."""

import subprocess
import sys

import pytest
import torch

from storyboard.compat.torch import true_fp32

STATES = {
    "as installed": "",
    "allow_tf32": "b.cuda.matmul.allow_tf32 = True; b.cudnn.allow_tf32 = False",
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "one operator": "b.cudnn.conv.fp32_precision = 'tf32'; b.cuda.matmul.fp32_precision = 'tf32'",
    "one operator exact": "b.cudnn.conv.fp32_precision = 'ieee'",
    "all operators": "b.fp32_precision = 'ieee'",
}
CHILD = """
import torch
from storyboard.compat.torch import true_fp32
b = torch.backends
{state}

def read(name):
    try:
        return eval(name)
    except RuntimeError:
        return "refused"

def switches():
    names = ["b.cudnn.allow_tf32", "b.cuda.matmul.allow_tf32", "b.fp32_precision"]
    names += ["torch.get_float32_matmul_precision()", "b.cudnn.fp32_precision"]
    names += ["b.cudnn.conv.fp32_precision", "b.cudnn.rnn.fp32_precision"]
    names += ["b.cuda.matmul.fp32_precision", "b.mkldnn.matmul.fp32_precision"]
    return [read(name) for name in names]

before = switches()
with true_fp32(torch.float32):
    assert b.cudnn.conv.fp32_precision != "tf32"
    assert b.cuda.matmul.fp32_precision == "ieee"
assert switches() == before, (before, switches())
"""


def switches():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_fp32_is_whole_inside_and_the_switches_are_as_before_even_after_an_error():
    def fails():
        with true_fp32(torch.float32):
            assert switches() == (False, False)
            raise ValueError("of the caller")

    before = switches()
    with pytest.raises(ValueError, match="of the caller"):
        fails()
    assert switches() == before


def test_16_bits_leave_the_switches_alone():
    before = switches()
    with true_fp32(torch.bfloat16):
        assert switches() == before


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_what_the_user_has_set_is_set_afterwards(state):
    """In a process of its own: torch cannot return to its first state once a switch was set."""
    subprocess.run([sys.executable, "-c", CHILD.format(state=state)], check=True)
