import pytest
import torch

from storyboard.compat.torch import true_fp32


def switches():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_fp32_is_whole_inside_and_the_switches_are_as_before_even_after_an_error():
    before = switches()
    with pytest.raises(ValueError), true_fp32(torch.float32):
        assert switches() == (False, False)
        raise ValueError
    assert switches() == before


def test_16_bits_leave_the_switches_alone():
    before = switches()
    with true_fp32(torch.bfloat16):
        assert switches() == before
