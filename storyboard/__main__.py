"""Run the notebook in a terminal: python -m storyboard [-p NAME VALUE ...] [--notebook FILE]

Executes the very notebook that a person opens, prints what its cells print, and ends with where the grid is.
"""

import argparse
import os
import sys
from pathlib import Path

from . import show


def main() -> int:
    import papermill
    import yaml
    from papermill.exceptions import PapermillExecutionError

    parser = argparse.ArgumentParser(prog="python -m storyboard", description="Run baseline.ipynb from top to bottom.")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="override a name of the settings cell, e.g. -p train_steps 200")
    parser.add_argument("--notebook", type=Path, default=Path(__file__).resolve().parents[1] / "baseline.ipynb")
    arguments = parser.parse_args()

    parameters = {name: yaml.safe_load(value) for name, value in arguments.parameter}
    output = Path(parameters.get("output", "outputs"))
    output.mkdir(parents=True, exist_ok=True)
    executed = output / "baseline.executed.ipynb"
    os.environ[show.TERMINAL] = "1"
    known = {name for name in papermill.inspect_notebook(str(arguments.notebook))}
    if unknown := parameters.keys() - known:
        print(f"The notebook has no setting {min(unknown)!r}: choose from {', '.join(sorted(known))}.", file=sys.stderr)
        return 2
    try:
        papermill.execute_notebook(
            str(arguments.notebook), str(executed), parameters=parameters, kernel_name="python3", progress_bar=False,
            stdout_file=sys.stdout, stderr_file=sys.stderr, cwd=str(Path.cwd()),
        )
    except PapermillExecutionError as error:
        print(f"Cell {error.exec_count} of the notebook stopped with {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    print(f"The story is drawn: {output / 'story' / 'story.png'} (the executed notebook: {executed})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
