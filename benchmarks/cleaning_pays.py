"""Does cleaning help?  python -m benchmarks.cleaning_pays [--train --seeds 3] [--output DIR]

The sample set is a quarter dirt, and ``data/sample_labels.json``, which no recipe reads, says what
is wrong with which picture. The recipe runs over it; printed are, by kind, how much of it was found
(recall), and how much of what the same operators dropped was dirt of any kind (precision); and how
many good pictures went. ``--dataset FOLDER`` takes another such set, of ``tools.make_sample``, with
its labels beside it.

``--train`` also trains a LoRA on the set as it was collected and one on what was kept, with the
defaults, for each seed, and draws every third held-out prompt with both. Measured are the rows of
the notebook's table, beside the good pictures for both, and the patch distance to those
(``crispness.py``) at the pictures' own size and at half of it; smaller is better of style,
crispness and patches. ``raw-and-cleaned.png`` shows the first eight prompts. Called again it goes
on where it was. ``--quick`` trains and draws next to nothing, to see that all of it runs. The last
line is JSON.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks import prompt_following
from benchmarks.side_by_side import ROOT
from storyboard import Settings, Story, clean, collect, render, train
from storyboard.data import cleaning, writing
from storyboard.data.captions import Captions
from storyboard.rendering.pictures import Pictures
from storyboard.scoring import crispness, measuring
from storyboard.scoring.mini import MiniJudge
from tools.card import patches

SAMPLE = ROOT / "data" / "sample"
UNREADABLE = "unreadable"
FIRST_SEED = 42  # the notebook's
STEP = 3  # from one held-out prompt to the next that is drawn
SHOWN = 8  # prompts in the grid
QUICK = {"resolution": 64, "train_steps": 2, "num_inference_steps": 2}
QUICK_STEP = 15
SIDE = 192  # pixels of a panel in the grid


def labels_of(folder: Path) -> dict[str, dict]:
    """File name -> flaw and outcome of what is not good in the set ``folder``."""
    path = folder.with_name(f"{folder.name}_labels.json")
    return json.loads(path.read_text(encoding="utf-8"))


def dropped_by(report: cleaning.CleaningReport, collected: Captions) -> dict[str, str]:
    """File name -> the operator that dropped it, or UNREADABLE."""
    source = {row.id: row.source or row.id for row in collected.rows}
    gone = {source[row.id]: row.operator for row in report.dropped}
    return gone | {entry.source: UNREADABLE for entry in report.unreadable}


def by_kind(labels: Mapping[str, dict], gone: Mapping[str, str]) -> list[dict]:
    """Recall and precision in percent of each kind of dirt, and the operators that found it."""
    dirt = {name: entry["flaw"] for name, entry in labels.items() if entry["outcome"] == "dropped"}
    rows = []
    for kind, labelled in Counter(dirt.values()).items():
        found = Counter(gone[name] for name in gone if dirt.get(name) == kind)
        same = [name for name, operator in gone.items() if operator in found]
        right = sum(name in dirt for name in same)
        rows.append(
            {
                "kind": kind,
                "labelled": labelled,
                "found": found.total(),
                "recall": 100 * found.total() / labelled,
                "precision": 100 * right / len(same) if same else None,
                "operators": [operator for operator, _ in found.most_common()],
            }
        )
    return sorted(rows, key=lambda row: row["kind"])


def good_names(labels: Mapping[str, dict], collected: Captions) -> list[str]:
    """The names of pictures that should stay, those that collecting mends among them."""
    dirt = {name for name, entry in labels.items() if entry["outcome"] == "dropped"}
    return [row.source for row in collected.rows if row.source and row.source not in dirt]


def kind_table(rows: Sequence[dict]) -> str:
    lines = [f"{'kind':<16}{'labelled':>9}{'found':>7}{'recall':>8}{'precision':>11}  operators"]
    for row in rows:
        precision = "" if row["precision"] is None else f"{row['precision']:.0f} %"
        lines.append(
            f"{row['kind']:<16}{row['labelled']:>9}{row['found']:>7}{row['recall']:>6.0f} %"
            f"{precision:>11}  {', '.join(row['operators'])}"
        )
    return "\n".join(lines)


def clean_set(dataset: Path, output: Path) -> tuple[Captions, cleaning.CleaningReport]:
    """The set as it was collected, and the report of the recipe."""
    settings = Settings(base="mini", dataset=str(dataset), output=str(output))
    collected = collect(settings)
    return collected, clean(collected, settings)


def reference(collected: Captions, good: Sequence[str], folder: Path) -> Captions:
    """The good pictures alone, which both LoRAs are measured beside."""
    if not (folder / "metadata.jsonl").is_file():
        names = set(good)
        kept = {row.id: row.text for row in collected.rows if row.source in names}
        writing.write(collected, kept, folder)
    return Captions.load(folder)


def drawn(captions: Captions, seed: int, output: Path, quick: bool) -> Pictures:
    """Every third held-out prompt, drawn with the LoRA that the defaults train on ``captions``."""
    settings = Settings(base="mini", output=str(output), seed=seed, **(QUICK if quick else {}))
    lora = train(captions, settings)
    rows = prompt_following.prompts()[:: QUICK_STEP if quick else STEP]
    rows = [row | {"style": "lorelei"} for row in rows]
    panels = prompt_following.panels_of(rows, "zh")
    return render(Story(panels, prompt_following.NEGATIVE["zh"]), settings, lora)


def measures_of(pictures: Pictures, good: Captions) -> dict[str, float]:
    """Every row of the notebook's table that has a number, and the patch distances."""
    measures = measuring.measure(pictures, good, MiniJudge(), pictures.folder.parent / "scores")
    numbers = {
        name: round(measure.value, 2)
        for name, measure in measures.items()
        if measure.value is not None
    }
    with Image.open(pictures.paths[0]) as first:
        size = first.size
    panels = torch.stack([crispness.pixels(path) for path in pictures.paths])
    others = torch.stack([crispness.pixels(good.path(row), size) for row in good.rows])
    for side, distance in zip(
        (size[0], size[0] // 2), patches.distance(panels, others), strict=True
    ):
        numbers[f"patches {side}"] = round(distance, 2)
    return numbers


def compared(
    sets: Mapping[str, Captions],
    good: Captions,
    seeds: Sequence[int],
    output: Path,
    quick: bool = False,
) -> dict[str, list[dict[str, float]]]:
    """title of a set -> what was measured of its LoRA, by seed; writes the grid."""
    measured: dict[str, list[dict[str, float]]] = {title: [] for title in sets}
    strips = {}
    for seed in seeds:
        for title, captions in sets.items():
            pictures = drawn(captions, seed, output / f"{title}-{seed}", quick)
            measured[title].append(measures_of(pictures, good))
            strips[f"{title}, seed {seed}"] = pictures.paths[:SHOWN]
            print(f"{title}, seed {seed}: {measured[title][-1]}", flush=True)
    grid(strips).save(output / "raw-and-cleaned.png")
    return measured


def grid(strips: Mapping[str, Sequence[Path]]) -> Image.Image:
    """A strip of panels a line, its title above."""
    heading = SIDE // 8
    sheet = Image.new("RGB", (SHOWN * SIDE, len(strips) * (SIDE + heading)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (title, paths) in enumerate(strips.items()):
        top = row * (SIDE + heading)
        pen.text((4, top + 2), title, "black", ImageFont.load_default(heading * 0.7))
        for column, path in enumerate(paths):
            with Image.open(path) as panel:
                small = panel.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(small, (column * SIDE, top + heading))
    return sheet


def measure_table(
    measured: Mapping[str, Sequence[Mapping[str, float]]], seeds: Sequence[int]
) -> str:
    """A column for each seed, then the mean and the standard deviation where there are several."""
    names = next(iter(measured.values()))[0]
    columns = [str(seed) for seed in seeds] + ["mean"]
    titles = "".join(f"{f'{title} {column}':>16}" for title in measured for column in columns)
    lines = [f"{'':<16}{titles}"]
    for name in names:
        cells = ""
        for runs in measured.values():
            values = [run[name] for run in runs]
            spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
            cells += "".join(f"{value:>16.2f}" for value in values)
            cells += f"{f'{mean(values):.2f}{spread}':>16}"
        lines.append(f"{name:<16}{cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, default=SAMPLE)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--quick", action="store_true", help="with --train: hardly a step")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark-cleaning-pays"))
    arguments = parser.parse_args()

    output = arguments.output
    collected, report = clean_set(arguments.dataset, output)
    labels = labels_of(arguments.dataset)
    gone = dropped_by(report, collected)
    rows = by_kind(labels, gone)
    good = good_names(labels, collected)
    lost = sorted(set(good) & gone.keys())
    print(f"\n{kind_table(rows)}\n")
    print(f"{len(lost)} of {len(good)} good pictures dropped {', '.join(lost)}\n")
    result: dict[str, object] = {
        "recall": {row["kind"]: round(row["recall"], 1) for row in rows},
        "good_dropped_percent": round(100 * len(lost) / len(good), 2),
    }

    if arguments.train:
        seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
        sets = {"raw": collected, "cleaned": report.captions}
        judged_by = reference(collected, good, output / "good")
        measured = compared(sets, judged_by, seeds, output, arguments.quick)
        print(f"\n{measure_table(measured, seeds)}\n\ngrid: {output / 'raw-and-cleaned.png'}\n")
        result["measured"] = measured
    print(json.dumps(result))


if __name__ == "__main__":
    main()
