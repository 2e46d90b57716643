"""One row of the table of training settings: python -m benchmarks.sweep OUT rank=8 base.high_noise_weight=0.1

Trains a LoRA on the sample set with the given settings (``base.`` names a field of the base), draws every third
held-out prompt in Chinese and reads the attributes back. Called again with other settings of rendering it trains
nothing anew. The last line is JSON.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

from benchmarks import prompt_following
from storyboard import Settings, clean, collect, train
from storyboard.models import bases
from storyboard.scoring import classifier


def main() -> None:
    output, *changes = sys.argv[1:]
    changed = {
        name: json.loads(value) for name, value in (change.split("=", 1) for change in changes)
    }
    mini = replace(
        bases.MINI,
        **{
            name.removeprefix("base."): value
            for name, value in changed.items()
            if name.startswith("base.")
        },
    )
    bases.register(mini)
    settings = Settings(
        output=output,
        **{name: value for name, value in changed.items() if not name.startswith("base.")},
    )
    captions = clean(collect(settings), settings).captions
    began = time.perf_counter()
    lora = train(captions, settings)
    seconds = time.perf_counter() - began
    asked = [row | {"style": "lorelei"} for row in prompt_following.prompts()[::3]]
    pictures = prompt_following.drawn(asked, "zh", settings, lora.path, Path(output) / "benchmark")
    scores = classifier.accuracy(classifier.read(classifier.load(), pictures), asked)
    print(
        json.dumps(
            {
                "settings": changed,
                "training_seconds": round(seconds),
                "loss": round(mean(lora.losses[-100:]), 4),
            }
            | scores
        )
    )


if __name__ == "__main__":
    main()
