"""Which torch is chosen, and what is said of a card that it leaves alone."""

import socket
import sys
import threading

import pytest

from storyboard.drivers import Card
from storyboard.installation import torch
from storyboard.installation.torch import Probe

NO_CODE = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
BUSY = "AcceleratorError: CUDA error: all CUDA-capable devices are busy or unavailable"
AGAIN = "run `pip uninstall -y torch torchvision` and this cell again"


@pytest.mark.parametrize(
    ("found", "card", "why", "again"),
    [
        # Blackwell: the driver does, the build does not
        (("2.6.0+cu124", "12.4", NO_CODE), Card("570.86", (12, 0)), f"12.4, {NO_CODE}", True),
        (("2.15.0", "13.2", "none"), Card("550.54", (8, 0)), "driver 550.54 runs CUDA 12", True),
        (("2.15.0+cpu", "", "none"), Card("580.65", (8, 0)), "is without CUDA", True),
        (("2.9.0", "12.8", NO_CODE), Card("580.65", (6, 1)), f"12.8, {NO_CODE}", True),
        # what another torch would meet too
        (("2.10.0", "12.8", "none"), Card("550.54", (8, 0)), "CUDA_VISIBLE_DEVICES", False),
        (("2.10.0", "12.8", BUSY), Card("550.54", (8, 0)), f"meets {BUSY}", False),
        (("2.15.0", "13.2", "none"), Card("390.1"), "driver 390.1 is older than 450", False),
    ],
)
def test_why_a_card_is_not_used_and_whether_another_torch_helps(found, card, why, again):
    version, cuda, said = found
    line = torch._card_unused(Probe(torch=version, cuda=cuda, card=said), card)
    assert line.startswith("the card is not used: ")
    assert why in line and (AGAIN in line) is again


@pytest.mark.parametrize(
    ("card", "torch_asked", "folder"),
    [
        (Card("581.15", (8, 6)), "torch<2.11", "cu128"),
        (Card("551.23", (8, 6)), "torch<2.11", "cu128"),
        (Card("581.15", (6, 1)), "torch<2.8", "cu126"),
        (Card("472.12", (7, 5)), "torch<2.8", "cu118"),
    ],
)
def test_a_card_under_windows_gets_a_torch_with_cuda(monkeypatch, card, torch_asked, folder):
    """PyPI's wheels for Windows have none."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(torch, "_reached", lambda index: True)
    choice = torch._new(card, "torch is not installed")
    assert choice.constraints == (torch_asked,)
    assert choice.index == f"{torch.OFFICIAL}/{folder}"

    monkeypatch.setattr(torch, "_reached", lambda index: False)
    lines = torch._new(card, "torch is not installed").notes
    assert lines[1].endswith("so torch comes from PyPI, without CUDA")
    assert f'until `pip install "{torch_asked}" torchvision --index-url' in lines[2]


def test_windows_without_a_card_takes_pypis_torch(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    for card in (None, Card("390.77")):
        assert torch._new(card, "torch is not installed").index == ""


def test_what_does_not_speak_http_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"220 mail.example.com\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert not torch._reached(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
