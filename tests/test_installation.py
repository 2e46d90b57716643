"""The install cell on stand-in hosts: real pip, real environments, wheels of a few bytes."""

import os
import shutil

import pytest

from tests import wheels

TORCH = "torch>=2.6,<2.16"
VISION = "torchvision>=0.21,<0.30"


@pytest.fixture
def host(tmp_path):
    """A host whose folder of wheels has every version that the tests speak of."""
    made = wheels.Host(tmp_path)
    for version in ("2.15.0", "2.10.0", "2.7.1", "2.6.0"):
        wheels.torch(made.wheels, version)
    for version, fits in (("0.29.0", "2.15.0"), ("0.25.0", "2.10.0"), ("0.21.0", "2.6.0")):
        wheels.wheel(made.wheels, "torchvision", version, (f"torch=={fits}", "numpy"))
    for name, *versions in (("numpy", "2.0.2", "2.4.6"), ("pillow", "11.3.0", "13.0.0")):
        for version in versions:
            wheels.wheel(made.wheels, name, version)
    return made


def lines(ran):
    return [line.removeprefix("install: ") for line in ran.stdout.splitlines()]


@pytest.mark.slow
def test_a_fresh_environment_gets_all_and_then_nothing_is_done(host):
    first = host.install(TORCH, VISION, "numpy>=2", "pillow>=13")
    assert first.returncode == 0, first.stderr
    assert host.versions() == {
        "torch": "2.15.0",
        "torchvision": "0.29.0",
        "numpy": "2.4.6",
        "pillow": "13.0.0",
    }
    assert "adds 4 packages: numpy 2.4.6, pillow 13.0.0, torch 2.15.0, torchvision 0.29.0" in lines(
        first
    )
    assert "4 packages were imported by a process of its own" in first.stdout

    second = host.install(TORCH, VISION, "numpy>=2", "pillow>=13", PIP_FIND_LINKS="/nowhere")
    assert lines(second)[:2] == ["torch 2.15.0 stays", "nothing is missing"]
    assert "no restart needed" in lines(second)[-1]


@pytest.mark.slow
def test_an_older_torch_in_the_range_stays_and_what_fits_it_is_added(host):
    host.has(host.wheels / "torch-2.6.0-py3-none-any.whl")
    ran = host.install(TORCH, VISION)
    assert "torch 2.6.0 stays" in lines(ran)
    assert host.versions() == {"torch": "2.6.0", "torchvision": "0.21.0", "numpy": "2.4.6"}


@pytest.mark.slow
def test_a_torchvision_of_another_torch_is_exchanged(host):
    for name in ("torch-2.10.0", "torchvision-0.29.0"):
        host.has(host.wheels / f"{name}-py3-none-any.whl")
    ran = host.install(TORCH, VISION)
    assert "changes on this host: torchvision 0.29.0 -> 0.25.0" in lines(ran)
    assert 'to undo the changes: pip install "torchvision==0.29.0"' in lines(ran)
    assert host.versions()["torch"] == "2.10.0"


@pytest.mark.slow
def test_a_torch_below_the_range_is_replaced_which_is_said_before(host):
    old = wheels.torch(host.folder, "2.5.1")
    host.has(old)
    ran = host.install(TORCH, VISION)
    assert lines(ran)[0].startswith("torch 2.5.1 is not in the tested range (<2.16,>=2.6); ")
    assert "changes on this host: torch 2.5.1 -> 2.15.0" in lines(ran)


@pytest.mark.slow
def test_a_torch_that_cannot_be_imported_is_replaced(host):
    host.has(
        wheels.torch(host.folder, "2.15.0", code="raise OSError('libcudart.so.13 is missing')")
    )
    ran = host.install(TORCH, VISION)
    assert "torch 2.15.0 cannot be imported (OSError: libcudart.so.13 is missing)" in ran.stdout
    assert host.versions()["torch"] == "2.10.0"


@pytest.mark.slow
def test_a_torch_that_lacks_a_package_stays_and_gets_it(host):
    code = "import sympy\n" + wheels.TORCH.format(cuda=None)
    host.has(wheels.wheel(host.folder, "torch", "2.6.0", ("sympy",), code))
    wheels.wheel(host.wheels, "sympy", "1.13.1")
    ran = host.install(TORCH, VISION)
    assert ran.returncode == 0, ran.stderr
    lacking = (
        "torch 2.6.0 stays and gets what it lacks (ModuleNotFoundError: No module named 'sympy')"
    )
    assert lacking in lines(ran)
    assert host.versions()["torch"] == "2.6.0" and host.versions()["torchvision"] == "0.21.0"


@pytest.mark.slow
def test_a_torch_that_is_half_there_is_replaced(host):
    """As an installation leaves it that broke off: its metadata are whole."""
    host.has(wheels.torch(host.folder, "2.15.0", code="import torch._C"))
    ran = host.install(TORCH, VISION)
    assert "torch 2.15.0 cannot be imported (ModuleNotFoundError: No module named" in ran.stdout
    assert host.versions()["torch"] == "2.10.0"


@pytest.mark.slow
def test_a_torch_whose_missing_package_is_said_to_be_here_is_not_called_fine(host):
    code = "import sympy\n" + wheels.TORCH.format(cuda=None)
    sympy = wheels.wheel(host.folder, "sympy", "1.13.1")
    host.has(wheels.wheel(host.folder, "torch", "2.6.0", ("sympy",), code), sympy)
    shutil.rmtree(host.site / "sympy")
    ran = host.install(TORCH)
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and "nothing is missing" not in ran.stdout
    assert "torch is installed and cannot be imported (ModuleNotFoundError: No module" in last
    assert "run `pip uninstall -y sympy` and this cell again" in last


@pytest.mark.slow
def test_a_torch_that_ends_its_process_is_not_replaced(host):
    killed = "import os; os.kill(os.getpid(), 9)"  # as for lack of memory
    host.has(wheels.torch(host.folder, "2.10.0", code=killed))
    ran = host.install(TORCH, VISION)
    last = ran.stderr.strip().splitlines()[-1]
    assert "Importing torch ended its process with exit code -9: free some memory" in last
    assert host.versions() == {"torch": "2.10.0"}


@pytest.mark.slow
def test_a_torchvision_built_for_another_torch_is_exchanged_for_the_one_that_fits(host):
    """Their versions fit, and torchvision cannot be imported: it is for another CUDA."""
    wrong = "raise RuntimeError('operator torchvision::nms does not exist')"
    host.has(
        wheels.torch(host.folder, "2.10.0+cu128"),
        wheels.wheel(host.folder, "torchvision", "0.25.0", ("torch==2.10.0",), wrong),
    )
    ran = host.install(TORCH, VISION)
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and "torchvision 0.25.0 does not fit torch 2.10.0+cu128, and" in last
    assert f"{wheels.NOWHERE}/cu128, which has one, is not reached" in last

    folder = host.folder / "index" / "cu128" / "torchvision"
    wheels.wheel(folder, "torchvision", "0.25.0+cu128", ("torch==2.10.0",))
    with wheels.index(host.folder / "index") as url:
        open_index = {"PIP_NO_INDEX": "", "PIP_INDEX_URL": f"{url}/pypi"}
        ran = host.install(TORCH, VISION, STORYBOARD_TORCH_INDEX=url, **open_index)
    assert ran.returncode == 0, ran.stderr
    assert "changes on this host: torchvision 0.25.0 -> 0.25.0+cu128" in lines(ran)
    assert "torchvision::nms does not exist" in lines(ran)[1]
    assert host.versions()["torch"] == "2.10.0+cu128"


@pytest.mark.slow
def test_what_would_break_the_host_is_refused_before_anything_is_installed(host):
    host.has(host.wheels / "torch-2.15.0-py3-none-any.whl")
    for path in (
        host.wheels / "numpy-2.0.2-py3-none-any.whl",
        wheels.wheel(host.folder, "tensorflow", "2.19.0", ("numpy<2.2,>=1.26",)),
        # of a form that was valid once
        wheels.wheel(host.folder, "lightning", "1.5", ("numpy (>=1.17.*)", "torch>=1.9.*")),
    ):
        host.has(path)
    before = host.versions()
    ran = host.install(TORCH, VISION, "numpy>=2.4")
    assert ran.returncode == 1 and host.versions() == before
    last = ran.stderr.strip().splitlines()[-1]
    assert "Nothing was installed" in last
    assert "tensorflow 2.19.0 needs numpy<2.2,>=1.26 and gets 2.4.6" in last

    ran = host.install(TORCH, VISION, "numpy>=2.4", COLAB_RELEASE_TAG="1")
    assert "goes on, as Colab forgets it all, though tensorflow" in ran.stdout
    assert host.versions()["numpy"] == "2.4.6"


@pytest.mark.slow
def test_it_goes_on_where_the_reader_allows_it_and_a_loaded_module_needs_a_restart(host):
    host.has(
        host.wheels / "torch-2.15.0-py3-none-any.whl",
        host.wheels / "pillow-11.3.0-py3-none-any.whl",
        wheels.wheel(host.folder, "gradio", "5.1", ("pillow<12",)),
    )
    ran = host.install(
        TORCH, VISION, "pillow>=13", before="import PIL", arguments=", allow_conflicts=True"
    )
    assert ran.returncode == 0, ran.stderr
    assert "goes on, as you allow it, though gradio 5.1 needs pillow<12 and gets 13.0.0" in lines(
        ran
    )
    kernel = lines(ran)[-1]
    assert "restart the kernel, which still holds pillow 11.3.0 (13.0.0 is installed)" in kernel


@pytest.mark.slow
def test_the_kernels_own_packages_are_held(host):
    host.has(
        host.wheels / "torch-2.15.0-py3-none-any.whl",
        wheels.wheel(host.folder, "tornado", "6.1"),
    )
    wheels.wheel(host.wheels, "tornado", "6.5")
    wheels.wheel(host.wheels, "jupyter-thing", "1.0", ("tornado>=6.2",))
    ran = host.install(TORCH, VISION, "jupyter-thing")
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and "pip found no versions that fit together" in last
    assert "tornado>=6.2" in last and host.versions()["tornado"] == "6.1"


@pytest.mark.slow
def test_a_package_that_cannot_be_imported_afterwards_is_named(host):
    host.has(host.wheels / "torch-2.15.0-py3-none-any.whl")
    wheels.wheel(host.wheels, "opencv-python-headless", "4.14.0")  # without a module cv2
    ran = host.install(TORCH, VISION, "opencv-python-headless")
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1
    assert "opencv-python-headless is installed and cannot be imported (ModuleNotFoundError" in last


@pytest.mark.slow
def test_without_an_index_nothing_is_changed_and_one_sentence_says_so(host):
    host.has(host.wheels / "torch-2.15.0-py3-none-any.whl")
    closed = {"PIP_NO_INDEX": "", "PIP_INDEX_URL": wheels.NOWHERE, "PIP_RETRIES": "0"}
    ran = host.install(TORCH, "modelscope>=1.40", **closed)
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and "InstallError: pip reaches no index that has modelscope" in last


def nvidia_smi(folder, answer):
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}/usr/bin:/bin"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        ("580.65.06, 9.0", "2.15.0"),
        ("550.54.14, 8.6", "2.10.0"),
        ("550.54.14, 6.0", "2.7.1"),
        ("470.82.01, 7.5", "2.7.1+cu118"),
        ("390.157", "2.15.0+cpu"),
    ],
)
def test_an_older_driver_or_card_gets_a_torch_that_it_runs(host, answer, taken):
    wheels.torch(host.folder / "index" / "cu118" / "torch", "2.7.1+cu118")
    wheels.torch(host.folder / "index" / "cpu" / "torch", "2.15.0+cpu")
    path = nvidia_smi(host.folder, answer)
    with wheels.index(host.folder / "index") as url:
        # the folder of wheels stands for PyPI
        open_index = {"PIP_NO_INDEX": "", "PIP_INDEX_URL": f"{url}/pypi"}
        ran = host.install(TORCH, PATH=path, STORYBOARD_TORCH_INDEX=url, **open_index)
    assert ran.returncode == 0, ran.stderr
    assert host.versions()["torch"] == taken


@pytest.mark.slow
def test_where_pytorchs_index_is_not_reached_that_is_said(host):
    ran = host.install(TORCH, PATH=nvidia_smi(host.folder, "470.82.01"))
    assert host.versions()["torch"] == "2.7.1"
    told = lines(ran)
    assert told[0].endswith("torch<2.8, the NVIDIA driver 470.82.01 runs CUDA 11")
    assert told[1].startswith(f"{wheels.NOWHERE}/cu118 is not reached, so torch comes from PyPI")
    assert told[2].startswith('the card is not used until `pip install "torch<2.8" torchvision')


def test_an_environment_without_pip_is_told_how_to_get_it(host):
    for path in host.site.glob("pip*"):
        path.unlink()
    ran = host.install(TORCH)
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1
    assert f"InstallError: {host.python} has no pip: run `{host.python} -m ensurepip`" in last
