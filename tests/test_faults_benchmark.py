"""The report on faults, short."""

import json
import subprocess
import sys

import pytest

from benchmarks import faults_inputs, faults_kills
from tests.conftest import ROOT


def test_shares_come_to_two_thousand():
    assert sum(faults_inputs.SHARES.values()) == 2000


def test_kills_are_spread_over_all_stages():
    events = dict.fromkeys(faults_kills.SHARES, 100)
    chosen = faults_kills.kills(50, events, seed=0)
    points = [point for kill in chosen for point in kill.points]
    assert len(points) == 50 and {stage for stage, _, _ in points} == set(events)
    assert {name for _, _, name in points} == {"SIGKILL", "SIGINT", "SIGTERM"}
    assert sum(len(kill.points) == 2 for kill in chosen) >= 5
    assert all(1 <= number <= 100 for _, number, _ in points)


@pytest.mark.full
def test_a_short_report_finds_nothing_wrong():
    command = [sys.executable, "-m", "benchmarks.faults", "--quick"]
    report = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False
    )
    result = json.loads(report.stdout.splitlines()[-1])
    assert list(result) == ["kills", "equal", "inputs", "wrong"], report.stdout + report.stderr
    assert report.returncode == 0 and result["kills"] == result["equal"] >= 2, report.stdout
    assert result["wrong"] == 0, report.stdout
