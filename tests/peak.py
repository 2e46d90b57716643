"""What loading takes in a process of its own: python peak.py draw|train|convert PATH PRECISION prints bytes above the start."""

import gc
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# imports are not loading
import torch  # noqa: E402, F401
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline  # noqa: E402, F401
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm  # noqa: E402, F401

from storyboard import bases, checkpoints, memory, models, weights  # noqa: E402
from storyboard.rendering import drawing  # noqa: E402
from storyboard.training.pipeline import TrainingPipeline  # noqa: E402


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
        kept = drawing.load_pipeline(base, plan)  # noqa: F841
    elif what == "train":
        kept = TrainingPipeline.load(base, ("unet",), "cpu", plan.dtype)  # noqa: F841
    else:
        checkpoints.convert(base, configs, checkpoints.place(base, weights.cache()))
    print((kilobytes("VmHWM") - before) * 1024)


if __name__ == "__main__":
    main()
