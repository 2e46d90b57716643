"""Data-Juicer's operators over captions: every row accounted for, every picture decoded once.

Data-Juicer itself runs one operator after another over the whole set, and each decodes every picture anew. Here all
operators look at a row in turn and share the decoded picture by Data-Juicer's own ``context``; the row leaves at the
first filter that refuses it.
"""

import contextlib
import difflib
import functools
import importlib.util
import inspect
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from storyboard.data.collecting import Captions
from storyboard.errors import SettingsError, StoryboardError

ROWS_PER_PROCESS = 1000  # below this a second process costs more than it saves
UNMEASURED = "could not be measured: the picture may be broken"


def run(
    captions: Captions, process: list[dict], path: Path
) -> tuple[dict[str, str], list[dict], list[dict], dict]:
    """Run the recipe ``process``, read from ``path``.

    Returns:
        Kept ids with their captions; what each operator kept and dropped; dropped rows with reasons; statistics by id.

    Raises:
        SettingsError: An operator is unknown, cannot be used here, or is given a parameter it does not take.
    """
    with data_juicer() as load_ops, tempfile.TemporaryDirectory() as work:
        workers = min(os.cpu_count() or 1, 1 + len(captions) // ROWS_PER_PROCESS)
        return _run(captions, _instantiate(load_ops, process, path, workers), workers, Path(work))


@contextlib.contextmanager
def data_juicer() -> Iterator:
    """Import Data-Juicer so that it installs nothing, asks no hub and leaves Pillow as strict as it was."""
    from PIL import ImageFile

    strict = ImageFile.LOAD_TRUNCATED_IMAGES
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        _put_off_executors()
        import datasets
        import huggingface_hub.constants
        from data_juicer.ops import load_ops
        from data_juicer.utils.lazy_loader import LazyLoader

        from storyboard.data import operators  # noqa: F401  (registers ours)
    LazyLoader._install_package = classmethod(_refuse_to_install)
    _quieten()
    datasets.disable_progress_bars()
    # loading a local file would otherwise ask a hub to count it; by the environment it could not be undone
    holders = (datasets.config, huggingface_hub.constants)
    offline = [holder.HF_HUB_OFFLINE for holder in holders]
    try:
        for holder in holders:
            holder.HF_HUB_OFFLINE = True
        yield load_ops
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = strict
        for holder, value in zip(holders, offline):
            holder.HF_HUB_OFFLINE = value


def _put_off_executors() -> None:
    """Have ``data_juicer.core`` run its ``__init__`` when something there is first asked for, not when an operator is made.

    It imports all executors, and ray for one of them: more than half of the time that all imports of Data-Juicer take.
    Operators and their pickles import ``data_juicer.core.data`` alone.
    """
    import data_juicer

    name = "data_juicer.core"
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    package = data_juicer.core = sys.modules[name] = importlib.util.module_from_spec(spec)

    def get(attribute: str):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        del package.__getattr__
        spec.loader.exec_module(package)
        return getattr(package, attribute)

    package.__getattr__ = get


def _refuse_to_install(cls, specification, *_):
    raise SettingsError(
        f"The recipe has an operator that needs {specification}: install it (pip install {specification}) or take the operator out."
    )


def _quieten() -> None:
    from loguru import logger

    logger.remove()
    # an unreadable row is in the report; only what ends the run matters here
    logger.add(lambda message: print(message, end=""), level="CRITICAL", format="{message}")


def _instantiate(load_ops, process: list[dict], path: Path, workers: int) -> list:
    """Data-Juicer's operators, one row at a time: an exception would otherwise empty the whole batch it is in."""
    from data_juicer.ops import Deduplicator, Filter, Mapper
    from data_juicer.ops.base_op import OP, OPERATORS

    made = []
    for entry in process:
        ((name, parameters),) = entry.items()
        if name not in OPERATORS.modules:
            near = difflib.get_close_matches(name, OPERATORS.modules, 1)
            raise SettingsError(
                f"{path} names the operator {name!r}, which Data-Juicer does not have"
                + (f": did you mean {near[0]!r}?" if near else ".")
            )
        operator = OPERATORS.modules[name]
        if not issubclass(operator, (Filter, Deduplicator, Mapper)):
            raise SettingsError(
                f"{path} names {name}, which neither filters, deduplicates nor maps single rows: take it out."
            )
        taken = {
            parameter
            for cls in operator.__mro__
            if cls is not object
            for parameter in inspect.signature(cls.__init__).parameters
        } | OP._BASE_PARAMS.keys()
        if strange := parameters.keys() - taken:
            raise SettingsError(
                f"{path} gives {name} the parameter {min(strange)!r}, which it does not take: it takes {', '.join(sorted(inspect.signature(operator.__init__).parameters.keys() - {'self', 'args', 'kwargs'}))}."
            )
        try:
            made += load_ops(
                [
                    {
                        name: {
                            **parameters,
                            "num_proc": workers,
                            "batch_size": 1,
                            "skip_op_error": True,
                        }
                    }
                ]
            )
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"{path} gives {name} parameters that it does not take: {error}"
            ) from error
    return made


def _run(
    captions: Captions, operators: list, workers: int, work: Path
) -> tuple[dict[str, str], list[dict], list[dict], dict]:
    import datasets

    source = work / "captions.jsonl"
    with open(source, "w", encoding="utf-8") as lines:
        for row in captions.rows:
            lines.write(
                json.dumps(
                    {
                        "id": row["id"],
                        "text": row["text"],
                        "images": [str(captions.path(row).resolve())],
                    },
                    ensure_ascii=False,
                )
                + "\n"
            )
    data = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(work))
    book = _Book({row["id"]: row for row in captions.rows})
    for together, group in groupby(operators, _looks):
        for part in [list(group)] if together else [[op] for op in group]:
            if len(data):
                data = _look(part, data, workers, book) if together else _apply(part[0], data, book)
    return (
        dict(zip(_column(data, "id"), _column(data, "text"))),
        book.counts,
        book.dropped,
        book.statistics,
    )


def _column(data, name: str) -> list:
    """All values at once: iterated, a column is read row by row. A set without rows may have lost its columns."""
    return data[name][:] if len(data) else []


class _Book:
    """What became of every row."""

    def __init__(self, rows: dict[str, dict]) -> None:
        self.rows, self.counts, self.dropped, self.statistics = rows, [], [], {}

    def enter(
        self, op, before: list[str], after: list[str], reasons: dict[str, str], seconds: float
    ) -> None:
        """``op`` was given ``before`` and left ``after``."""
        left = set(after)
        if len(left) != len(after):
            raise SettingsError(
                f"The recipe's {op._name} makes several rows of one, which would count a picture more than once: take it out."
            )
        for row_id in before:
            if row_id not in left:
                row = self.rows[row_id]
                self.dropped.append(
                    {
                        "id": row_id,
                        "text": row["text"],
                        "image": row["images"][0],
                        "operator": op._name,
                        "reason": reasons.get(row_id, UNMEASURED),
                    }
                )
        self.counts.append(
            {
                "operator": op._name,
                "kept": len(left),
                "dropped": len(before) - len(left),
                "seconds": round(seconds, 2),
            }
        )


def _looks(op) -> bool:
    """Whether ``op`` judges single rows, or hashes pictures, and so can share a look at them."""
    from data_juicer.ops import Deduplicator, Filter

    return isinstance(op, Filter) or (
        isinstance(op, Deduplicator) and bool(_sharing(type(op).compute_hash))
    )


@functools.cache  # asked for each row
def _sharing(method) -> dict[str, bool]:
    """The argument by which an operator's ``method`` shares decoded pictures, if it can."""
    return {"context": True} if "context" in inspect.signature(method).parameters else {}


def _apply(op, data, book: _Book):
    """Run a mapper, or a deduplicator of texts, as Data-Juicer does."""
    from data_juicer.ops import Deduplicator

    began, before = time.perf_counter(), _column(data, "id")
    if isinstance(op, Deduplicator):
        hashed = op.run(data, reduce=False)
        reasons = dict.fromkeys(_column(hashed, "id"), "repeats another text")
        data = op.process(hashed)[0] if len(hashed) else hashed
    else:
        data, reasons = op.run(data), {}
    book.enter(op, before, _column(data, "id"), reasons, time.perf_counter() - began)
    return data


def _look(operators: list, data, workers: int, book: _Book):
    """Let ``operators`` look at every row, one row after another, then take out what each refuses."""
    from data_juicer.ops import Deduplicator

    looked = data.map(
        _Look(operators),
        num_proc=workers if workers > 1 else None,
        remove_columns=[name for name in data.column_names if name != "id"],
    )
    seen = {
        row_id: json.loads(found)
        for row_id, found in zip(_column(looked, "id"), _column(looked, "seen"))
    }
    for row_id, found in seen.items():
        book.statistics.setdefault(row_id, {}).update(found["statistics"])
    left = list(seen)
    for place, op in enumerate(operators):
        began, before = time.perf_counter(), left
        reasons = {
            row_id: seen[row_id]["reason"] for row_id in before if seen[row_id]["left_at"] == place
        }
        if isinstance(op, Deduplicator):
            reasons |= _repeats(
                op,
                {
                    row_id: seen[row_id]["hashes"][str(place)]
                    for row_id in before
                    if row_id not in reasons
                },
            )
        left = [row_id for row_id in before if row_id not in reasons]
        looking = sum(found["seconds"][place] for found in seen.values()) / workers
        book.enter(op, before, left, reasons, time.perf_counter() - began + looking)
        if not left:
            break
    stay = set(left)
    return data.select([i for i, row_id in enumerate(seen) if row_id in stay])


def _repeats(op, hashes: dict[str, dict]) -> dict[str, str]:
    """Rows that the deduplicator ``op`` refuses, with reasons."""
    import datasets

    if not hashes:
        return {}
    names = next(iter(hashes.values()))
    hashed = datasets.Dataset.from_dict(
        {"id": list(hashes)} | {name: [found[name] for found in hashes.values()] for name in names}
    )
    left = set(_column(op.process(hashed)[0], "id"))
    named = getattr(op, "repeats", {})  # Data-Juicer's own deduplicators do not say which
    return {
        row_id: f"repeats {named.get(row_id, 'another picture')}"
        for row_id in hashes
        if row_id not in left
    }


class _Look:
    """Called with a row: every operator measures it and judges it, until one refuses it.

    Returns the row's ``seen``, a JSON of: place of the operator that refused it (-1: none), its reason, statistics,
    hashes by the place of their deduplicator, seconds of each operator.
    """

    def __init__(self, operators: list) -> None:
        self.operators = operators

    def __call__(self, row) -> dict[str, str]:
        from data_juicer.ops import Filter
        from data_juicer.utils.constant import Fields

        row = {
            "id": row["id"],
            "text": row["text"],
            "images": list(row["images"]),
            Fields.stats: {},
            Fields.context: {},
        }
        seen = {
            "left_at": -1,
            "reason": "",
            "statistics": {},
            "hashes": {},
            "seconds": [0.0] * len(self.operators),
        }
        for place, op in enumerate(self.operators):
            began, known = time.perf_counter(), set(row[Fields.stats])
            try:
                if isinstance(op, Filter):
                    row, kept = _judge(op, row)
                    if not kept:
                        facts = {key: _plain(value) for key, value in row[Fields.stats].items()}
                        seen["reason"] = _reason(
                            op,
                            {key: value for key, value in facts.items() if key not in known}
                            or facts,
                        )
                else:
                    kept, columns = True, set(row)
                    row = type(op).compute_hash(op, row, context=True)
                    seen["hashes"][place] = {name: row.pop(name) for name in set(row) - columns}
            except StoryboardError:
                raise
            except Exception as error:  # an operator may raise anything, and costs its own row only
                kept, seen["reason"] = False, f"{UNMEASURED} ({' '.join(str(error).split())})"
            seen["seconds"][place] = time.perf_counter() - began
            if not kept:
                seen["left_at"] = place
                break
        seen["statistics"] = {
            key: _plain(value) for key, value in row[Fields.stats].items() if value is not None
        }
        return {"seen": json.dumps(seen)}


def _judge(op, row: dict) -> tuple[dict, bool]:
    """Measure and judge one row by a filter -> the row with its statistics, whether it stays."""
    from data_juicer.ops import Filter

    if (
        type(op).compute_stats_batched is not Filter.compute_stats_batched
    ):  # that one only calls compute_stats_single, and hides its context
        batch = {key: [value] for key, value in row.items()}
        batch = op.compute_stats_batched(batch, **_sharing(type(op).compute_stats_batched))
        return {key: values[0] for key, values in batch.items()}, bool(
            next(iter(op.process_batched(batch)))
        )
    row = op.compute_stats_single(row, **_sharing(type(op).compute_stats_single))
    return row, bool(op.process_single(row))


def _plain(value):
    """One number for the one picture of a row."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        value = _plain(value[0]) if len(value) == 1 else [_plain(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def _reason(op, measured: dict) -> str:
    """What the operator measured of a row beside what the recipe asks."""
    asked = {
        key: value for key, value in op._init_kwargs.items() if key.split("_")[0] in ("min", "max")
    }
    listed = lambda facts: ", ".join(f"{key} {value}" for key, value in facts.items())
    return f"{listed(measured)} ({listed(asked)})"
