"""Stage 2, clean: Data-Juicer runs a recipe over the captions, and every row is accounted for."""

import html
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from storyboard import artifacts, charts, cluster, resources, show, stages
from storyboard.data import edits, juicer, operator_list, recipes, writing
from storyboard.data.account import Account, DroppedRow, OperatorCount
from storyboard.data.captions import Captions, UnreadablePicture
from storyboard.data.recipes import Recipe
from storyboard.errors import DatasetError
from storyboard.settings import Settings

PACKAGES = ("py-data-juicer", "datasets", "pillow")
STATISTICS = "statistics.json"
MAPPED = "mapped"  # folder of pictures that mappers make, until they are moved to the others
DROPPED_SHOWN = 24  # pictures
BAR_WIDTH = 300  # pixels


@dataclass(frozen=True)
class CleaningReport:
    """What each operator did, and the captions that are left.

    Attributes:
        captions: What was kept.
        total: Rows that came in, unreadable ones included:
            ``total == kept + dropped + unreadable``.
        operators: In the recipe's order.
        dropped: Each with its reason.
        unreadable: What ``collect`` left out, and what ``edits.csv`` takes out.
        statistics: Everything measured of a row, by its id.
        origin: Folder of the collected pictures.
    """

    captions: Captions
    total: int
    operators: list[OperatorCount]
    dropped: list[DroppedRow]
    unreadable: list[UnreadablePicture]
    statistics: dict[str, dict] = field(repr=False)
    origin: Path = field(repr=False)

    def __str__(self) -> str:
        heading = (
            f"clean: kept {len(self.captions)} of {self.total} pictures, "
            f"dropped {len(self.dropped)}, left out before {len(self.unreadable)}"
        )
        counts = [
            f"  {count.operator:<28} kept {count.kept:>6}  dropped {count.dropped:>5}"
            for count in self.operators
        ]
        return "\n".join([heading, *counts, *self._notes(), *self._failures()])

    def _notes(self) -> list[str]:
        """A line for each operator that did not judge all."""
        return [f"  {count.operator} {count.note}" for count in self.operators if count.note]

    def _failures(self) -> list[str]:
        """A line for each operator that failed at rows, with its first error."""
        lines = []
        for operator in dict.fromkeys(row.operator for row in self.dropped if row.failed):
            rows = [row for row in self.dropped if row.failed and row.operator == operator]
            lines.append(f"  {operator} failed at {len(rows)} pictures: {rows[0].reason}")
        return lines

    def _repr_html_(self) -> str:
        collected = self.total - len(self.unreadable)
        steps = [OperatorCount("collected", collected, len(self.unreadable), 0.0), *self.operators]
        funnel = "".join(self._funnel_row(step) for step in steps)
        dropped = show.gallery(
            (
                (self.origin / row.image, f"{row.operator}: {row.reason}")
                for row in self.dropped[:DROPPED_SHOWN]
            ),
            90,
        )
        return show.page(
            f"<b>kept {len(self.captions)} of {self.total}</b> "
            f"(dropped {len(self.dropped)}, left out before {len(self.unreadable)})",
            f"<table>{funnel}</table>",
            show.bullets([*self._notes(), *self._failures()]),
            *self._histograms(),
            show.details("what was dropped, and why", dropped) if self.dropped else "",
        )

    def _histograms(self) -> list[str]:
        """What each operator measured of the pictures that reached it, and its limits."""
        measured: dict[str, list[float]] = {}
        for row in self.statistics.values():
            for name, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    measured.setdefault(name, []).append(value)
        return [
            charts.histogram(name, measured[name], *limits)
            for count in self.operators
            for name, limits in count.limits.items()
            if name in measured
        ]

    def _funnel_row(self, step: OperatorCount) -> str:
        kept, dropped = (
            round(BAR_WIDTH * count / self.total) for count in (step.kept, step.dropped)
        )
        return (
            f"<tr><td style='text-align:left'>{html.escape(step.operator)}</td>"
            f"<td>{step.kept}</td><td>{-step.dropped or ''}</td>"
            f"<td style='text-align:left;white-space:nowrap'>{charts.bars(kept, dropped)}</td></tr>"
        )


@stages.stage("clean", "cleaned", "edited")
def clean(captions: Captions, settings: Settings) -> CleaningReport:
    """Run the recipe of ``settings`` over ``captions`` into ``<output>/cleaned``.

    Of captions that ``collect`` returned, those are cleaned that ``<output>/edits.csv`` leaves
    (``data/edits_file.py``), however often it changed since.

    Raises:
        SettingsError: The recipe is missing; it names an operator that is unknown or not safe
            (``data/operator_list.py``), gives it a parameter that it does not take or a value of
            another type; an operator lacks a package or fails at all rows.
        DatasetError: Nothing is left, which says which operator dropped how many; or ``edits.csv``
            is no such table.
    """
    # 1. Nothing to do where the same recipe ran over the same captions before
    captions = edits.current(captions, settings.folder)
    target = settings.folder / "cleaned"
    recipe = recipes.read(settings.recipe)
    recipes.check_safe(recipe, settings.allow_operators)
    fingerprint = artifacts.fingerprint(
        stage="clean",
        captions=captions.digest,
        names=captions.names_json(),
        unreadable=captions.unreadable_json(),
        process=recipe.to_json(),
        networks=_networks(recipe),
        versions=artifacts.versions(*PACKAGES),
    )
    if manifest := artifacts.finished(target, fingerprint):
        try:
            report = _load(manifest, captions, target)
        except (OSError, ValueError, TypeError, LookupError, DatasetError):  # damaged since
            print(f"clean: {target} is damaged, it is made anew")
        else:
            print(f"clean: nothing to do, kept {len(report.captions)} of {report.total} pictures")
            return report

    # 2. Every row is kept or dropped, and some are kept; all is written or nothing
    with (
        cluster.connected_if(settings.cluster, settings.folder) as ray,
        artifacts.building(target) as folder,
    ):
        manifest = _make(captions, recipe, folder, fingerprint, ray)
    report = _load(manifest, captions, target)
    show.tell(report)
    return report


def _make(
    captions: Captions,
    recipe: Recipe,
    folder: Path,
    fingerprint: str,
    ray: cluster.Cluster | None,
) -> dict:
    """Clean ``captions`` into ``folder``; returns its manifest."""
    outcome = juicer.run(captions, recipe, folder / MAPPED, ray)
    account = outcome.account
    _check_account(captions, outcome.texts, account)
    if not outcome.texts:
        _raise_nothing_left(captions, account, recipe)

    digest = writing.write(captions, outcome.texts, folder, outcome.pictures)
    shutil.rmtree(folder / MAPPED, ignore_errors=True)
    artifacts.write_json(folder / STATISTICS, account.statistics)
    return artifacts.write_manifest(
        folder,
        "clean",
        fingerprint,
        digest=digest,
        total=len(captions) + len(captions.unreadable),
        operators=[asdict(count) for count in account.operators],
        dropped=[asdict(row) for row in account.dropped],
        unreadable=captions.unreadable_json(),
    )


def _networks(recipe: Recipe) -> dict[str, str]:
    """Digests of this repository's networks that operators of ``recipe`` read pictures by."""
    operators = operator_list.NETWORKS.keys() & {step.operator for step in recipe.steps}
    names = sorted({operator_list.NETWORKS[operator] for operator in operators})
    return {name: artifacts.digest_of_file(resources.path(name)) for name in names}


def _check_account(captions: Captions, kept: Mapping[str, str], account: Account) -> None:
    lost = len(captions) - len(kept) - len(account.dropped)
    if lost:
        raise DatasetError(
            f"Data-Juicer lost {lost} of {len(captions)} rows without a reason: "
            "run it with fewer operators to find the one."
        )


def _raise_nothing_left(captions: Captions, account: Account, recipe: Recipe) -> None:
    worst = max(account.operators, key=lambda count: count.dropped)
    message = (
        f"The recipe {recipe.path.name} drops all {len(captions)} pictures, "
        f"{worst.dropped} of them by {worst.operator}"
    )
    uncaptioned = sum(not row.text for row in captions.rows)
    if uncaptioned:
        raise DatasetError(
            f"{message}; {uncaptioned} have no caption: set caption_template or captioner and "
            f"collect again, or loosen {recipe.path}."
        )
    failed = [row for row in account.dropped if row.failed]
    if failed:
        last = failed[-1]
        raise DatasetError(
            f"{message}; {last.operator} failed at {len(failed)}, the last time as "
            f"{last.reason}: correct its parameters in {recipe.path}, or take it out."
        )
    raise DatasetError(f"{message}: loosen its parameters in {recipe.path}.")


def _load(manifest: dict, captions: Captions, folder: Path) -> CleaningReport:
    cleaned = Captions.load(folder)
    return CleaningReport(
        captions=cleaned,
        total=manifest["total"],
        operators=[OperatorCount(**entry) for entry in manifest["operators"]],
        dropped=[DroppedRow(**entry) for entry in manifest["dropped"]],
        unreadable=cleaned.unreadable,
        statistics=json.loads((folder / STATISTICS).read_text(encoding="utf-8")),
        origin=captions.folder,
    )
