"""Run the notebook in a terminal: python -m storyboard [-p NAME VALUE ...] [--notebook FILE]

Executes the notebook that a person opens, prints what its cells print and the path of the grid.
"""

import argparse
import ast
import base64
import os
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

from storyboard import artifacts, resources, show
from storyboard.errors import SettingsError, StoryboardError, brief
from storyboard.settings import Settings

KERNEL_DIED = (
    "The notebook's kernel died, most often for lack of memory: close other programs, "
    "or lower train_batch_size and render_batch_size."
)
PICTURE_LINK = re.compile(r"(!\[[^\]]*\])\(([^):]+\.png)\)")  # no colon: a path, not an address
PAGE_LINK = re.compile(r"(?<!\!)(\[[^\]]*\])\(([^):]+\.md)\)")


def main() -> int:
    """Read the command line and run the notebook; the exit code."""
    arguments = command_line()
    if not arguments.notebook.is_file():
        return fail(
            f"There is no notebook at {arguments.notebook}: give the path of baseline.ipynb."
        )

    try:
        defaults = defaults_of(arguments.notebook)
        parameters = parameters_of(arguments.parameter, defaults)
        output = output_of(defaults | parameters)
        output.mkdir(parents=True, exist_ok=True)
    except StoryboardError as error:
        return fail(str(error))
    except OSError as error:
        return fail(
            f"The folder {output} cannot be made ({error.strerror}): set output to another."
        )

    executed = output / "baseline.executed.ipynb"
    try:
        message = execute(arguments.notebook, executed, parameters)
    finally:
        if executed.is_file():
            mend_links(executed, arguments.notebook.parent)
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


def defaults_of(notebook: Path) -> dict[str, object]:
    """What the settings cell of ``notebook`` assigns, by name.

    Raises:
        SettingsError: It is no notebook, or has no settings cell.
    """
    import nbformat
    import papermill

    refusal = f"{notebook} is no notebook: give the path of baseline.ipynb."
    if notebook.suffix != ".ipynb":
        raise SettingsError(refusal)
    try:
        found = papermill.inspect_notebook(str(notebook))
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        raise SettingsError(refusal) from error
    if not found:
        raise SettingsError(
            f"{notebook} has no cell with the tag parameters: give the path of baseline.ipynb."
        )
    return {name: literal(parameter["default"]) for name, parameter in found.items()}


def parameters_of(written: list[list[str]], defaults: dict[str, object]) -> dict[str, object]:
    """What -p says, each by the type of its setting.

    Papermill's own reading of -p is private, and makes a number of a folder that is called 2024.

    Args:
        written: Names and values as on the command line.
        defaults: Of the settings cell.

    Raises:
        SettingsError: There is no such setting.
    """
    for name, _ in written:
        if name not in defaults:
            raise SettingsError(
                f"The notebook has no setting {brief(name)}: "
                f"choose from {', '.join(sorted(defaults))}."
            )
    types = get_type_hints(Settings)
    return {
        name: value_of(text, types.get(name, type(defaults[name]) | None)) for name, text in written
    }


def value_of(text: str, kind: object) -> object:
    """The value of type ``kind`` that ``text`` writes, or the text itself if it writes none."""
    kinds = get_args(kind) or (kind,)
    if type(None) in kinds and text in ("None", "none", ""):
        return None
    if str in kinds:
        return text
    if bool in kinds:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        value = float(text)
    except ValueError:
        return literal(text)
    if int in kinds and value.is_integer():
        # not by way of a float where it has more digits than one holds
        return int(text) if re.fullmatch(r"\d+", text) else int(value)
    return value


def output_of(values: dict[str, object]) -> Path:
    """The folder that the run writes to; the values of settings are checked on the way.

    Raises:
        SettingsError: A value of another type or out of range.
    """
    known = {field.name for field in fields(Settings)}
    return Settings().but(**{name: values[name] for name in known & values.keys()}).folder


def literal(text: str) -> object:
    """A number, True, False, None and the like, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
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


def mend_links(executed: Path, folder: Path) -> None:
    """Make the links of the executed notebook hold, which are relative to ``folder``.

    The copy lies in another folder: pictures are put into it, pages are linked to from there.
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
        for link in PAGE_LINK.finditer(cell.source):
            page = _from(executed.parent, folder / link[2])
            cell.source = cell.source.replace(link[0], f"{link[1]}({page})")
    artifacts.write_atomically(executed, nbformat.writes(notebook))


def _from(folder: Path, page: Path) -> str:
    """The link to ``page`` from ``folder``."""
    try:
        return Path(os.path.relpath(page, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return page.resolve().as_uri()


if __name__ == "__main__":
    sys.exit(main())
