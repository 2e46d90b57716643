"""What the modules about LoRA files share: whole ones, and the call that brings one in."""

import contextlib
import io
import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise

from benchmarks.bad_inputs import Wrong
from storyboard import Settings, convert, import_lora
from storyboard.lora.names import kohya_name, module_path
from storyboard.models import bases
from storyboard.models import loading as models

Made = tuple[str, Callable[[], object]]
Tensors = dict[str, torch.Tensor]
RANK, MODULES = 2, 4
FORMS = ("kohya", "diffusers", "diffsynth")


@lru_cache
def places() -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """kohya's name, dotted name and shape of some layers of mini's UNet."""
    base = bases.get("mini")
    return tuple(
        (kohya_name(module_path("unet", name), base.family), name, tuple(layer.weight.shape))
        for name, layer in models.skeleton(base, "unet").named_modules()
        if name.endswith(("attn2.to_q", "conv1", "ff.net.2"))
    )


def call(rng: random.Random, path: object, folder: Path, **more: object) -> Callable[[], object]:
    """Bring ``path`` in, or convert it; what comes out must be a whole LoRA."""
    settings = Settings(base="mini", output=str(folder / "out"))
    form = rng.choice(FORMS)
    converts = not more and rng.random() < 0.3

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            if converts:
                made = convert(path, form, folder / "converted.safetensors")
            else:
                made = import_lora(path, settings, **more)
        tensors = load_file(made)
        if not tensors:
            raise Wrong("nothing is left")
        for key, tensor in tensors.items():
            if not torch.isfinite(tensor.float()).all():
                raise Wrong(f"{key} is not finite")
            if key.endswith(".alpha") and not tensor:
                raise Wrong(f"{key} is zero")

    return run


def good(rng: random.Random) -> Tensors:
    """A whole LoRA of some modules, in one of two forms."""
    dotted, tensors = rng.random() < 0.5, {}
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    for kohya, name, (outputs, *inputs) in rng.sample(places(), MODULES):
        down = torch.randn(RANK, *inputs, generator=generator)
        up = torch.randn(outputs, RANK, *[1] * (len(inputs) - 1), generator=generator)
        if dotted:
            tensors |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
        else:
            tensors |= {f"{kohya}.lora_down.weight": down, f"{kohya}.lora_up.weight": up}
            tensors[f"{kohya}.alpha"] = torch.tensor(1.0)
    return tensors


def written(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> Path:
    own = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
    path.write_bytes(serialise(own, metadata))
    return path
