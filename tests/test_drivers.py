"""Which torch a driver and a card can use."""

import pytest

from storyboard import drivers
from storyboard.drivers import Card


@pytest.mark.parametrize(
    ("driver", "capability", "torch", "index"),
    [
        ("595.10", (12, 0), "torch", ""),
        ("580.65.06", (7, 5), "torch", ""),
        ("579.99", (8, 6), "torch<2.11", ""),
        ("535.104.05", (8, 0), "torch<2.11", ""),
        ("525.60.13", None, "torch<2.11", ""),
        ("580.65.06", (6, 1), "torch<2.8", ""),  # Pascal
        ("550.54.14", (7, 0), "torch<2.8", ""),  # Volta
        ("470.82.01", (8, 6), "torch<2.8", "cu118"),
        ("450.80.02", None, "torch<2.8", "cu118"),
        ("440.33", (7, 5), "torch", "cpu"),
        ("580.65.06", (3, 5), "torch", "cpu"),  # Kepler
    ],
)
def test_the_torch_that_a_card_uses(driver, capability, torch, index):
    fit = Card(driver, capability).fit()
    assert (fit.torch, fit.index) == (torch, index)
    assert bool(fit.reason) == (fit != drivers.Fit())


@pytest.mark.parametrize(
    ("driver", "cuda", "runs"),
    [
        ("580.65.06", "13.2", True),
        ("579.99", "13.0", False),
        ("525.60.13", "12.4", True),
        ("470.82.01", "12.4", False),
        ("470.82.01", "11.8", True),
        ("580.65.06", "", False),
        ("580.65.06", None, False),
        ("580.65.06", "14.0", False),
    ],
)
def test_the_cuda_that_a_driver_runs(driver, cuda, runs):
    assert Card(driver).runs(cuda) is runs


@pytest.mark.parametrize(
    ("answer", "card"),
    [
        ("535.104.05, 8.6", Card("535.104.05", (8, 6))),
        ("535.104.05, 8.6\n535.104.05, 7.5", Card("535.104.05", (8, 6))),
        ("470.82.01", Card("470.82.01")),
        ("470.82.01, [N/A]", Card("470.82.01")),
        ("NVIDIA-SMI has failed", None),
        ("", None),
    ],
)
def test_what_nvidia_smi_says_is_read(answer, card):
    assert drivers.read(answer) == card


@pytest.mark.parametrize(
    ("script", "card"),
    [
        ("echo '580.65.06, 9.0'", Card("580.65.06", (9, 0))),
        # an older one that does not know compute_cap
        ("case $1 in *compute_cap*) exit 2;; *) echo 450.80.02;; esac", Card("450.80.02")),
        ("exit 9", None),
    ],
)
def test_the_card_of_this_machine(tmp_path, monkeypatch, script, card):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert drivers.card() == card


def test_a_machine_without_a_card_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert drivers.card() is None
