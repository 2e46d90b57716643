"""After every public call the process is as its user left it."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, picture

CALLS = ("collect", "clean", "train", "render", "score")


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """Call -> what it changed, from one run in a process of its own."""
    folder = tmp_path_factory.mktemp("state")
    (folder / "pictures").mkdir()
    for seed in range(6):
        picture(seed).save(folder / "pictures" / f"{seed}.png")
        (folder / "pictures" / f"{seed}.txt").write_text(f"画 {seed}", encoding="utf-8")
    arguments = [str(folder / "out"), str(folder / "pictures")]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.global_state", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_logging_flags_bars_and_seeds_are_the_users(changes, call):
    assert changes[call] == {}
