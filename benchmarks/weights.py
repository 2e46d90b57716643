"""What does a weight do on mini?  python -m benchmarks.weights [--seeds 4] [--attribute expression]

Everything that mini knows and the classifier reads is asked for in Chinese, ``(WORD:w)`` in a
prompt that names the other attributes too, at five weights with the same seeds, by the base alone;
its score is how sure the classifier is of it, 0 to 1, on the average of the seeds. It rises if no
weight's score is more than 0.01 below the one before and the last is at least 0.05 above the first;
it is full if all are above 0.9. The last line is JSON: shares of what rises or is full.
"""

import argparse
import itertools
import json
import tempfile

import numpy as np
import torch

from benchmarks import side_by_side
from storyboard.models.run import Run, resolve

WEIGHTS = (0.4, 0.7, 1.0, 1.3, 1.6)
SLACK, RISE, FULL = 0.01, 0.05, 0.9
STEPS = 8
PLAIN = {"hair": "紫色短发女孩", "clothes": "白色衣服", "expression": "微笑", "scene": "白色背景"}
PARTS = {  # attribute -> table of the vocabulary, part of the prompt, how it is worded
    "hair_color": ("HAIR", "hair", "({}短发:{{}})女孩"),
    "hair_length": ("LENGTH", "hair", "紫色({}:{{}})女孩"),
    "clothes_color": ("COLORS", "clothes", "({}衣服:{{}})"),
    "expression": ("EXPRESSION", "expression", "({}:{{}})"),
    "background": ("SCENE", "scene", "({}:{{}})"),
    "prop": ("PROP", "prop", "({}:{{}})"),
}


def prompts() -> dict[tuple[str, str], str]:
    """(attribute, value) -> a prompt with {} for its weight."""
    from storyboard import vocabulary

    made = {}
    for attribute, (table, part, wording) in PARTS.items():
        for value, synonyms in getattr(vocabulary, table).items():
            chinese = synonyms[0]
            word = chinese if isinstance(chinese, str) else chinese[0]
            parts = PLAIN | {part: wording.format(word)}
            made[attribute, value] = "，".join(["卡通", *parts.values()])
    return made


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=200)
    parser.add_argument("--attribute", choices=sorted(PARTS), help="this one alone")
    return parser.parse_args()


def main() -> None:
    from storyboard import Settings
    from storyboard.models import classifier

    arguments = command_line()
    chosen = {
        (attribute, value): prompt
        for (attribute, value), prompt in prompts().items()
        if value in classifier.VALUES[attribute] and arguments.attribute in (None, attribute)
    }
    seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    with tempfile.TemporaryDirectory() as output:
        run = resolve(Settings(base="mini", output=output))
        results = measure(run, chosen, seeds)

    print(f"\n{side_by_side.machine()}\n{arguments.seeds} seeds, {STEPS} steps\n")
    print(f"{table(results)}\n")
    shares = {
        attribute: round(1 - _count(curves, "-") / len(curves), 2)
        for attribute, curves in results.items()
    }
    print(json.dumps(shares))


def measure(
    run: Run, chosen: dict[tuple[str, str], str], seeds: list[int]
) -> dict[str, list[tuple[str, list[float]]]]:
    """attribute -> verdict and scores by weight, for each of its values."""
    from storyboard.models import classifier, conditioning
    from storyboard.rendering import sampling

    pipe, model = sampling.load_pipeline(run.base, run.plan), classifier.load()
    texts = ["", *(prompt.format(weight) for prompt in chosen.values() for weight in WEIGHTS)]
    embeddings = conditioning.encode(run, texts)
    negative = [embeddings[""]] * len(seeds)

    results: dict[str, list[tuple[str, list[float]]]] = {}
    for (attribute, value), prompt in chosen.items():
        curve = []
        for weight in WEIGHTS:
            positive = [embeddings[prompt.format(weight)]] * len(seeds)
            pictures = sampling.draw(
                pipe,
                positive,
                negative,
                seeds,
                run.resolution,
                STEPS,
                run.guidance_scale,
            )
            curve.append(_certainty(model, attribute, value, list(pictures)))
        verdict = _verdict(curve)
        results.setdefault(attribute, []).append((verdict, curve))
        scores = "  ".join(f"{score:.3f}" for score in curve)
        print(f"{attribute:<14} {value:<11} {verdict:<6} {scores}  {prompt}", flush=True)
    return results


def table(results: dict[str, list[tuple[str, list[float]]]]) -> str:
    rows = []
    for attribute, curves in results.items():
        row = {"attribute": attribute, "values": str(len(curves))}
        row |= {verdict: str(_count(curves, verdict)) for verdict in ("rises", "full", "-")}
        means = np.mean([curve for _, curve in curves], axis=0)
        row |= {f"{weight:g}": f"{mean:.3f}" for weight, mean in zip(WEIGHTS, means, strict=True)}
        rows.append(row)
    return side_by_side.table(rows)


def _count(curves: list[tuple[str, list[float]]], verdict: str) -> int:
    return sum(one == verdict for one, _ in curves)


def _verdict(curve: list[float]) -> str:
    if min(curve) > FULL:
        return "full"
    never_falls = all(after >= before - SLACK for before, after in itertools.pairwise(curve))
    return "rises" if never_falls and curve[-1] >= curve[0] + RISE else "-"


@torch.no_grad()
def _certainty(model, attribute: str, value: str, pictures: list) -> float:
    """Mean probability of ``value``, 0 to 1."""
    from PIL import Image

    from storyboard.models import classifier

    side = classifier.SIDE
    pixels = [np.asarray(picture.resize((side, side), Image.LANCZOS)) for picture in pictures]
    probabilities = model(classifier.as_tensor(np.stack(pixels)))[attribute].softmax(1)
    return probabilities[:, classifier.VALUES[attribute].index(value)].mean().item()


if __name__ == "__main__":
    main()
