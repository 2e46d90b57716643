"""The LoRA file, all that crosses from training to rendering: in kohya's form.

kohya's keys with alpha are the one form that diffusers, ComfyUI and A1111's family all load whole.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save as serialise

from storyboard import artifacts
from storyboard.errors import LoraError, brief
from storyboard.lora import reading
from storyboard.lora.names import kohya_name

UNET_PREFIX = "lora_unet_"  # of the denoising model, in every family of sd-scripts


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
        """Files like ``path`` in the order of training; the last is ``path`` itself."""
        return [*sorted((self.path.parent / "checkpoints").glob("step-*.safetensors")), self.path]

    def __str__(self) -> str:
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        megabytes = self.path.stat().st_size / 1e6
        return (
            f"{self.path} ({megabytes:.1f} MB, {len(self.losses)} steps, "
            f"loss {sum(tail) / len(tail):.4f} over the last tenth)"
        )

    def _repr_html_(self) -> str:
        from storyboard import show

        previews = [
            (preview["step"], [self.path.parent / name for name in preview["pictures"]])
            for preview in self.previews
        ]
        return show.training(str(self), self.losses, previews)


def path_of(lora: object) -> Path:
    """The path of a LoRA, however it is given, whose file is that of its manifest.

    Args:
        lora: A ``Lora``, or the path of a file.

    Raises:
        LoraError: It is neither, there is no file, or training wrote other bytes.
    """
    if isinstance(lora, Lora):
        reading.check_file(lora.path)
        check_digest(lora.path, lora.digest)
        return lora.path
    if not isinstance(lora, (str, os.PathLike)) or not str(lora):
        raise LoraError(
            f"lora={brief(lora)} must be one LoRA: what train or import_lora returned, "
            "or the path of a file."
        )
    path = Path(os.fsdecode(lora))
    try:
        return path.expanduser()
    except RuntimeError:  # nobody of that name has a home
        return path


def check_digest(path: Path, digest: str) -> None:
    """Raise LoraError unless the SHA-256 of a file is ``digest``, of the manifest that names it."""
    if artifacts.digest_of_file(path) != digest:
        raise LoraError(
            f"{path} is not the file that was trained, its digest is another: run the training "
            "cell again, or give the path alone to draw with it as it is."
        )


def to_kohya(
    state: Mapping[str, torch.Tensor],
    alpha: float | Mapping[str, float],
    prefix: str = UNET_PREFIX,
) -> dict[str, torch.Tensor]:
    """peft's names in the UNet -> kohya's form; values in fp32 on the CPU.

    ``a.b.lora_A.default.weight`` becomes ``lora_unet_a_b.lora_down.weight``, and every module gets
    an ``.alpha`` (kohya-ss/sd-scripts, networks/lora.py).

    Args:
        alpha: One for all, or one for each module by its name.
        prefix: The family's for modules of its UNet.
    """
    converted = {}
    for key, value in state.items():
        module, side = key.replace(".default.", ".").rsplit(".lora_", 1)
        name = prefix + module.replace(".", "_")
        half = "down" if side.startswith("A") else "up"
        own_alpha = alpha[module] if isinstance(alpha, Mapping) else alpha
        converted[f"{name}.lora_{half}.weight"] = value.detach().float().cpu().contiguous()
        converted[f"{name}.alpha"] = torch.tensor(float(own_alpha))
    return converted


def save(
    path: Path,
    state: Mapping[str, torch.Tensor],
    alpha: float,
    metadata: Mapping[str, object],
    prefix: str = UNET_PREFIX,
) -> None:
    """Write peft's ``state`` of the UNet to ``path`` in kohya's form.

    Args:
        metadata: Its values become strings, as safetensors asks.
        prefix: The family's for modules of its UNet.

    Raises:
        LoraError: A weight is not finite, or nothing was trained.
    """
    tensors = to_kohya(state, alpha, prefix)
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise LoraError(
            "The LoRA holds values that are not finite: "
            "lower learning_rate and run the training cell again."
        )
    if not any(tensor.any() for name, tensor in tensors.items() if "lora_up" in name):
        raise LoraError(
            "The LoRA is all zeros, it has learnt nothing: "
            "raise train_steps and run the training cell again."
        )
    path.write_bytes(serialised(tensors, metadata))


def serialised(tensors: dict[str, torch.Tensor], metadata: Mapping[str, object]) -> bytes:
    """A safetensors file, byte for byte the same for the same content.

    Its metadata, a hash map in safetensors itself, are sorted.
    """
    facts = {key: str(value) for key, value in metadata.items()}
    content = serialise(_separate(tensors), facts)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(facts.items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _separate(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``tensors``, of which no two share memory, as those of a checkpoint may."""
    owners: set[int] = set()
    separate = {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        separate[key] = tensor.clone() if storage in owners else tensor
        owners.add(storage)
    return separate


def data_digest(path: Path) -> str:
    """SHA-256 of a safetensors file after its header, by which A1111 and kohya know a LoRA.

    (https://github.com/AUTOMATIC1111/stable-diffusion-webui, modules/hashes.py,
    addnet_hash_safetensors.)

    Raises:
        LoraError: It is no safetensors file, or not whole.
    """
    digest = hashlib.sha256()
    reading.header(path)  # it is whole
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def modules(path: Path) -> set[str]:
    """kohya's names of the modules that a kohya-form file changes. Errors as ``read_kohya``."""
    state = reading.read_kohya(path, values=False)
    return {kohya_name(module, state.family) for module in state.modules}


def has_text_encoder(path: Path) -> bool:
    """Whether a kohya-form file changes a text encoder. Errors as ``read_kohya``."""
    return bool(reading.read_kohya(path, values=False).components - {"unet"})


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, empty where there is none."""
    return reading.header(path)[1]
