"""One run at a time in a folder, and what killed ones leave."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from storyboard import artifacts, locks
from storyboard.errors import ResourceError
from tests.conftest import ROOT

HOLDS = """
import sys, time
from pathlib import Path
from storyboard import artifacts, locks
folder = Path(sys.argv[1])
with locks.hold(folder, "train"), artifacts.building(folder / "made") as made:
    (made / "half").write_text("half")
    print("held", flush=True)
    if sys.argv[2] == "fork":
        import multiprocessing
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,))
        child.start()
        print(child.pid, flush=True)
    time.sleep(float(sys.argv[3]))
    artifacts.write_manifest(made, "test", "abc")
"""


def holding(folder, how="alone", seconds="20"):
    """A process that works in ``folder``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder), how, seconds],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "held\n"
    return process


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_second_run_waits_and_says_for_whom(tmp_path, capsys):
    process = holding(tmp_path, seconds="1")
    with locks.hold(tmp_path, "render"):
        assert process.wait(10) == 0
        assert (tmp_path / "made" / "half").is_file()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith(f"render: waiting for process {process.pid} on {os.uname().nodename}")
    assert f"(train), which works in {tmp_path} since {time.strftime('%Y')}" in printed


def test_the_lock_of_a_killed_run_does_not_block_and_its_files_are_cleared(tmp_path, capsys):
    process = holding(tmp_path)
    process.kill()
    process.wait()
    assert any("unfinished" in name for name in everything(tmp_path))
    with locks.hold(tmp_path, "render"):
        pass
    assert everything(tmp_path) == []
    assert capsys.readouterr().out == ""


def test_nor_does_that_of_one_whose_children_live_on(tmp_path, capsys):
    process = holding(tmp_path, "fork")
    child = int(process.stdout.readline())
    try:
        time.sleep(1)  # the child closes what it inherited first
        process.kill()
        process.wait()
        with locks.hold(tmp_path, "render"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    assert capsys.readouterr().out == ""


def test_threads_of_one_process_wait_for_each_other(tmp_path):
    order = []

    def work():
        with locks.hold(tmp_path, "second"):
            order.append("second")

    with locks.hold(tmp_path, "first"):
        thread = threading.Thread(target=work)
        thread.start()
        with locks.hold(tmp_path, "within"):  # what a stage calls
            time.sleep(0.5)
            order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_run_that_was_killed_between_two_moves_loses_nothing(tmp_path):
    with artifacts.building(tmp_path / "made") as folder:
        (folder / "one").write_text("1")
        artifacts.write_manifest(folder, "test", "abc")
    with locks.hold(tmp_path, "test"):
        aside = locks.set_aside(tmp_path / "made")
        kept = tmp_path / "kept"
        (tmp_path / locks.STATE).rename(kept)  # what a kill leaves
    kept.rename(tmp_path / locks.STATE)
    assert (tmp_path / locks.STATE / "replaced" / aside.name).is_dir()
    with locks.hold(tmp_path, "test"):
        assert artifacts.finished(tmp_path / "made", "abc")
    assert everything(tmp_path) == ["made", "made/.manifest.json", "made/manifest.json", "made/one"]


def test_a_folder_that_cannot_be_written_is_read_without_a_lock(tmp_path, monkeypatch):
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / locks.STATE).write_text("")  # the superuser may write wherever a mode forbids it
    with locks.hold(folder, "render"):
        pass
    with pytest.raises(ResourceError, match="cannot be written.*in its way"):
        artifacts.write_json(folder / "a.json", {})
    assert everything(folder) == [locks.STATE]


def test_a_link_in_place_of_its_state_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "unfinished").mkdir(parents=True)
    (elsewhere / "unfinished" / "mine").write_text("mine")
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / locks.STATE).symlink_to(elsewhere)
    with locks.hold(folder, "render"):
        pass
    assert (elsewhere / "unfinished" / "mine").read_text() == "mine"


def test_what_is_moved_back_stays_in_the_folder(tmp_path):
    folder = tmp_path / "outputs"
    outside = folder / locks.STATE / "replaced" / "..%2Foutside"
    outside.mkdir(parents=True)
    with locks.hold(folder, "render"):
        pass
    assert everything(tmp_path) == ["outputs"]


def test_nothing_is_left_of_a_folder_in_which_nothing_was_written(tmp_path):
    with locks.hold(tmp_path / "a", "collect"):
        pass
    assert everything(tmp_path) == []


def test_a_process_works_in_a_folder_that_another_one_holds_for_it(tmp_path):
    """As a cluster's workers do; it neither waits nor ends the hold."""
    code = (
        "import sys; from pathlib import Path; from storyboard import artifacts, locks\n"
        "folder = Path(sys.argv[1])\n"
        "with locks.lent(folder):\n"
        "    with artifacts.building(folder / 'made') as made:\n"
        "        (made / 'file').write_text('whole')\n"
    )
    with locks.hold(tmp_path, "train"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
        assert (tmp_path / locks.STATE / "holder.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "file").read_text() == "whole"
