"""What does a weight do on mini?  python benchmarks/weights.py [--seeds 6]

Every attribute that mini knows is asked for in Chinese, ``卡通，女孩，(WORD:w)``, beside a word for each other attribute
that the classifier reads, at five weights and with the same seeds; its score is the classifier's logit of the value
over the best other value of its attribute, averaged over the seeds: log-odds, which keep rising where a probability is full.
A value rises if each weight's score is at least the one before, less 0.25, and the last is above the first.
The last line is JSON: shares of values that rise, by attribute.
"""

import argparse
import json
import tempfile

import numpy as np
import side_by_side
import torch

WEIGHTS = (0.4, 0.7, 1.0, 1.3, 1.6)
SLACK = 0.25  # of log-odds
STEPS = 8


def prompts() -> dict[tuple[str, str], str]:
    """(attribute, value) -> a prompt with {} for its weight."""
    from storyboard import vocabulary as words

    first = lambda table: {value: said[0] if isinstance(said[0], str) else said[0][0] for value, said in table.items()}
    plain = {"hair": "紫色短发女孩", "clothes": "白色衣服", "expression": "微笑", "scene": "白色背景"}
    join = lambda **changed: "，".join(["卡通", *(plain | changed).values()])
    made = {("hair_color", value): join(hair=f"({said}短发:{{}})女孩") for value, said in first(words.HAIR).items()}
    made |= {("hair_length", value): join(hair=f"紫色({said}:{{}})女孩") for value, said in first(words.LENGTH).items()}
    made |= {("clothes_color", value): join(clothes=f"({said}衣服:{{}})") for value, said in first(words.COLORS).items()}
    made |= {("expression", value): join(expression=f"({said}:{{}})") for value, said in first(words.EXPRESSION).items()}
    made |= {("background", value): join(scene=f"({said}:{{}})") for value, said in first(words.SCENE).items()}
    made |= {("prop", value): join(prop=f"({said}:{{}})") for value, said in first(words.PROP).items()}
    return made


def main() -> None:
    from storyboard import Settings, bases, conditioning, memory
    from storyboard.rendering import drawing
    from storyboard.scoring import classifier

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=200)
    arguments = parser.parse_args()
    asked = {key: prompt for key, prompt in prompts().items() if key[1] in classifier.VALUES[key[0]]}
    seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    rows: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as output:
        settings, base = Settings(base="mini", output=output), bases.get("mini")
        plan = memory.plan(base, settings)
        pipe, model = drawing.load_pipeline(base, plan), classifier.load()
        said = conditioning.encode(base, ["", *(prompt.format(weight) for prompt in asked.values() for weight in WEIGHTS)], settings, plan)
        for (attribute, value), prompt in asked.items():
            curve = [_log_odds(model, attribute, value, list(drawing.draw(
                pipe, [said[prompt.format(weight)]] * len(seeds), [said[""]] * len(seeds), seeds, base.resolution, STEPS, base.guidance_scale,
            ))) for weight in WEIGHTS]
            rises = all(higher >= lower - SLACK for lower, higher in zip(curve, curve[1:])) and curve[-1] > curve[0]
            rows.setdefault(attribute, []).append((value, prompt, curve, rises))
            print(f"{attribute:<14} {value:<11} {'rises' if rises else '-':<6} {'  '.join(f'{score:6.1f}' for score in curve)}  {prompt}", flush=True)
    table = [
        {"attribute": attribute, "rise": f"{sum(row[3] for row in found)} of {len(found)}", **{f"{weight:g}": float(np.mean([row[2][place] for row in found])) for place, weight in enumerate(WEIGHTS)}}
        for attribute, found in rows.items()
    ]
    print(f"\n{side_by_side.machine()}\n{arguments.seeds} seeds, {STEPS} steps, log-odds of the value asked for\n\n{side_by_side.table(table)}\n")
    print(json.dumps({attribute: round(float(np.mean([row[3] for row in found])), 2) for attribute, found in rows.items()}))


@torch.no_grad()
def _log_odds(model, attribute: str, value: str, pictures: list) -> float:
    from PIL import Image

    from storyboard.scoring import classifier

    shown = np.stack([np.asarray(picture.resize((classifier.SIDE, classifier.SIDE), Image.LANCZOS)) for picture in pictures])
    logits = model(classifier.as_tensor(shown))[attribute]
    place = classifier.VALUES[attribute].index(value)
    others = torch.cat([logits[:, :place], logits[:, place + 1:]], 1).amax(1)
    return (logits[:, place] - others).mean().item()


if __name__ == "__main__":
    main()
