"""Run the notebook in a terminal: python -m storyboard [-p NAME VALUE ...] [--notebook FILE]

Executes the very notebook that a person opens, prints what its cells print, and ends with where the grid is.
"""

import argparse
import os
import sys
from pathlib import Path

from storyboard import resources, show


def value_of(text: str) -> object:
    """A number, None, or the text itself."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None if text == "None" else text


def main() -> int:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    parser = argparse.ArgumentParser(
        prog="python -m storyboard", description="Run baseline.ipynb from top to bottom."
    )
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="override a name of the settings cell, e.g. -p train_steps 200",
    )
    parser.add_argument("--notebook", type=Path, default=resources.path("baseline.ipynb"))
    arguments = parser.parse_args()

    if not arguments.notebook.is_file():
        print(
            f"There is no notebook at {arguments.notebook}: give the path of baseline.ipynb.",
            file=sys.stderr,
        )
        return 2
    parameters = {name: value_of(text) for name, text in arguments.parameter}
    known = set(papermill.inspect_notebook(str(arguments.notebook)))
    if unknown := parameters.keys() - known:
        print(
            f"The notebook has no setting {min(unknown)!r}: choose from {', '.join(sorted(known))}.",
            file=sys.stderr,
        )
        return 2
    output = Path(str(parameters.get("output", "outputs")))
    output.mkdir(parents=True, exist_ok=True)
    executed = output / "baseline.executed.ipynb"
    os.environ[show.TERMINAL] = "1"
    try:
        papermill.execute_notebook(
            str(arguments.notebook),
            str(executed),
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            cwd=str(Path.cwd()),
        )
    except PapermillExecutionError as error:
        print(
            f"Cell {error.exec_count} of the notebook stopped with {error.ename}: {error.evalue}",
            file=sys.stderr,
        )
        return 1
    except DeadKernelError:
        print(
            "The notebook's kernel died, most often for lack of memory: close other programs, or lower train_batch_size and render_batch_size.",
            file=sys.stderr,
        )
        return 1
    print(
        f"The story is drawn: {output / 'story' / 'story.png'} (the executed notebook: {executed})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
