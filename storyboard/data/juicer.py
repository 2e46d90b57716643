"""Data-Juicer's operators over captions: every row accounted for, every picture decoded once.

Data-Juicer itself runs one operator after another over the whole set, and each decodes every
picture anew. Here the operators that map or judge single rows run over one row after another
(``row_pass.py``) and share the decoded picture by Data-Juicer's own ``context``; deduplicators of
texts run over the whole set between such passes.
"""

import contextlib
import io
import json
import os
import tempfile
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from storyboard import locks
from storyboard.cluster import Cluster
from storyboard.compat import data_juicer
from storyboard.data import operator_errors, recipe_operators, row_pass
from storyboard.data.account import FAILED, Account
from storyboard.data.captions import Captions
from storyboard.data.judging import Judges
from storyboard.data.recipes import Recipe

ROWS_PER_PROCESS = 1000  # below this a second process costs more than it saves


@dataclass(frozen=True)
class Outcome:
    """What a recipe leaves of captions.

    Attributes:
        texts: The caption of each kept row, by id.
        pictures: Where the pictures that mappers made are, by id.
        account: Of all rows.
    """

    texts: dict[str, str]
    pictures: dict[str, Path]
    account: Account


def run(
    captions: Captions, recipe: Recipe, folder: Path, cluster: Cluster | None = None
) -> Outcome:
    """Run ``recipe`` over ``captions``.

    Args:
        folder: Where pictures that mappers make are written; need not exist.
        cluster: Has the operators for single rows run there.

    Raises:
        SettingsError: An operator is unknown, cannot be used here, is given a parameter it does not
            take, lacks a package, or fails at all rows.
    """
    with (
        data_juicer.data_juicer() as ops,
        # a run that is killed leaves it where the next one clears it away
        tempfile.TemporaryDirectory(dir=locks.temporary_files()) as work,
    ):
        workers = min(os.cpu_count() or 1, 1 + len(captions) // ROWS_PER_PROCESS)
        operators = recipe_operators.make(ops, recipe, workers)
        account = Account({row.id: row for row in captions.rows}, recipe.path)
        originals = {row.id: str(captions.path(row).resolve()) for row in captions.rows}
        rows = _dataset(captions, originals, Path(work))
        judges = Judges(recipe, captions.folder, folder, Path(work), workers, cluster)

        first = 0
        for for_single_rows, group in groupby(operators, row_pass.takes_single_rows):
            together = list(group)
            if for_single_rows:
                rows = row_pass.run(together, first, rows, judges, account)
            else:
                for operator in together:
                    rows = _deduplicate_texts(operator, rows, account)
            first += len(together)

        ids, texts, images = (row_pass.column(rows, name) for name in ("id", "text", "images"))
        pictures = {
            row_id: Path(picture)
            for row_id, (picture,) in zip(ids, images, strict=True)
            if picture != originals[row_id]
        }
        return Outcome(dict(zip(ids, texts, strict=True)), pictures, account)


def _dataset(captions: Captions, pictures: dict[str, str], work: Path):
    """``captions`` as a data set of Hugging Face, with absolute paths."""
    import datasets

    listing = work / "captions.jsonl"
    with listing.open("w", encoding="utf-8") as lines:
        for row in captions.rows:
            content = {"id": row.id, "text": row.text, "images": [pictures[row.id]]}
            lines.write(json.dumps(content, ensure_ascii=False) + "\n")
    return datasets.load_dataset(
        "json", data_files=str(listing), split="train", cache_dir=str(work)
    )


def _deduplicate_texts(operator, rows, account: Account):
    """Run a deduplicator of texts, which may also shorten them, as Data-Juicer does."""
    if not len(rows):
        return rows
    name = data_juicer.name_of(operator)
    began = time.perf_counter()
    try:
        reasons, left = _compared_texts(operator, rows)
    except data_juicer.MissingPackage as error:
        raise operator_errors.lacks_package(name, error.package, account.recipe) from error
    except Exception as error:  # an operator may raise anything
        cause = data_juicer.message_of(error)
        raise operator_errors.fails_always(operator, cause, account.recipe) from error

    before, after = row_pass.column(rows, "id"), row_pass.column(left, "id")
    reasons = dict.fromkeys(before, "repeats another text") | reasons
    account.enter(name, before, after, reasons, time.perf_counter() - began)
    return left.select_columns(["id", "text", "images"]) if len(left) else left


def _compared_texts(operator, rows) -> tuple[dict[str, str], Any]:
    """Reasons of rows at which ``operator`` fails, and the rows that it keeps; raises at all."""
    import datasets

    reasons, hashed = {}, []
    for row in rows:
        try:
            hashed.append(data_juicer.compute_hash(operator, dict(row)))
        except data_juicer.MissingPackage:
            raise
        except Exception as error:  # an operator may raise anything: this row is dropped
            reasons[row["id"]] = f"{FAILED} ({data_juicer.message_of(error)})"
            if len(reasons) == len(rows):
                raise
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        left, _ = operator.process(datasets.Dataset.from_list(hashed))
    return reasons, left
