"""Does a picture show its prompt?  python -m benchmarks.prompt_following [--quick] [--lora FILE]

120 held-out combinations of attributes (``prompts.json``; no training picture of ``mini`` or of the
sample set has one of them), each in Chinese and in English, are drawn by the base alone and with a
LoRA: the one that the pipeline's defaults train on the sample set, or ``--lora FILE``. A classifier
that saw real renders only reads the attributes back; its own accuracy on real renders that it never
saw stands beside. Every second one is asked for once more as a close-up, from afar or looking to
the left ("framed"). ``--quick``: 20 prompts, none framed, fewer denoising steps, the base alone
unless a LoRA is named. The last line is JSON, all numbers percent.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

import numpy as np

from storyboard import Panel, Settings, Story, clean, collect, render, train
from storyboard.models import classifier
from storyboard.models.run import resolve
from tools.captions import FROM_THE_SIDE, caption

HERE = Path(__file__).resolve().parent
LANGUAGES = ("zh", "en")
REPORTED = ("hair_color", "background", "clothes_color", "expression", "hair_length", "style")
NEGATIVE = {"zh": "模糊，低质量", "en": "blurry, low quality"}
UNSEEN_CLOSE = ("prop", "clothes_color")  # of a close-up, no part of the picture
STORY = 60  # panels drawn as one story


def prompts(quick: bool = False) -> list[dict]:
    """The fixed combinations of attributes; every twelfth for ``quick``."""
    rows = json.loads((HERE / "prompts.json").read_text(encoding="utf-8"))
    return rows[::12] if quick else rows


def framed(rows: list[dict]) -> list[dict]:
    """Every second row, close or from afar, or looking to the left where its style can."""
    asked = []
    for index, row in enumerate(rows[::2]):
        sided = row["style"] in FROM_THE_SIDE
        framing = ("close", "wide", "half")[index % 3] if sided else ("close", "wide")[index % 2]
        changes = {"framing": framing}
        if sided:
            turned = framing == "half" or index // 3 % 2
            changes["facing"] = "left" if turned else "right"
        unseen = UNSEEN_CLOSE if framing == "close" else ()
        asked.append({name: row[name] for name in row if name not in unseen} | changes)
    return asked


def real_renders() -> tuple[np.ndarray, list[dict]]:
    """uint8 (n, 128, 128, 3) held-out pictures of the art itself, and what they show."""
    folder = HERE / "renders"
    rows = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    pixels = [classifier.pixels(folder / f"{row['id']}.webp") for row in rows]
    return np.stack(pixels), rows


def panels_of(rows: list[dict], language: str) -> list[Panel]:
    """Panels that ask for ``rows``, with the same seeds in all languages."""
    return [Panel(caption(row, language), seed=1000 + index) for index, row in enumerate(rows)]


def drawn(
    rows: list[dict], language: str, settings: Settings, lora: Path | None, folder: Path
) -> np.ndarray:
    """Pictures of ``rows`` as uint8 (n, 128, 128, 3)."""
    panels, paths = panels_of(rows, language), []
    for start in range(0, len(panels), STORY):
        story = Story(panels[start : start + STORY], NEGATIVE[language])
        paths += render(story, settings.but(output=str(folder / f"{language}-{start}")), lora).paths
    return np.stack([classifier.pixels(path) for path in paths])


def score(
    rows: list[dict],
    settings: Settings,
    lora: Path | None,
    folder: Path,
    model: classifier.Classifier,
) -> dict[str, dict[str, float]]:
    """language -> attribute -> percent as prompted."""
    scores = {}
    for language in LANGUAGES:
        read = classifier.read(model, drawn(rows, language, settings, lora, folder))
        scores[language] = classifier.accuracy(read, rows)
    return scores


def both(by_language: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        name: round(mean(by_language[language][name] for language in LANGUAGES), 1)
        for name in by_language["zh"]
    }


def reported(scores: dict[str, float]) -> dict[str, float]:
    return {name: scores[name] for name in REPORTED}


def table(columns: dict[str, dict[str, float]]) -> str:
    lines = [f"{'percent as asked':<18}" + "".join(f"{title:>16}" for title in columns)]
    for name in classifier.VALUES:
        cells = "".join(
            f"{column[name]:>16.1f}" if name in column else f"{'':>16}"
            for column in columns.values()
        )
        lines.append(f"{name:<18}{cells}")
    return "\n".join(lines)


def measure(quick: bool, lora: Path | None, output: Path, **changes: object) -> dict:
    """Draw, read back, print the table; returns what the JSON line holds."""
    if quick:
        changes = {"num_inference_steps": 12} | changes
    settings = Settings(output=str(output), **changes)
    if lora is None and not quick:
        lora = train(clean(collect(settings), settings).captions, settings).path

    model = classifier.load()
    pixels, real_rows = real_renders()
    columns = {"classifier": classifier.accuracy(classifier.read(model, pixels), real_rows)}
    rows = prompts(quick)
    folder = output / "benchmark"

    def add(title: str, rows: list[dict], lora: Path | None) -> dict[str, dict[str, float]]:
        scores = score(rows, settings, lora, folder / title.replace(" ", "-"), model)
        columns.update({f"{title} {language}": scores[language] for language in LANGUAGES})
        return scores

    base = add("base", rows, None)
    base_framed = tuned = tuned_framed = None
    if not quick:
        base_framed = add("base framed", framed(rows), None)
    if lora is not None:
        styled = [row | {"style": "lorelei"} for row in rows]
        tuned = add("LoRA", styled, lora)
        if not quick:
            tuned_framed = add("LoRA framed", framed(styled), lora)

    run = resolve(settings)
    size = f"{run.num_inference_steps} steps, {run.resolution} x {run.resolution}"
    count = f"{2 * len(rows)} prompts" + (
        "" if quick else f" and {2 * len(framed(rows))} framed ones"
    )
    print(f"\n{count}, {size}; classifier on {len(real_rows)} real renders\n")
    print(f"{table(columns)}\n")
    means = {
        language: round(mean(base[language][name] for name in REPORTED), 1)
        for language in LANGUAGES
    }
    return {
        "base": reported(both(base)),
        "lora": reported(both(tuned)) if tuned else None,
        "framed": {
            name: both(scores) if scores else None
            for name, scores in (("base", base_framed), ("lora", tuned_framed))
        },
        "classifier": reported(columns["classifier"]),
    } | means


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--lora", type=Path, help="a LoRA file instead of the pipeline's own")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs"),
        help="where the LoRA of a notebook run may lie already",
    )
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.quick, arguments.lora, arguments.output)))


if __name__ == "__main__":
    main()
