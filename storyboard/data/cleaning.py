"""Stage 2, clean: Data-Juicer runs a recipe over the captions, and every row is accounted for."""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from storyboard import artifacts, resources, show
from storyboard.data import juicer
from storyboard.data.collecting import Captions, digest_of, read_text
from storyboard.errors import DatasetError, SettingsError
from storyboard.settings import Settings

RECIPES = resources.path("recipes")
PACKAGES = ("py-data-juicer", "datasets", "pillow")


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
        lines = [
            f"clean: kept {len(self.captions)} of {self.total} pictures, dropped {len(self.dropped)}, unreadable {len(self.unreadable)}"
        ]
        return "\n".join(
            lines
            + [
                f"  {o['operator']:<28} kept {o['kept']:>6}  dropped {o['dropped']:>5}"
                for o in self.operators
            ]
        )

    def _repr_html_(self) -> str:
        return show.cleaning(self)


def read_recipe(name: str) -> tuple[Path, list[dict]]:
    """The operators of a recipe in ``recipes/`` or at a path, as ``[{operator: {parameter: value}}]``.

    Raises:
        SettingsError: No such recipe, or one that is not a Data-Juicer recipe.
    """
    import yaml

    path = next(
        (p for p in (RECIPES / f"{name}.yaml", Path(name).expanduser()) if p.is_file()), None
    )
    if path is None:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise SettingsError(
            f"There is no recipe {name!r}: set recipe to one of {known}, or to the path of a YAML file."
        )
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    process = content.get("process") if isinstance(content, dict) else None
    if (
        not isinstance(process, list)
        or not process
        or not all(isinstance(op, dict) and len(op) == 1 for op in process)
    ):
        raise SettingsError(
            f"{path} needs a list called process, each entry one operator with its parameters, as in recipes/sample.yaml."
        )
    return path, [{name: parameters or {} for name, parameters in op.items()} for op in process]


def clean(captions: Captions, settings: Settings) -> CleaningReport:
    """Run the recipe of ``settings`` over ``captions`` into ``<output>/cleaned``.

    Raises:
        SettingsError: The recipe is missing, names an unknown operator or gives it a parameter it does not take.
        DatasetError: Nothing is left; says which operator dropped how many.
    """
    target = settings.folder / "cleaned"
    path, process = read_recipe(settings.recipe)
    mark = artifacts.fingerprint(
        stage="clean",
        captions=captions.digest,
        unreadable=captions.unreadable,
        process=process,
        versions=artifacts.versions(*PACKAGES),
    )
    if manifest := artifacts.finished(target, mark):
        report = _load(manifest, captions, target)
        print(f"clean: nothing to do, kept {len(report.captions)} of {report.total} pictures")
        return report
    kept, operators, dropped, statistics = juicer.run(captions, process, path)
    if len(kept) + len(dropped) != len(captions):
        raise DatasetError(
            f"Data-Juicer lost {len(captions) - len(kept) - len(dropped)} of {len(captions)} rows without a reason: run it with fewer operators to find the one."
        )
    if not kept:
        worst = max(operators, key=lambda o: o["dropped"])
        said = f"The recipe {path.name} drops all {len(captions)} pictures, {worst['dropped']} of them by {worst['operator']}"
        if bare := sum(not row["text"] for row in captions.rows):
            raise DatasetError(
                f"{said}; {bare} have no caption: set caption_template or captioner and collect again, or loosen {path}."
            )
        raise DatasetError(f"{said}: loosen its parameters in {path}.")
    with artifacts.building(target) as folder:
        digest = write(captions, kept, folder)
        artifacts.write_json(folder / "statistics.json", statistics)
        manifest = artifacts.write_manifest(
            folder,
            "clean",
            mark,
            digest=digest,
            total=len(captions) + len(captions.unreadable),
            operators=operators,
            dropped=dropped,
            unreadable=captions.unreadable,
        )
    report = _load(manifest, captions, target)
    show.tell(report)
    return report


def _load(manifest: dict, captions: Captions, folder: Path) -> CleaningReport:
    statistics = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    return CleaningReport(
        Captions.load(folder),
        manifest["total"],
        manifest["operators"],
        manifest["dropped"],
        manifest["unreadable"],
        statistics,
        captions.folder,
    )


def write(captions: Captions, kept: dict[str, str], folder: Path) -> str:
    """Write the rows of ``kept`` (id -> caption) as a Captions folder with ``metadata.csv``; returns the digest.

    Pictures are hard links where the disk allows.
    """
    import csv

    rows = [row | {"text": kept[row["id"]]} for row in captions.rows if row["id"] in kept]
    (folder / "images").mkdir()
    for row in rows:
        source, place = captions.path(row), folder / row["images"][0]
        try:
            os.link(source, place)
        except OSError:
            shutil.copyfile(source, place)
    artifacts.write_atomically(
        folder / "metadata.jsonl",
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    )
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["image", "prompt"])
        table.writerows([row["images"][0], row["text"]] for row in rows)
    return digest_of(folder, rows)
