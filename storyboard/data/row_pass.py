"""One pass over the rows in which several operators map or judge each, until one refuses it."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Set

from storyboard.compat import data_juicer
from storyboard.data import operator_errors
from storyboard.data.account import Account
from storyboard.data.judging import Judges
from storyboard.data.measures import limits_of, reason
from storyboard.data.row_judge import HASHES, VERDICT, Verdict
from storyboard.errors import StoryboardError


def takes_single_rows(operator) -> bool:
    """Whether ``operator`` can be part of a pass: all but deduplicators of texts."""
    from data_juicer.ops import Deduplicator

    return not isinstance(operator, Deduplicator) or data_juicer.shares_pictures(operator)


def run(operators: Sequence, first: int, rows, judges: Judges, account: Account):
    """Have ``operators`` map and judge every row; returns the rows (a data set) that are left.

    Args:
        first: Index of the first of ``operators`` in the recipe.

    Raises:
        SettingsError: An operator fails at all rows, lacks a package, or makes several rows of one.
    """
    if not len(rows):
        return rows
    made = _Pass(judges.judge(operators, first, rows), judges, account)
    kept = list(made.verdicts)
    for index, operator in enumerate(operators):
        kept = made.enter(operator, index, kept)
        if not kept:
            break
    ids = set(kept)
    left = rows.select([i for i, row_id in enumerate(made.verdicts) if row_id in ids])
    return _mapped(left, made.verdicts)


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


class _Pass:
    """What the operators of a pass found of all rows, and what they have still to compare.

    Args:
        judged: A data set with the columns ``id``, VERDICT and HASHES.
    """

    def __init__(self, judged, judges: Judges, account: Account) -> None:
        self.judged, self.judges, self.account = judged, judges, account
        self.seconds: list[float] = []  # of each operator
        self.verdicts = dict(self._verdicts())

    def _verdicts(self) -> Iterator[tuple[str, Verdict]]:
        """The verdict of each row, by its id; what is equal in many is held once."""
        names: dict[str, dict] = {}
        statistics = self.account.statistics
        for row in self.judged.select_columns(["id", VERDICT]):
            verdict = Verdict(**json.loads(row[VERDICT]))
            counted = self.seconds or [0.0] * len(verdict.seconds)
            self.seconds = [sum(each) for each in zip(counted, verdict.seconds, strict=True)]
            verdict.seconds = []
            verdict.measured = names.setdefault(str(verdict.measured), verdict.measured)
            verdict.statistics = {sys.intern(k): value for k, value in verdict.statistics.items()}
            known = statistics.get(row["id"])
            statistics[row["id"]] = known | verdict.statistics if known else verdict.statistics
            yield row["id"], verdict

    def enter(self, operator, index: int, ids: Sequence[str]) -> list[str]:
        """Enter what the operator at ``index`` did with the rows ``ids``; returns those it keeps.

        A deduplicator compares the rows here, which no operator before it has refused; a filter
        that looks at the whole set (``model_operators.SetFilter``) judges them here.
        """
        from data_juicer.ops import Deduplicator

        began = time.perf_counter()
        before = {row_id: self.verdicts[row_id] for row_id in ids}
        refused = {row_id: each for row_id, each in before.items() if each.dropped_by == index}
        errors = [verdict.error for verdict in refused.values() if verdict.error]
        if errors and len(errors) == len(before):
            cause = max(errors, key=errors.count)
            raise operator_errors.fails_always(operator, cause, self.account.recipe)

        reasons = {row_id: verdict.reason for row_id, verdict in refused.items()}
        if isinstance(operator, Deduplicator):
            reasons |= self._duplicates(operator, index, before.keys() - reasons.keys())
        if hasattr(operator, "look_at_set"):
            reasons |= _refused_in_set(operator, before)

        kept = [row_id for row_id in before if row_id not in reasons]
        judging = self.seconds[index] / self.judges.workers
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
        self.account.enter(name, list(before), kept, reasons, seconds, note, limits)
        return kept

    def _duplicates(self, operator, index: int, ids: Set[str]) -> dict[str, str]:
        """Those of the rows ``ids`` that the deduplicator ``operator`` refuses, with reasons.

        Raises:
            SettingsError: It fails.
        """
        if not ids:
            return {}
        operator.folder, operator.pairs_of = self.judges.work, self.judges.pairs_of
        try:
            kept, _ = operator.process(self.judges.in_file(self._hashes(index, ids)))
        except StoryboardError:
            raise
        except Exception as error:  # an operator may raise anything
            cause = data_juicer.message_of(error)
            raise operator_errors.fails_always(operator, cause, self.account.recipe) from error

        # Data-Juicer's own deduplicators do not say which
        repeated = getattr(operator, "repeats", {})
        return {
            row_id: f"repeats {repeated.get(row_id, 'another picture')}"
            for row_id in ids - set(column(kept, "id"))
        }

    def _hashes(self, index: int, ids: Set[str]) -> Iterator[dict]:
        """What the deduplicator at ``index`` compares of the rows ``ids``, in their order."""
        for row in self.judged.select_columns(["id", HASHES]):
            if row["id"] in ids:
                yield {"id": row["id"]} | json.loads(row[HASHES])[str(index)]


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


def column(rows, name: str) -> list:
    """All values of a column of a data set, whose columns are gone where it has no rows.

    Iterated over, a column would be read row by row.
    """
    return rows[name][:] if len(rows) else []
