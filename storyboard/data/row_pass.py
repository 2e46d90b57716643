"""One pass over the rows in which several operators map or judge each, until one refuses it."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from storyboard.compat import data_juicer
from storyboard.data import operator_errors
from storyboard.data.account import Account
from storyboard.data.row_judge import VERDICT, JudgeRow, Verdict, limits_of, reason


def takes_single_rows(operator) -> bool:
    """Whether ``operator`` can be part of a pass: all but deduplicators of texts."""
    from data_juicer.ops import Deduplicator

    return not isinstance(operator, Deduplicator) or data_juicer.shares_pictures(operator)


def run(operators: Sequence, rows, workers: int, account: Account, folder: Path):
    """Have ``operators`` map and judge every row; returns the rows (a data set) that are left.

    Args:
        folder: Where pictures that mappers make are written.

    Raises:
        SettingsError: An operator fails at all rows, lacks a package, or makes several rows of one.
    """
    if not len(rows):
        return rows
    judged = rows.map(
        JudgeRow(operators, folder, account.recipe),
        num_proc=workers if workers > 1 else None,
        remove_columns=[name for name in rows.column_names if name != "id"],
    )
    verdicts = {
        row_id: Verdict(**json.loads(verdict))
        for row_id, verdict in zip(column(judged, "id"), column(judged, VERDICT), strict=True)
    }
    for row_id, verdict in verdicts.items():
        account.statistics.setdefault(row_id, {}).update(verdict.statistics)

    kept = list(verdicts)
    for index, operator in enumerate(operators):
        before = {row_id: verdicts[row_id] for row_id in kept}
        kept = _enter(operator, index, before, workers, account)
        if not kept:
            break
    ids = set(kept)
    left = rows.select([i for i, row_id in enumerate(verdicts) if row_id in ids])
    return _mapped(left, verdicts)


def _mapped(rows, verdicts: Mapping[str, Verdict]):
    """``rows`` with the captions and pictures that mappers made."""
    import datasets

    if all(verdict.text is None for verdict in verdicts.values()):
        return rows
    ids, texts, images = (column(rows, name) for name in ("id", "text", "images"))
    for i, row_id in enumerate(ids):
        verdict = verdicts[row_id]
        texts[i] = texts[i] if verdict.text is None else verdict.text
        images[i] = [verdict.picture] if verdict.picture else images[i]
    return datasets.Dataset.from_dict({"id": ids, "text": texts, "images": images})


def _enter(
    operator, index: int, before: Mapping[str, Verdict], workers: int, account: Account
) -> list[str]:
    """Enter what the operator at ``index`` did with the rows ``before``; returns the ids it keeps.

    A deduplicator compares the rows here, which no operator before it has refused; a filter that
    looks at the whole set (``model_operators.SetFilter``) judges them here.
    """
    from data_juicer.ops import Deduplicator

    began = time.perf_counter()
    refused = {row_id: each for row_id, each in before.items() if each.dropped_by == index}
    errors = [verdict.error for verdict in refused.values() if verdict.error]
    if errors and len(errors) == len(before):
        cause = max(errors, key=errors.count)
        raise operator_errors.fails_always(operator, cause, account.recipe)

    reasons = {row_id: verdict.reason for row_id, verdict in refused.items()}
    if isinstance(operator, Deduplicator):
        hashes = {
            row_id: verdict.hashes[str(index)]
            for row_id, verdict in before.items()
            if row_id not in reasons
        }
        reasons |= _duplicates(operator, hashes, account.recipe)
    if hasattr(operator, "look_at_set"):
        reasons |= _refused_in_set(operator, before)

    kept = [row_id for row_id in before if row_id not in reasons]
    judging = sum(verdict.seconds[index] for verdict in before.values()) / workers
    seconds = time.perf_counter() - began + judging
    note = getattr(operator, "note", "")
    measured = list(
        dict.fromkeys(
            name for verdict in before.values() for name in verdict.measured.get(str(index), [])
        )
    )
    is_of_set = hasattr(operator, "look_at_set")
    limits = operator.limits() if is_of_set else limits_of(operator, measured)
    name = data_juicer.name_of(operator)
    account.enter(name, list(before), kept, reasons, seconds, note, limits)
    return kept


def _refused_in_set(operator, before: Mapping[str, Verdict]) -> dict[str, str]:
    """Ids of the rows that ``operator`` refuses after a look at all of ``before``, with reasons."""
    from data_juicer.utils.constant import Fields

    measured = {row_id: each.statistics for row_id, each in before.items() if not each.error}
    operator.look_at_set(list(measured.values()))
    return {
        row_id: reason(operator, {name: statistics[name] for name in operator.MEASURES})
        for row_id, statistics in measured.items()
        if not operator.process_single({Fields.stats: statistics})
    }


def _duplicates(operator, hashes: Mapping[str, dict], recipe: Path) -> dict[str, str]:
    """Ids of the rows that the deduplicator ``operator`` refuses, with reasons.

    Raises:
        SettingsError: It fails.
    """
    import datasets

    if not hashes:
        return {}
    names = next(iter(hashes.values()))
    columns = {name: [row[name] for row in hashes.values()] for name in names}
    rows = datasets.Dataset.from_dict({"id": list(hashes)} | columns)
    try:
        kept, _ = operator.process(rows)
    except Exception as error:  # an operator may raise anything
        cause = data_juicer.message_of(error)
        raise operator_errors.fails_always(operator, cause, recipe) from error

    kept_ids = set(column(kept, "id"))
    repeated = getattr(operator, "repeats", {})  # Data-Juicer's own deduplicators do not say which
    return {
        row_id: f"repeats {repeated.get(row_id, 'another picture')}"
        for row_id in hashes
        if row_id not in kept_ids
    }


def column(rows, name: str) -> list:
    """All values of a column of a data set, whose columns are gone where it has no rows.

    Iterated over, a column would be read row by row.
    """
    return rows[name][:] if len(rows) else []
