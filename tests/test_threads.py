"""How threads wait: by the load of stand-in machines, and with equal results."""

import itertools
import os
import subprocess
import sys
import time

import pytest

from storyboard import threads
from tests.conftest import ROOT


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """(share of time that each core is busy at a look, quota's file) -> its choice."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(threads, "STAT", stat)
    monkeypatch.setattr(threads, "GROUPS", tmp_path)
    monkeypatch.setattr(threads, "_set", {})
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def choose(*looks, quota="max 100000", **environment):
        count = len(looks[0])
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))
        (tmp_path / "cpu.max").write_text(quota)
        ticks = [[0, 0] for _ in range(count)]  # busy, idle
        shares = itertools.cycle(looks)

        def write():
            lines = [f"cpu{core} {a} 0 0 {b} 0 0 0 0 0 0" for core, (a, b) in enumerate(ticks)]
            stat.write_text("\n".join(["cpu 1 2 3 4 5 6 7 8", *lines, "cpu99 9 9 9 9 9 9 9 9"]))

        def sleep(seconds):
            for core, share in zip(ticks, next(shares), strict=True):
                core[0] += round(1000 * share)
                core[1] += round(1000 * (1 - share))
            write()

        write()
        monkeypatch.setattr(time, "sleep", sleep)
        return threads.choose(environment), environment

    return choose


def test_on_an_idle_machine_threads_spin_shortly(machine):
    line, environment = machine([0.03, 0.1])
    assert environment == {"GOMP_SPINCOUNT": "1000"}
    assert line.endswith("no other program keeps a core busy")


def test_on_an_idle_machine_of_many_cores_nothing_is_changed(machine):
    line, environment = machine([0.01] * 16)
    assert environment == {} and "threads: unchanged" in line


def test_beside_a_busy_program_threads_wait_asleep(machine):
    line, environment = machine([1.0, 0.2])
    assert environment == {"OMP_WAIT_POLICY": "passive"}
    assert line.endswith("as other programs use 1.2 of 2 cores")


def test_one_core_of_many_is_enough(machine):
    assert machine([0.9] + [0.0] * 63)[1] == {"OMP_WAIT_POLICY": "passive"}


def test_a_burst_is_no_load(machine):
    assert "OMP_WAIT_POLICY" not in machine([1.0, 1.0], [0.0, 0.0], [1.0, 1.0])[1]


def test_a_containers_quota_counts_instead_of_its_hosts_cores(machine):
    line, environment = machine([0.0] * 8, quota="250000 100000")
    assert environment == {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2"}
    assert line.endswith("as this container may use 2.5 of 8 cores")
    assert "OMP_NUM_THREADS" not in machine([0.0] * 2, quota="250000 100000")[1]


def test_cores_that_are_not_listed_tell_nothing(machine, monkeypatch):
    """As where a container lists its own and counts the host's."""
    machine([0.0, 0.0])
    assert threads.load({100, 101}) is None


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_what_a_host_has_set_stays(machine, name):
    line, environment = machine([1.0, 1.0], **{name: "1"})
    assert environment == {name: "1"} and line == f"threads: as this host has set {name}"


def test_a_cell_that_is_run_again_knows_its_own_choice(machine):
    _, environment = machine([1.0, 1.0])
    assert machine([0.0, 0.0], **environment) == ("threads: as chosen before", environment)


def test_a_torch_that_is_loaded_has_read_it_already(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", sys)
    line, environment = machine([1.0, 1.0])
    assert environment == {} and "torch is loaded already" in line


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({}, None),
    ],
)
def test_the_quota_of_both_versions_of_cgroups(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(threads, "GROUPS", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert threads.quota() == cores


def test_this_machine_can_be_looked_at():
    cores = os.sched_getaffinity(0)
    assert 0 <= threads.load(cores) <= len(cores)


@pytest.mark.slow
def test_pictures_are_the_same_byte_for_byte(tmp_path):
    script = (
        "import sys\n"
        "from storyboard import Settings, Story, render\n"
        "small = {'resolution': 64, 'num_inference_steps': 2}\n"
        "render(Story(['微笑'] * 2), Settings(base='mini', output=sys.argv[1], **small), None)\n"
    )
    pictures = []
    ways = {
        "spin": {},
        "short": {"GOMP_SPINCOUNT": "1000"},
        "asleep": {"OMP_WAIT_POLICY": "passive"},
    }
    for name, policy in ways.items():
        environment = os.environ | {"OMP_NUM_THREADS": "2"} | policy
        command = [sys.executable, "-c", script, tmp_path / name]
        subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
        pictures += (tmp_path / name).rglob("panel-1.png")
    assert len({path.read_bytes() for path in pictures}) == 1 and len(pictures) == len(ways)
