"""What loading takes in a process of its own, printed in bytes above the start.

python -m tests.peak draw|train|convert PATH PRECISION
"""

import gc
import sys
from dataclasses import replace
from pathlib import Path

# imports are not loading
from storyboard.models import bases, memory, single_file, weights
from storyboard.models import loading as models
from storyboard.rendering import sampling
from storyboard.training.pipeline import TrainingPipeline


def kilobytes(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process."""
    return int(
        next(
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith(name)
        ).split()[1]
    )


def main() -> None:
    what, path, precision = sys.argv[1:]
    base, plan = bases.get(path), memory.Plan("cpu", precision, False, 1, 1)
    configs = weights.fetch(bases.get("sdxl")).folder if base.checkpoint else base.folder
    for component in base.components:
        models.skeleton(replace(base, folder=configs), component)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kilobytes("VmRSS")
    if what == "draw":
        kept = sampling.load_pipeline(base, plan)
    elif what == "train":
        kept = TrainingPipeline.load(base, ("unet",), "cpu", plan.dtype)  # noqa: F841
    else:
        single_file.convert(base, configs, single_file.converted_folder(base, weights.cache()))
    print((kilobytes("VmHWM") - before) * 1024)


if __name__ == "__main__":
    main()
