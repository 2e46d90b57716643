"""Where the rows of a pass are judged: in processes of this machine, or on a cluster's.

What is large of a row goes into files: those of a million pictures do not fit into memory.
"""

import contextlib
import functools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from storyboard import show
from storyboard.cluster import Cluster
from storyboard.compat import data_juicer
from storyboard.data import recipe_operators
from storyboard.data.captions import LISTING
from storyboard.data.recipes import Recipe
from storyboard.data.row_judge import JudgeRow
from storyboard.errors import ResourceError

ROWS_AT_ONCE = 16  # less than a second of work
MOST_SLICES_HERE = 8  # of near-duplicates: they take less time than the start of workers
ROWS_IN_MEMORY = 500  # of 14 kB, of near-duplicates


@dataclass(frozen=True)
class Judges:
    """Those who judge rows.

    Attributes:
        recipe: Of all operators.
        captions: Folder of the collected pictures.
        folder: Where pictures that mappers make are written.
        work: A folder for temporary files, on a disk that all machines of ``cluster`` see.
        processes: Of this machine.
        cluster: Judges instead of this machine; None where it does not.
    """

    recipe: Recipe
    captions: Path
    folder: Path
    work: Path
    processes: int
    cluster: Cluster | None

    @property
    def workers(self) -> int:
        """How many rows are judged at a time."""
        return max(1, self.cluster.cpus) if self.cluster else self.processes

    def judge(self, operators: Sequence, first: int, rows):
        """The verdicts of ``operators``, the recipe's from ``first`` on, over ``rows``.

        Both are data sets, of which the second has the columns ``id``, VERDICT and HASHES.
        """
        if self.cluster is None:
            return rows.map(
                JudgeRow(operators, self.folder, self.recipe.path),
                num_proc=self.processes if self.processes > 1 else None,
                remove_columns=[name for name in rows.column_names if name != "id"],
            )
        steps = self.recipe.steps[first : first + len(operators)]
        arguments = {
            "recipe": Recipe(self.recipe.path, steps),
            "folder": self.folder.resolve(),
            "captions": self.captions.resolve(),
        }
        judged = self.cluster.map(rows, RowJudge, arguments, rows_at_once=ROWS_AT_ONCE)
        return self.in_file(_watched("clean", judged, len(rows)))

    def pairs_of(self, arguments: Mapping[str, Any], starts: Sequence[int]) -> Iterator:
        """Pairs of near-duplicates in each slice, as ``near_duplicates.pairs_of``."""
        if self.cluster is None or len(starts) <= MOST_SLICES_HERE:
            from storyboard.data import near_duplicates

            yield from near_duplicates.pairs_of(dict(arguments), starts)
            return
        rows = [{"start": start} for start in starts]
        found = self.cluster.map(rows, SliceComparer, arguments)
        for row in _watched("clean: compare", found, len(rows)):
            yield row["pairs"]

    def in_file(self, rows: Iterable[dict[str, Any]]):
        """``rows`` as a data set that lies in a file of ``work``."""
        import datasets
        import pyarrow

        path = Path(tempfile.mkdtemp(dir=self.work)) / "rows.arrow"
        remaining = iter(rows)
        table = pyarrow.Table.from_pylist(list(islice(remaining, ROWS_IN_MEMORY)))
        with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
            while len(table):
                writer.write_table(table)
                some = list(islice(remaining, ROWS_IN_MEMORY))
                table = pyarrow.Table.from_pylist(some, table.schema)
        return datasets.Dataset.from_file(str(path))


class RowJudge:
    """In a process of a cluster: ``JudgeRow`` with operators that are made there."""

    def __init__(self, recipe: Recipe, folder: Path, captions: Path) -> None:
        self.recipe, self.folder, self.captions = recipe, folder, captions
        self.kept = contextlib.ExitStack()

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": row["id"]} | self.judge(row)

    # at the first row, where an error reaches the cell
    @functools.cached_property
    def judge(self) -> JudgeRow:
        if not (self.captions / LISTING).is_file():
            raise ResourceError(
                f"A machine of the cluster does not see {self.captions / LISTING}: collect into "
                "an output folder that is mounted at the same path on every machine."
            )
        ops = self.kept.enter_context(data_juicer.data_juicer())
        operators = recipe_operators.make(ops, self.recipe, 1)
        return JudgeRow(operators, self.folder, self.recipe.path)


class SliceComparer:
    """In a process of a cluster: near-duplicates in slices of all pictures."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def __call__(self, row: Mapping[str, int]) -> dict[str, Any]:
        return {"pairs": self.thumbnails.pairs(row["start"])}

    @functools.cached_property
    def thumbnails(self):
        with data_juicer.data_juicer():
            from storyboard.data.near_duplicates import Thumbnails

            return Thumbnails(**self.arguments)


def _watched(title: str, rows: Iterable, count: int) -> Iterator:
    """``rows``, with a line of progress in the cell."""
    with show.Live(title, count) as live:
        for number, row in enumerate(rows, 1):
            yield row
            live.step(number)
