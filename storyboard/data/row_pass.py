"""One pass over the rows in which several operators judge each, until one refuses it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from storyboard.compat import data_juicer
from storyboard.data.account import UNMEASURED, Account
from storyboard.errors import StoryboardError

VERDICT = "verdict"  # the column that a pass adds
KEPT = -1


@dataclass
class Verdict:
    """What the operators of a pass found of one row.

    Attributes:
        dropped_by: Index of the operator that refused it, or KEPT.
        reason: Why it was refused.
        statistics: What the filters measured.
        hashes: What deduplicators compare, by the index of the operator, as text for JSON.
        seconds: Of each operator.
    """

    dropped_by: int = KEPT
    reason: str = ""
    statistics: dict[str, object] = field(default_factory=dict)
    hashes: dict[str, dict] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


def judges_single_rows(operator) -> bool:
    """Whether ``operator`` can be part of a pass: a filter, or a deduplicator of pictures."""
    from data_juicer.ops import Deduplicator, Filter

    if isinstance(operator, Deduplicator):
        return data_juicer.shares_pictures(operator)
    return isinstance(operator, Filter)


def run(operators: Sequence, rows, workers: int, account: Account):
    """Judge every row by ``operators``; returns the rows (a data set) that none refuses."""
    if not len(rows):
        return rows
    judged = rows.map(
        JudgeRow(operators),
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
    return rows.select([i for i, row_id in enumerate(verdicts) if row_id in ids])


def _enter(
    operator, index: int, before: Mapping[str, Verdict], workers: int, account: Account
) -> list[str]:
    """Enter what the operator at ``index`` did with the rows ``before``; returns the ids it keeps.

    A deduplicator compares the rows here, which no operator before it has refused.
    """
    from data_juicer.ops import Deduplicator

    began = time.perf_counter()
    reasons = {
        row_id: verdict.reason for row_id, verdict in before.items() if verdict.dropped_by == index
    }
    if isinstance(operator, Deduplicator):
        hashes = {
            row_id: verdict.hashes[str(index)]
            for row_id, verdict in before.items()
            if row_id not in reasons
        }
        reasons |= _duplicates(operator, hashes)

    kept = [row_id for row_id in before if row_id not in reasons]
    judging = sum(verdict.seconds[index] for verdict in before.values()) / workers
    seconds = time.perf_counter() - began + judging
    account.enter(data_juicer.name_of(operator), list(before), kept, reasons, seconds)
    return kept


def _duplicates(operator, hashes: Mapping[str, dict]) -> dict[str, str]:
    """Ids of the rows that the deduplicator ``operator`` refuses, with reasons."""
    import datasets

    if not hashes:
        return {}
    names = next(iter(hashes.values()))
    columns = {name: [row[name] for row in hashes.values()] for name in names}
    kept, _ = operator.process(datasets.Dataset.from_dict({"id": list(hashes)} | columns))

    kept_ids = set(column(kept, "id"))
    repeated = getattr(operator, "repeats", {})  # Data-Juicer's own deduplicators do not say which
    return {
        row_id: f"repeats {repeated.get(row_id, 'another picture')}"
        for row_id in hashes
        if row_id not in kept_ids
    }


class JudgeRow:
    """Called with a row: every operator measures and judges it, until one refuses it.

    Returns the verdict as JSON in a column. Pickled where there are several processes.
    """

    def __init__(self, operators: Sequence) -> None:
        self.operators = operators

    def __call__(self, row) -> dict[str, str]:
        from data_juicer.utils.constant import Fields

        row = {
            "id": row["id"],
            "text": row["text"],
            "images": list(row["images"]),
            Fields.stats: {},
            Fields.context: {},
        }
        verdict = Verdict(seconds=[0.0] * len(self.operators))
        for index, operator in enumerate(self.operators):
            began = time.perf_counter()
            try:
                row, kept = self._judge(operator, index, row, verdict)
            except StoryboardError:
                raise
            except Exception as error:  # an operator may raise anything: this row is dropped
                kept = False
                verdict.reason = f"{UNMEASURED} ({' '.join(str(error).split())})"
            verdict.seconds[index] = time.perf_counter() - began
            if not kept:
                verdict.dropped_by = index
                break

        verdict.statistics = _plain_statistics(row[Fields.stats])
        return {VERDICT: json.dumps(asdict(verdict))}

    def _judge(self, operator, index: int, row: dict, verdict: Verdict) -> tuple[dict, bool]:
        """``row`` with what ``operator`` measured, and whether the operator keeps it."""
        from data_juicer.ops import Filter
        from data_juicer.utils.constant import Fields

        if not isinstance(operator, Filter):
            names = set(row)
            row = data_juicer.compute_hash(operator, row)
            verdict.hashes[str(index)] = {name: row.pop(name) for name in set(row) - names}
            return row, True

        known = set(row[Fields.stats])
        row, kept = data_juicer.measure_and_filter(operator, row)
        if not kept:
            statistics = {key: _plain(value) for key, value in row[Fields.stats].items()}
            new = {key: value for key, value in statistics.items() if key not in known}
            verdict.reason = _reason(operator, new or statistics)
        return row, kept


def _plain_statistics(statistics: Mapping[str, object]) -> dict[str, object]:
    return {key: _plain(value) for key, value in statistics.items() if value is not None}


def _plain(value):
    """A measured value as a number or a list for JSON; one number for the one picture of a row."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        value = _plain(value[0]) if len(value) == 1 else [_plain(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def _reason(operator, measured: Mapping[str, object]) -> str:
    """What ``operator`` measured of a row, and the limits that the recipe sets."""
    limits = {
        key: value
        for key, value in data_juicer.arguments_of(operator).items()
        if key.startswith(("min_", "max_"))
    }
    return f"{_listed(measured)} ({_listed(limits)})"


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def column(rows, name: str) -> list:
    """All values of a column of a data set, whose columns are gone where it has no rows.

    Iterated over, a column would be read row by row.
    """
    return rows[name][:] if len(rows) else []
