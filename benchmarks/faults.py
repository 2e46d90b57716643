"""Does it hold against faults?  python -m benchmarks.faults [--inputs 2000] [--seed 0]

Tries bad inputs of every area (``benchmarks/bad_inputs``): each must be handled, or refused in one
sentence. ``--area lora`` tries those of one area, ``--number 37`` one alone. The last line is JSON.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import faults_inputs


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=2000, help="bad inputs to try")
    parser.add_argument("--area", choices=faults_inputs.SHARES, help="try those of one area")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="try this input of --area alone")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--listing", type=Path, help="file for a JSON line for each input")
    arguments = parser.parse_args()
    if arguments.number is not None and arguments.area is None:
        parser.error("--number needs --area")
    return arguments


def main() -> int:
    arguments = command_line()
    inputs, wrong = faults_inputs.run(
        arguments.inputs,
        arguments.area,
        arguments.seed,
        arguments.number,
        arguments.workers,
        arguments.listing,
    )
    print(json.dumps({"inputs": inputs, "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
