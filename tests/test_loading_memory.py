"""How much memory loading takes, in a process of its own."""

import json
import os
import subprocess
import sys

import diffusers
import pytest
import torch

from storyboard.models import bases
from tests import original_layout, tiny


@pytest.fixture(scope="module")
def middling(tmp_path_factory):
    """A hub's folder of tiny SDXL, but for a UNet of a few hundred MB."""
    folder = tiny.build("sdxl", tmp_path_factory.mktemp("middling"))
    config = json.loads((folder / "unet" / "config.json").read_text()) | {
        "block_out_channels": [192, 384, 512],
        "transformer_layers_per_block": [1, 2, 4],
        "attention_head_dim": [2, 8, 8],
    }
    diffusers.UNet2DConditionModel.from_config(config).save_pretrained(
        folder / "unet", variant="fp16"
    )
    return folder


def peak(what, path, precision="fp32", **variables):
    """Bytes that the process of ``peak.py`` took at most."""
    command = [sys.executable, "-m", "tests.peak", what, str(path), precision]
    child = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        timeout=300,
        check=True,
    )
    return int(child.stdout.split()[-1])


needs_proc = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc to measure a peak"
)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(("what", "precision"), [("draw", "bf16"), ("train", "fp32")])
def test_loading_takes_little_more_than_the_largest_component(middling, what, precision):
    largest = sum(path.stat().st_size for path in (middling / "unet").glob("*.safetensors"))
    taken = peak(what, middling, precision)
    assert largest > 5e8 and taken < 1.2 * largest, (
        f"{taken / largest:.2f} of {largest / 1e6:.0f} MB"
    )


@pytest.mark.slow
@needs_proc
def test_converting_a_single_file_takes_little_more_than_the_largest_component(middling, tmp_path):
    base = bases.get(str(middling))
    path = original_layout.write(base, tmp_path / "single.safetensors", dtype=torch.float16)
    largest = sum(file.stat().st_size for file in base.weight_files("unet")) / 2  # fp32 there
    taken = peak(
        "convert",
        path,
        STORYBOARD_HUB=str(middling.parents[1]),
        STORYBOARD_CACHE=str(tmp_path / "cache"),
    )
    assert largest > 4e8 and taken < 1.2 * largest, (
        f"{taken / largest:.2f} of {largest / 1e6:.0f} MB"
    )
