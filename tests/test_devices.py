"""Which device is chosen; a Mac's GPU is stood in for."""

import pytest
import torch

from storyboard import Settings, check
from storyboard.compat.torch import memory_errors
from storyboard.errors import ResourceError, SettingsError
from storyboard.models import bases, devices, memory
from storyboard.training import encoding, loop

GIB = 2**30


@pytest.fixture
def mac(monkeypatch):
    """gib -> a Mac whose GPU may take so much."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: GIB)

    def make(gib):
        monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: (gib + 1) * GIB)

    make(20)
    return make


def plan(name, **changes):
    return memory.plan(bases.get(name), Settings(base=name, **changes))


def test_a_mac_takes_its_gpu(mac):
    made = plan("sdxl")
    assert (made.device, made.precision) == ("mps", "fp32")
    assert made.train_micro_batch_size == made.render_micro_batch_size == 1
    assert made.gradient_checkpointing and made.vae_tiling
    assert not (made.offload or made.cuda_graphs or made.text_encoder_on_cpu)
    assert not plan("sd15").vae_tiling
    assert encoding.PIXELS_PER_BATCH[made.device]


def test_mini_takes_a_macs_gpu_as_it_takes_a_card(mac):
    made = plan("mini")
    assert (made.device, made.precision, made.gradient_checkpointing) == ("mps", "fp32", False)
    assert plan("mini", device="cpu").device == "cpu"


def test_what_the_user_names_is_taken_on_a_mac(mac):
    named = {"gradient_checkpointing": False, "vae_tiling": False, "text_encoder_on_cpu": True}
    made = plan("sdxl", precision="fp16", **named)
    assert made.precision == "fp16" and made.text_encoder_on_cpu
    assert not made.gradient_checkpointing and not made.vae_tiling
    assert plan("sdxl", device="cpu").device == "cpu"


def test_what_does_not_work_on_a_mac_is_refused(mac, monkeypatch):
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(SettingsError, match="offload=True needs a CUDA card, and torch computes"):
        plan("sdxl", offload=True)
    with pytest.raises(SettingsError, match="text_encoder_bits=4 needs a CUDA card, and torch"):
        plan("kolors", text_encoder_bits=4)


def test_a_mac_without_room_is_told_before(mac):
    memory.check(bases.get("sd15"), Settings(base="sd15"))
    mac(3)
    with pytest.raises(
        ResourceError, match=r"base='sdxl' at 1024 needs about .*, and 3.0 are free"
    ):
        memory.check(bases.get("sdxl"), Settings(base="sdxl"))


def test_a_cuda_card_goes_before_and_the_cpu_can_be_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose(None) == "cuda"
    assert devices.choose("cpu") == "cpu"
    with pytest.raises(ResourceError, match="torch computes on the CPU here"):
        memory.check(bases.get("sdxl"), Settings(base="sdxl", device="cpu"))


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        SettingsError, match='device="mps" is not there for torch, which finds "cpu"'
    ):
        check(Settings(base="mini", device="mps"))
    with pytest.raises(SettingsError, match="device='gpu' must be"):
        Settings(device="gpu")


def test_the_check_cell_names_a_macs_gpu(mac, tmp_path):
    rows = dict(check(Settings(base="mini", output=tmp_path)).rows)
    assert rows["device"].startswith("Apple silicon, 20.0 GiB for its GPU, which was not tried")
    rows = dict(check(Settings(base="mini", output=tmp_path, device="cpu")).rows)
    assert rows["device"] == 'CPU (device="mps" takes Apple\'s GPU)'


def test_a_macs_gpu_that_is_full_is_out_of_memory():
    """MPS says it in a RuntimeError; a step is then tried with fewer pictures."""
    with pytest.raises(torch.OutOfMemoryError), memory_errors():
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)")
    with pytest.raises(RuntimeError, match="another"), memory_errors():
        raise RuntimeError("another")

    def full(part, share):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)")

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    batch = {"latents": torch.zeros(4, 1)}
    with pytest.raises(ResourceError, match="too small for one picture"):
        loop._accumulate(full, optimizer, [(batch, 1.0)], 4)
