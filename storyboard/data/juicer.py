"""Data-Juicer's operators over captions: every row accounted for, every picture decoded once.

Data-Juicer itself runs one operator after another over the whole set, and each decodes every
picture anew. Here the operators that judge single rows run over one row after another
(``row_pass.py``) and share the decoded picture by Data-Juicer's own ``context``; mappers and
deduplicators of texts run over the whole set between such passes.
"""

import json
import os
import tempfile
import time
from itertools import groupby
from pathlib import Path

from storyboard.compat import data_juicer
from storyboard.data import row_pass
from storyboard.data.account import Account
from storyboard.data.captions import Captions
from storyboard.data.recipes import Recipe, make_operators

ROWS_PER_PROCESS = 1000  # below this a second process costs more than it saves


def run(captions: Captions, recipe: Recipe) -> tuple[dict[str, str], Account]:
    """Run ``recipe`` over ``captions``.

    Returns:
        The kept ids with their captions, and the account of all rows.

    Raises:
        SettingsError: An operator is unknown, cannot be used here, or is given a parameter it does
            not take.
    """
    with data_juicer.data_juicer() as ops, tempfile.TemporaryDirectory() as work:
        from storyboard.data import operators  # noqa: F401  (registers this package's own)

        workers = min(os.cpu_count() or 1, 1 + len(captions) // ROWS_PER_PROCESS)
        steps = make_operators(ops, recipe, workers)
        account = Account({row.id: row for row in captions.rows})
        rows = _dataset(captions, Path(work))

        for for_single_rows, group in groupby(steps, row_pass.judges_single_rows):
            if for_single_rows:
                rows = row_pass.run(list(group), rows, workers, account)
            else:
                for operator in group:
                    rows = _run_over_set(operator, rows, account)

        kept = dict(zip(row_pass.column(rows, "id"), row_pass.column(rows, "text"), strict=True))
        return kept, account


def _dataset(captions: Captions, work: Path):
    """``captions`` as a data set of Hugging Face, with absolute paths."""
    import datasets

    listing = work / "captions.jsonl"
    with listing.open("w", encoding="utf-8") as lines:
        for row in captions.rows:
            image = str(captions.path(row).resolve())
            content = {"id": row.id, "text": row.text, "images": [image]}
            lines.write(json.dumps(content, ensure_ascii=False) + "\n")
    return datasets.load_dataset(
        "json", data_files=str(listing), split="train", cache_dir=str(work)
    )


def _run_over_set(operator, rows, account: Account):
    """Run a mapper, or a deduplicator of texts, as Data-Juicer does."""
    from data_juicer.ops import Deduplicator

    if not len(rows):
        return rows
    began = time.perf_counter()
    before = row_pass.column(rows, "id")
    reasons = {}
    if isinstance(operator, Deduplicator):
        rows = operator.run(rows, reduce=False)  # with the columns that it compares
        reasons = dict.fromkeys(row_pass.column(rows, "id"), "repeats another text")
        if len(rows):
            rows, _ = operator.process(rows)
    else:
        rows = operator.run(rows)

    after = row_pass.column(rows, "id")
    seconds = time.perf_counter() - began
    account.enter(data_juicer.name_of(operator), before, after, reasons, seconds)
    return rows
