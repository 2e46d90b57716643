"""python -m tests.global_state FOLDER PICTURES: what the public calls change in the process.

Prints JSON: call -> what of the process is not as it was before, with both values. It runs in a
process of its own, because imports change things too, and happen once.
"""

import json
import logging
import multiprocessing
import os
import random
import sys
import warnings
from pathlib import Path

LOGGERS = ("diffusers", "transformers", "datasets", "huggingface_hub", "modelscope", "peft")


def snapshot(known: list | None = None) -> dict[str, object]:
    """Everything that belongs to the user of the process.

    Args:
        known: Warning filters that are compared; None is all.
    """
    return {
        **_python(known),
        **_logging(),
        **_progress_bars(),
        **_torch(),
        **_others(),
    }


def _python(known: list | None) -> dict[str, object]:
    import numpy as np

    state = {
        # libraries add filters when they are imported, which hold as long as they stay imported
        "warnings": [each for each in warnings.filters if each in (known or warnings.filters)],
        "sys.path": list(sys.path),
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        "folder": str(Path.cwd()),
        "random": random.getstate(),
        "numpy.random": np.random.get_state()[1].tolist(),
        "start method": multiprocessing.get_start_method(allow_none=True),
    }
    return state | {f"environment {name}": value for name, value in os.environ.items()}


def _logging() -> dict[str, object]:
    from loguru import logger

    state = {
        "root level": logging.root.level,
        "root handlers": list(logging.root.handlers),
        "logging disabled": logging.root.manager.disable,
        "loguru sinks": {number: str(sink) for number, sink in logger._core.handlers.items()},
        "loguru modules": list(logger._core.activation_list),
    }
    for name in LOGGERS:
        library = logging.getLogger(name)
        state[f"log of {name}"] = (library.level, library.disabled, list(library.handlers))
    return state


def _progress_bars() -> dict[str, object]:
    import datasets
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils.tqdm import progress_bar_states

    return {
        "bars of datasets": datasets.are_progress_bars_disabled(),
        "bars of diffusers": diffusers.utils.logging.is_progress_bar_enabled(),
        "bars of transformers": transformers.utils.logging.is_progress_bar_enabled(),
        "bars of huggingface_hub": dict(progress_bar_states),
    }


def _torch() -> dict[str, object]:
    import torch

    return {
        "tf32 of convolutions": torch.backends.cudnn.allow_tf32,
        "tf32 of products": torch.backends.cuda.matmul.allow_tf32,
        "default dtype": torch.get_default_dtype(),
        "torch.random": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _others() -> dict[str, object]:
    import datasets
    import huggingface_hub.constants
    from diffsynth.configs import MODEL_CONFIGS
    from PIL import Image, ImageFile

    return {
        "Pillow truncated": ImageFile.LOAD_TRUNCATED_IMAGES,
        "Pillow pixels": Image.MAX_IMAGE_PIXELS,
        "offline datasets": datasets.config.HF_HUB_OFFLINE,
        "offline huggingface_hub": huggingface_hub.constants.HF_HUB_OFFLINE,
        "DiffSynth's registry": list(MODEL_CONFIGS),
    }


def set_by_user() -> None:
    """What a user may have set; nearly all differs from the libraries' own values."""
    import datasets
    import diffusers.utils.logging
    import numpy as np
    import torch
    import transformers.utils.logging
    from huggingface_hub.utils import disable_progress_bars
    from loguru import logger
    from modelscope.utils.logger import get_logger
    from PIL import ImageFile

    datasets.logging.set_verbosity_info()
    get_logger()  # configures it
    logging.root.setLevel(logging.WARNING)
    logging.root.addHandler(logging.NullHandler())
    logger.add(lambda message: None, level="DEBUG")
    warnings.filterwarnings("once", message="of the user")
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_info()
    disable_progress_bars("group.of.the.user")
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)


def main(folder: Path, pictures: Path) -> None:
    """Collect, clean, train, render and score on tiny sizes, and compare around each."""
    from storyboard import Settings, Story, clean, collect, render, score, train

    settings = Settings(
        base="mini",
        output=str(folder),
        dataset=str(pictures),
        resolution=64,
        rank=2,
        train_steps=3,
        train_batch_size=2,
        num_inference_steps=2,
    )
    story = Story(["a cat", "a dog"])
    made: dict[str, object] = {}
    calls = {
        "collect": lambda: collect(settings),
        "clean": lambda: clean(made["collect"], settings),
        "train": lambda: train(made["clean"].captions, settings, story),
        "render": lambda: render(story, settings, made["train"]),
        "score": lambda: score(made["render"], settings, made["clean"].captions),
    }
    changes = {}
    set_by_user()
    for name, call in calls.items():
        before = snapshot()
        made[name] = call()
        after = snapshot(before["warnings"])
        changes[name] = {
            key: [str(before.get(key))[:500], str(after.get(key))[:500]]
            for key in before | after
            if before.get(key) != after.get(key)
        }
    print(json.dumps(changes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
