"""Does it hold against faults?  python -m benchmarks.faults [--quick] [--only kills inputs]

Runs on ``mini``, made short by settings, are killed at all stages, meet full and read-only disks
and hubs that break off, work two at once in one folder, and find their files damaged: each must
end as a run that nothing disturbed. Bad inputs of every area (``benchmarks/bad_inputs``) must be
handled, or refused in one sentence: ``--only inputs --area lora`` tries those of one area,
``--number 37`` one alone.
``--notebook-runs 20`` runs the notebook's calls so often in one process. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import (
    faults_disks,
    faults_hubs,
    faults_inputs,
    faults_kills,
    faults_notebook,
    faults_place,
)
from benchmarks.faults_run import STAGES

SECTIONS = ("kills", "pairs", "disks", "hubs", "damage", "inputs")
# how much of each by default, and with --quick
KILLS, PAIRS, DAMAGED, INPUTS = (50, 2), (8, 1), (40, 1), (2000, 12)
QUICK_SECTIONS = ("kills", "disks", "inputs")  # others: test_locks, test_damage, test_hub_faults
QUICK_STAGES = ["best"]  # of the disks: little is left to do after it


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few of each, for the tests")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=None)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--inputs", type=int, help="bad inputs to try")
    parser.add_argument("--area", choices=faults_inputs.SHARES, help="try inputs of one area alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="try this input of --area alone")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--listing", type=Path, help="file for a JSON line for each input")
    parser.add_argument("--notebook-runs", type=int, default=0, help="these alone")
    arguments = parser.parse_args()
    if arguments.number is not None and arguments.area is None:
        parser.error("--number needs --area")
    if arguments.area or arguments.inputs is not None:
        arguments.only = arguments.only or ["inputs"]
    arguments.only = arguments.only or (QUICK_SECTIONS if arguments.quick else SECTIONS)
    return arguments


def main() -> int:
    arguments = command_line()
    if arguments.notebook_runs:
        flat = faults_notebook.run(arguments.notebook_runs)
        print(json.dumps({"notebook_runs": arguments.notebook_runs, "flat": flat}))
        return 0 if flat else 1

    result = {"kills": 0, "equal": 0, "inputs": 0, "wrong": 0}
    good = True
    if set(arguments.only) - {"inputs"}:
        with tempfile.TemporaryDirectory(prefix="storyboard-faults-") as work:
            good = run_faults(arguments, Path(work), result)
    if "inputs" in arguments.only:
        count = INPUTS[arguments.quick] if arguments.inputs is None else arguments.inputs
        result["inputs"], result["wrong"] = faults_inputs.run(
            count,
            arguments.area,
            arguments.seed,
            arguments.number,
            arguments.workers,
            arguments.listing,
        )
    print(json.dumps(result))
    return 0 if good and result["kills"] == result["equal"] and not result["wrong"] else 1


def run_faults(arguments: argparse.Namespace, work: Path, result: dict[str, int]) -> bool:
    """All sections but the inputs; counts kills in ``result``; whether the others ended well."""
    quick, only = arguments.quick, arguments.only
    dataset = faults_place.data_set(work / "data")
    reference = faults_kills.undisturbed(faults_place.Place(work / "first" / "place", dataset))
    print(f"faults: an undisturbed run has the events {reference.events}", flush=True)
    counts = []
    if "kills" in only:
        chosen = faults_kills.kills(
            arguments.kills or KILLS[quick], reference.events, arguments.seed
        )
        result["kills"] = sum(len(kill.points) for kill in chosen)
        result["equal"] = faults_kills.run_kills(
            chosen, reference, dataset, work, arguments.workers
        )
    if "pairs" in only:
        good = faults_kills.run_pairs(PAIRS[quick], reference, dataset, work)
        counts.append(("pairs", PAIRS[quick], good))
    if "disks" in only:
        stages = QUICK_STAGES if quick else list(STAGES)
        shares = (0.3,) if quick else faults_disks.SHARES
        tries = faults_disks.run_disks(stages, shares, reference, dataset, work)
        counts.append(("disks", *tries))
    if "hubs" in only:
        counts.append(("hubs", *faults_hubs.run_hubs(dataset, work)))
    if "damage" in only:
        tries = faults_kills.run_damage(
            DAMAGED[quick], reference, dataset, work, arguments.seed, arguments.workers
        )
        counts.append(("damage", *tries))
    for name, tried, ended_well in counts:
        print(f"{name}: {ended_well} of {tried} ended well", flush=True)
    return all(tried == ended_well for _, tried, ended_well in counts)


if __name__ == "__main__":
    sys.exit(main())
