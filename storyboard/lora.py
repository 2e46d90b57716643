"""The LoRA, all that crosses from training to rendering: a file in kohya's form.

kohya's keys with alpha are the one form that diffusers, ComfyUI and A1111's family all load whole.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from .errors import LoraError

PREFIX = "lora_unet_"


@dataclass(frozen=True)
class Lora:
    """A trained LoRA on disk.

    Attributes:
        path: ``lora.safetensors`` in kohya's form.
        base: Name of the base it belongs to.
        digest: SHA-256 of the file.
        losses: One a step.
        previews: ``{"step", "pictures": [file names]}`` in the order of training.
    """

    path: Path
    base: str
    digest: str
    losses: list[float] = field(repr=False)
    previews: list[dict] = field(repr=False)

    @property
    def checkpoints(self) -> list[Path]:
        """The LoRA along the way, in the order of training, each a file as ``path`` is; the last is ``path`` itself."""
        return [*sorted((self.path.parent / "checkpoints").glob("step-*.safetensors")), self.path]

    def __str__(self) -> str:
        tail = self.losses[-max(1, len(self.losses) // 10):]
        return f"{self.path} ({self.path.stat().st_size / 1e6:.1f} MB, {len(self.losses)} steps, loss {sum(tail) / len(tail):.4f} over the last tenth)"

    def _repr_html_(self) -> str:
        from . import show

        return show.training(self)


def to_kohya(state: dict[str, torch.Tensor], alpha: float | dict[str, float]) -> dict[str, torch.Tensor]:
    """peft's ``a.b.lora_A.default.weight`` -> ``lora_unet_a_b.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``.

    Names as kohya-ss/sd-scripts writes them (networks/lora.py); values in fp32 on the CPU.

    Args:
        alpha: One for all, or one for each module by its name.
    """
    converted = {}
    for key, value in state.items():
        module, side = key.replace(".default.", ".").rsplit(".lora_", 1)
        name = PREFIX + module.replace(".", "_")
        converted[f"{name}.lora_{'down' if side.startswith('A') else 'up'}.weight"] = value.detach().float().cpu().contiguous()
        converted[f"{name}.alpha"] = torch.tensor(float(alpha[module] if isinstance(alpha, dict) else alpha))
    return converted


def save(path: Path, state: dict[str, torch.Tensor], alpha: float, metadata: dict[str, object]) -> None:
    """Write peft's ``state`` to ``path`` in kohya's form; metadata values become strings, as safetensors asks.

    Raises:
        LoraError: A weight is not finite, or nothing was trained.
    """
    tensors = to_kohya(state, alpha)
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise LoraError("The LoRA holds values that are not finite: lower learning_rate and run the training cell again.")
    if not any(tensor.any() for name, tensor in tensors.items() if "lora_up" in name):
        raise LoraError("The LoRA is all zeros, it has learnt nothing: raise train_steps and run the training cell again.")
    path.write_bytes(serialised(tensors, metadata))


def serialised(tensors: dict[str, torch.Tensor], metadata: dict[str, object]) -> bytes:
    """A safetensors file, byte for byte the same for the same content: its metadata, a hash map upstream, is sorted."""
    content = serialise(tensors, {key: str(value) for key, value in metadata.items()})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8:8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + length:]


def data_digest(path: Path) -> str:
    """SHA-256 of a safetensors file behind its header, by which A1111 and kohya know a LoRA.

    (https://github.com/AUTOMATIC1111/stable-diffusion-webui, modules/hashes.py, addnet_hash_safetensors.)
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def modules(path: Path) -> set[str]:
    """Names of the modules that a kohya-form file changes.

    Raises:
        LoraError: It is no safetensors file, or no kohya-form LoRA of a UNet.
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise LoraError(f"{path} is not a whole safetensors file ({error}): train it again or give another file.") from error
    found = {key.removesuffix(".lora_down.weight") for key in keys if key.startswith(PREFIX) and key.endswith(".lora_down.weight")}
    known = {f"{name}.{part}" for name in found for part in ("lora_down.weight", "lora_up.weight", "alpha")}
    if found and (strange := set(keys) - known):
        raise LoraError(f"{path} holds {len(strange)} tensors beside its UNet LoRA (such as {min(strange)}), which would be left out: give a plain LoRA of the UNet alone.")
    if not found:
        raise LoraError(f"{path} holds no LoRA in kohya's form: convert it first, or give the lora.safetensors that training wrote.")
    return found


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, empty where there is none."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
