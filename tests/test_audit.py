"""What ``make audit`` makes of pip-audit's answer."""

import json

from tools import audit

WELL = {"name": "one", "version": "1.0", "vulns": []}
SKIPPED = {"name": "two", "skip_reason": "not found"}


def _with(fix_versions):
    found = {"id": "PYSEC-2026-1", "fix_versions": fix_versions, "aliases": [], "description": ""}
    return {"name": "three", "version": "1.2", "vulns": [found]}


def report(*packages):
    return audit.report(json.dumps({"dependencies": packages, "fixes": []}))


def test_data_out_of_reach_is_a_word():
    for answer in (audit.report(""), report(SKIPPED)):
        assert answer == (
            ["audit: the data of vulnerabilities cannot be reached here, nothing was audited"],
            0,
        )


def test_what_a_newer_release_mends_fails():
    lines, code = report(WELL, SKIPPED, _with(["1.3"]))
    assert code == 1
    assert lines == [
        "  three 1.2: PYSEC-2026-1, mended in 1.3",
        "audit: 2 packages audited, 1 not known there, 1 vulnerabilities",
    ]


def test_what_nothing_mends_is_named():
    lines, code = report(_with([]))
    assert code == 0 and lines[0] == "  three 1.2: PYSEC-2026-1, no release mends it yet"


def test_nothing_known_ends_well():
    assert report(WELL) == (["audit: 1 packages audited, 0 vulnerabilities"], 0)
