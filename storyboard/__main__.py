"""Run the notebook in a terminal: python -m storyboard [-p NAME VALUE ...] [--notebook FILE]

Executes the notebook that a person opens, prints what its cells print and the path of the grid.
"""

import argparse
import ast
import base64
import os
import re
import sys
from pathlib import Path

from storyboard import artifacts, resources, show

KERNEL_DIED = (
    "The notebook's kernel died, most often for lack of memory: close other programs, "
    "or lower train_batch_size and render_batch_size."
)
PICTURE_LINK = re.compile(r"(!\[[^\]]*\])\(([^):]+\.png)\)")  # no colon: a path, not an address


def main() -> int:
    """Read the command line and run the notebook; the exit code."""
    arguments = command_line()
    if not arguments.notebook.is_file():
        return fail(
            f"There is no notebook at {arguments.notebook}: give the path of baseline.ipynb."
        )

    import papermill

    settings = papermill.inspect_notebook(str(arguments.notebook))
    for name, _ in arguments.parameter:
        if name not in settings:
            return fail(
                f"The notebook has no setting {name!r}: choose from {', '.join(sorted(settings))}."
            )
    parameters = {
        name: value_of(text, settings[name]["default"]) for name, text in arguments.parameter
    }

    output = Path(str(parameters.get("output", "outputs")))
    output.mkdir(parents=True, exist_ok=True)
    executed = output / "baseline.executed.ipynb"
    try:
        message = execute(arguments.notebook, executed, parameters)
    finally:
        if executed.is_file():
            attach_pictures(executed, arguments.notebook.parent)
    if message:
        return fail(message, code=1)

    grid = output / "story" / "story.png"
    print(f"The story is drawn: {grid} (the executed notebook: {executed})")
    return 0


def command_line() -> argparse.Namespace:
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
    return parser.parse_args()


def fail(message: str, code: int = 2) -> int:
    print(message, file=sys.stderr)
    return code


def value_of(text: str, default: str) -> object:
    """The Python value that ``text`` writes; text as it stands where the default is text.

    Papermill's own reading of -p is private, and makes a number of a folder that is called 2024.

    Args:
        text: As given on the command line.
        default: The right side of the assignment in the settings cell, from papermill's inspection.
    """
    if isinstance(literal(default), str):
        return text
    return literal(text)


def literal(text: str) -> object:
    """A number, True, False, None and the like, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def execute(notebook: Path, executed: Path, parameters: dict[str, object]) -> str | None:
    """Run ``notebook`` into ``executed``; what went wrong, or None."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    os.environ[show.TERMINAL] = "1"  # the kernel inherits it
    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            cwd=str(Path.cwd()),
        )
    except PapermillExecutionError as error:
        cell = f"Cell {error.exec_count} of the notebook"
        return f"{cell} stopped with {error.ename}: {error.evalue}"
    except DeadKernelError:
        return KERNEL_DIED
    return None


def attach_pictures(executed: Path, folder: Path) -> None:
    """Put the pictures that its text links to, relative to ``folder``, into the executed notebook.

    The copy lies in another folder, from which the links do not hold.
    """
    import nbformat

    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for link in PICTURE_LINK.finditer(cell.source):
            picture = folder / link[2]
            if not picture.is_file():
                continue
            encoded = base64.b64encode(picture.read_bytes()).decode()
            cell.setdefault("attachments", {})[picture.name] = {"image/png": encoded}
            cell.source = cell.source.replace(link[0], f"{link[1]}(attachment:{picture.name})")
    artifacts.write_atomically(executed, nbformat.writes(notebook))


if __name__ == "__main__":
    sys.exit(main())
