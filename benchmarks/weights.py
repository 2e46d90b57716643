"""What does a weight do on mini?  python -m benchmarks.weights [--seeds 4] [--attribute expression]

Everything that mini knows and the classifier reads is asked for in Chinese, ``(WORD:w)`` in a prompt that names the other
attributes too, at five weights with the same seeds, by the base alone; its score is how sure the classifier is of it, 0 to 1,
on the average of the seeds. It rises if no weight's score is more than 0.01 below the one before and the last is at
least 0.05 above the first; it is full if all are above 0.9. The last line is JSON: shares of what rises or is full.
"""

import argparse
import itertools
import json
import tempfile
from dataclasses import replace

import numpy as np
import torch

from benchmarks import side_by_side
from storyboard.models.run import run_on

WEIGHTS = (0.4, 0.7, 1.0, 1.3, 1.6)
SLACK, RISE, FULL = 0.01, 0.05, 0.9
STEPS = 8


def prompts() -> dict[tuple[str, str], str]:
    """(attribute, value) -> a prompt with {} for its weight."""
    from storyboard import vocabulary as words

    first = lambda table: {
        value: said[0] if isinstance(said[0], str) else said[0][0] for value, said in table.items()
    }
    plain = {
        "hair": "紫色短发女孩",
        "clothes": "白色衣服",
        "expression": "微笑",
        "scene": "白色背景",
    }
    join = lambda **changed: "，".join(["卡通", *(plain | changed).values()])
    made = {
        ("hair_color", value): join(hair=f"({said}短发:{{}})女孩")
        for value, said in first(words.HAIR).items()
    }
    made |= {
        ("hair_length", value): join(hair=f"紫色({said}:{{}})女孩")
        for value, said in first(words.LENGTH).items()
    }
    made |= {
        ("clothes_color", value): join(clothes=f"({said}衣服:{{}})")
        for value, said in first(words.COLORS).items()
    }
    made |= {
        ("expression", value): join(expression=f"({said}:{{}})")
        for value, said in first(words.EXPRESSION).items()
    }
    made |= {
        ("background", value): join(scene=f"({said}:{{}})")
        for value, said in first(words.SCENE).items()
    }
    made |= {
        ("prop", value): join(prop=f"({said}:{{}})") for value, said in first(words.PROP).items()
    }
    return made


def main() -> None:
    from storyboard import Settings
    from storyboard.models import bases, conditioning, memory
    from storyboard.rendering import sampling
    from storyboard.scoring import classifier

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=200)
    parser.add_argument(
        "--attribute",
        choices=sorted({attribute for attribute, _ in prompts()}),
        help="this one alone",
    )
    arguments = parser.parse_args()
    asked = {
        key: prompt
        for key, prompt in prompts().items()
        if key[1] in classifier.VALUES[key[0]] and arguments.attribute in (None, key[0])
    }
    seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    rows: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as output:
        settings, base = Settings(base="mini", output=output), bases.get("mini")
        plan = memory.plan(base, settings)
        pipe, model = sampling.load_pipeline(base, plan), classifier.load()
        said = conditioning.encode(
            replace(run_on(base, settings), plan=plan),
            ["", *(prompt.format(weight) for prompt in asked.values() for weight in WEIGHTS)],
        )
        for (attribute, value), prompt in asked.items():
            curve = [
                _certainty(
                    model,
                    attribute,
                    value,
                    list(
                        sampling.draw(
                            pipe,
                            [said[prompt.format(weight)]] * len(seeds),
                            [said[""]] * len(seeds),
                            seeds,
                            base.resolution,
                            STEPS,
                            base.guidance_scale,
                        )
                    ),
                )
                for weight in WEIGHTS
            ]
            verdict = _verdict(curve)
            rows.setdefault(attribute, []).append((verdict, curve))
            print(
                f"{attribute:<14} {value:<11} {verdict:<6} {'  '.join(f'{score:.3f}' for score in curve)}  {prompt}",
                flush=True,
            )
    count = lambda found, kind: sum(verdict == kind for verdict, _ in found)
    table = [
        {
            "attribute": attribute,
            "values": str(len(found)),
            **{kind: str(count(found, kind)) for kind in ("rises", "full", "-")},
        }
        | {
            f"{weight:g}": f"{np.mean([curve[place] for _, curve in found]):.3f}"
            for place, weight in enumerate(WEIGHTS)
        }
        for attribute, found in rows.items()
    ]
    print(
        f"\n{side_by_side.machine()}\n{arguments.seeds} seeds, {STEPS} steps\n\n{side_by_side.table(table)}\n"
    )
    print(
        json.dumps(
            {
                attribute: round(1 - count(found, "-") / len(found), 2)
                for attribute, found in rows.items()
            }
        )
    )


def _verdict(curve: list[float]) -> str:
    if min(curve) > FULL:
        return "full"
    return (
        "rises"
        if all(higher >= lower - SLACK for lower, higher in itertools.pairwise(curve))
        and curve[-1] >= curve[0] + RISE
        else "-"
    )


@torch.no_grad()
def _certainty(model, attribute: str, value: str, pictures: list) -> float:
    from PIL import Image

    from storyboard.scoring import classifier

    shown = np.stack(
        [
            np.asarray(picture.resize((classifier.SIDE, classifier.SIDE), Image.LANCZOS))
            for picture in pictures
        ]
    )
    return (
        model(classifier.as_tensor(shown))[attribute]
        .softmax(1)[:, classifier.VALUES[attribute].index(value)]
        .mean()
        .item()
    )


if __name__ == "__main__":
    main()
