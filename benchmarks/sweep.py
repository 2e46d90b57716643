"""One row of the table of training settings: python -m benchmarks.sweep OUT rank=8

Trains a LoRA on the sample set with the given settings (``base.`` names a field of the base, as in
``base.high_noise_weight=0.1``), draws every third held-out prompt in Chinese and reads the
attributes back. Called again with other settings of rendering it trains nothing anew. The last line
is JSON.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

from benchmarks import prompt_following
from storyboard import Settings, clean, collect, train
from storyboard.models import bases, classifier


def main() -> None:
    output, *words = sys.argv[1:]
    pairs = (word.split("=", 1) for word in words)
    changes = {name: json.loads(value) for name, value in pairs}
    of_base = {
        name.removeprefix("base."): value
        for name, value in changes.items()
        if name.startswith("base.")
    }
    others = {name: value for name, value in changes.items() if not name.startswith("base.")}
    bases.register(replace(bases.MINI, **of_base))
    settings = Settings(base="mini", output=output, **others)

    captions = clean(collect(settings), settings).captions
    began = time.perf_counter()
    lora = train(captions, settings)
    seconds = time.perf_counter() - began

    rows = [row | {"style": "lorelei"} for row in prompt_following.prompts()[::3]]
    pictures = prompt_following.drawn(rows, "zh", settings, lora.path, Path(output) / "benchmark")
    scores = classifier.accuracy(classifier.read(classifier.load(), pictures), rows)
    loss = round(mean(lora.losses[-100:]), 4)
    print(
        json.dumps({"settings": changes, "training_seconds": round(seconds), "loss": loss} | scores)
    )


if __name__ == "__main__":
    main()
