"""Stage 2, clean: Data-Juicer runs a recipe over the captions, and every row is accounted for."""

import contextlib
import difflib
import inspect
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import artifacts, show
from .dataset import Captions, digest_of, read_text
from .errors import DatasetError, SettingsError
from .settings import Settings

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
PACKAGES = ("py-data-juicer", "datasets", "pillow")
ROWS_PER_PROCESS = 1000  # below this a second process costs more than it saves


@dataclass(frozen=True)
class CleaningReport:
    """What each operator did, and the captions that are left.

    Attributes:
        captions: What was kept.
        total: Rows that came in, unreadable ones included: ``total == kept + dropped + unreadable``.
        operators: ``{"operator", "kept", "dropped", "seconds"}`` in the recipe's order.
        dropped: ``{"id", "text", "image", "operator", "reason"}`` a row.
        unreadable: ``{"source", "reason"}`` a row.
        statistics: Everything measured of a row, by its id.
        origin: Folder of the collected pictures.
    """

    captions: Captions
    total: int
    operators: list[dict]
    dropped: list[dict]
    unreadable: list[dict]
    statistics: dict[str, dict] = field(repr=False)
    origin: Path = field(repr=False)

    def __str__(self) -> str:
        lines = [f"clean: kept {len(self.captions)} of {self.total} pictures, dropped {len(self.dropped)}, unreadable {len(self.unreadable)}"]
        return "\n".join(lines + [f"  {o['operator']:<28} kept {o['kept']:>6}  dropped {o['dropped']:>5}" for o in self.operators])

    def _repr_html_(self) -> str:
        return show.cleaning(self)


def read_recipe(name: str) -> tuple[Path, list[dict]]:
    """The operators of a recipe in ``recipes/`` or at a path, as ``[{operator: {parameter: value}}]``.

    Raises:
        SettingsError: No such recipe, or one that is not a Data-Juicer recipe.
    """
    import yaml

    path = next((p for p in (RECIPES / f"{name}.yaml", Path(name).expanduser()) if p.is_file()), None)
    if path is None:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise SettingsError(f"There is no recipe {name!r}: set recipe to one of {known}, or to the path of a YAML file.")
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    process = content.get("process") if isinstance(content, dict) else None
    if not isinstance(process, list) or not process or not all(isinstance(op, dict) and len(op) == 1 for op in process):
        raise SettingsError(f"{path} needs a list called process, each entry one operator with its parameters, as in recipes/sample.yaml.")
    return path, [{name: parameters or {} for name, parameters in op.items()} for op in process]


def clean(captions: Captions, settings: Settings) -> CleaningReport:
    """Run the recipe of ``settings`` over ``captions`` into ``<output>/cleaned``.

    Raises:
        SettingsError: The recipe is missing, names an unknown operator or gives it a parameter it does not take.
        DatasetError: Nothing is left; says which operator dropped how many.
    """
    target = settings.folder / "cleaned"
    path, process = read_recipe(settings.recipe)
    mark = artifacts.fingerprint(stage="clean", captions=captions.digest, unreadable=captions.unreadable, process=process, versions=artifacts.versions(*PACKAGES))
    if manifest := artifacts.finished(target, mark):
        report = _load(manifest, captions, target)
        print(f"clean: nothing to do, kept {len(report.captions)} of {report.total} pictures")
        return report
    with _data_juicer() as load_ops, tempfile.TemporaryDirectory() as work:
        kept, operators, dropped, statistics = _run(captions, _instantiate(load_ops, process, path, len(captions)), Path(work))
    if len(kept) + len(dropped) != len(captions):
        raise DatasetError(f"Data-Juicer lost {len(captions) - len(kept) - len(dropped)} of {len(captions)} rows without a reason: run it with fewer operators to find the one.")
    if not kept:
        worst = max(operators, key=lambda o: o["dropped"])
        raise DatasetError(f"The recipe {path.name} drops all {len(captions)} pictures, {worst['dropped']} of them by {worst['operator']}: loosen its parameters in {path}.")
    with artifacts.building(target) as folder:
        digest = _write(captions, kept, folder)
        artifacts.write_json(folder / "statistics.json", statistics)
        manifest = artifacts.write_manifest(
            folder, "clean", mark, digest=digest, total=len(captions) + len(captions.unreadable), operators=operators, dropped=dropped, unreadable=captions.unreadable,
        )
    report = _load(manifest, captions, target)
    show.tell(report)
    return report


def _load(manifest: dict, captions: Captions, folder: Path) -> CleaningReport:
    statistics = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    return CleaningReport(Captions.load(folder), manifest["total"], manifest["operators"], manifest["dropped"], manifest["unreadable"], statistics, captions.folder)


@contextlib.contextmanager
def _data_juicer() -> Iterator:
    """Import Data-Juicer so that it installs nothing, asks no hub and leaves Pillow as strict as it was."""
    from PIL import ImageFile

    strict = ImageFile.LOAD_TRUNCATED_IMAGES
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.getLogger("ray").setLevel(logging.WARNING)
        import data_juicer.core  # noqa: F401  (imports ray)
        import datasets
        import huggingface_hub.constants
        from data_juicer.ops import load_ops
        from data_juicer.utils.lazy_loader import LazyLoader

        from . import operators  # noqa: F401  (registers ours)
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


def _refuse_to_install(cls, specification, *_):
    raise SettingsError(f"The recipe has an operator that needs {specification}: install it (pip install {specification}) or take the operator out.")


def _quieten() -> None:
    from loguru import logger

    logger.remove()
    # an unreadable row is in the report; only what ends the run matters here
    logger.add(lambda message: print(message, end=""), level="CRITICAL", format="{message}")


def _instantiate(load_ops, process: list[dict], path: Path, rows: int) -> list:
    """Data-Juicer's operators, one row at a time: an exception would otherwise empty the whole batch it is in."""
    from data_juicer.ops import Deduplicator, Filter, Mapper
    from data_juicer.ops.base_op import OP, OPERATORS

    workers = min(os.cpu_count() or 1, 1 + rows // ROWS_PER_PROCESS)
    made = []
    for entry in process:
        (name, parameters), = entry.items()
        if name not in OPERATORS.modules:
            near = difflib.get_close_matches(name, OPERATORS.modules, 1)
            raise SettingsError(f"{path} names the operator {name!r}, which Data-Juicer does not have" + (f": did you mean {near[0]!r}?" if near else "."))
        operator = OPERATORS.modules[name]
        if not issubclass(operator, (Filter, Deduplicator, Mapper)):
            raise SettingsError(f"{path} names {name}, which neither filters, deduplicates nor maps single rows: take it out.")
        taken = {parameter for cls in operator.__mro__ if cls is not object for parameter in inspect.signature(cls.__init__).parameters} | OP._BASE_PARAMS.keys()
        if strange := parameters.keys() - taken:
            raise SettingsError(f"{path} gives {name} the parameter {min(strange)!r}, which it does not take: it takes {', '.join(sorted(inspect.signature(operator.__init__).parameters.keys() - {'self', 'args', 'kwargs'}))}.")
        try:
            made += load_ops([{name: {**parameters, "num_proc": workers, "batch_size": 1, "skip_op_error": True}}])
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{path} gives {name} parameters that it does not take: {error}") from error
    return made


def _run(captions: Captions, operators: list, work: Path) -> tuple[dict[str, str], list[dict], list[dict], dict]:
    """Every operator in turn -> kept ids with their captions, counts per operator, dropped rows with reasons, statistics per row."""
    import time

    import datasets
    from data_juicer.core.data import NestedDataset
    from data_juicer.ops import Deduplicator, Filter
    from data_juicer.utils.constant import Fields

    source = work / "captions.jsonl"
    with open(source, "w", encoding="utf-8") as lines:
        for row in captions.rows:
            lines.write(json.dumps({"id": row["id"], "text": row["text"], "images": [str(captions.path(row).resolve())]}, ensure_ascii=False) + "\n")
    by_id = {row["id"]: row for row in captions.rows}
    data = NestedDataset(datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(work)))
    counts, dropped, statistics, known = [], [], {}, set()
    for op in operators:
        began, before = time.perf_counter(), list(data["id"])
        measured = op.run(data, reduce=False) if isinstance(op, (Filter, Deduplicator)) else op.run(data)
        if Fields.stats in measured.column_names:
            for row_id, values in zip(measured["id"], measured[Fields.stats]):
                statistics[row_id] = {key: _plain(value) for key, value in values.items() if value is not None}
        every = {key for values in statistics.values() for key in values}
        is_filter = isinstance(op, Filter)
        new, known = (every - known or every) if is_filter else set(), every  # what an earlier one has measured shows all
        readable = set(measured["id"]) if len(measured) else set()
        if isinstance(op, Deduplicator):
            data = op.process(measured)[0] if len(measured) else measured
        else:
            data = op.run(measured) if is_filter and len(measured) else measured
        left = set(data["id"]) if len(data) else set()
        if len(left) != len(data):
            raise SettingsError(f"The recipe's {op._name} makes several rows of one, which would count a picture more than once: take it out.")
        for row_id in before:
            if row_id not in left:
                row = by_id[row_id]
                found = {key: value for key, value in statistics.get(row_id, {}).items() if key in new}
                reason = _reason(op, row_id, found) if row_id in readable else "could not be measured: the picture may be broken"
                dropped.append({"id": row_id, "text": row["text"], "image": row["images"][0], "operator": op._name, "reason": reason})
        counts.append({"operator": op._name, "kept": len(left), "dropped": len(before) - len(left), "seconds": round(time.perf_counter() - began, 2)})
        if not left:
            break
    return dict(zip(data["id"], data["text"])) if len(data) else {}, counts, dropped, statistics


def _plain(value):
    """One number for the one picture of a row."""
    if isinstance(value, (list, tuple)):
        value = value[0] if len(value) == 1 else list(value)
    return round(value, 4) if isinstance(value, float) else value


def _reason(op, row_id: str, measured: dict) -> str:
    """What the operator measured of the row beside what the recipe asks."""
    if row_id in getattr(op, "repeats", {}):
        return f"repeats {op.repeats[row_id]}"
    if not measured:
        return "repeats another picture"  # Data-Juicer's own deduplicators do not say which
    asked = {k: v for k, v in op._init_kwargs.items() if k.split("_")[0] in ("min", "max")}
    listed = lambda facts: ", ".join(f"{key} {value}" for key, value in facts.items())
    return f"{listed(measured)} ({listed(asked)})"


def _write(captions: Captions, kept: dict[str, str], folder: Path) -> str:
    """Kept pictures (hard links where the disk allows), ``metadata.jsonl`` and ``metadata.csv``; returns the digest."""
    import csv

    rows = [row | {"text": kept[row["id"]]} for row in captions.rows if row["id"] in kept]
    (folder / "images").mkdir()
    for row in rows:
        source, place = captions.path(row), folder / row["images"][0]
        try:
            os.link(source, place)
        except OSError:
            shutil.copyfile(source, place)
    artifacts.write_atomically(folder / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["image", "prompt"])
        table.writerows([row["images"][0], row["text"]] for row in rows)
    return digest_of(folder, rows)
