"""What a stage has to know of the model it works on."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import BaseError

# Up to this size a file's whole content enters the fingerprint, beyond it the safetensors header only.
WHOLE_FILE_LIMIT = 64 * 2**20


@dataclass(frozen=True)
class Base:
    """A base model in the layout of a diffusers folder.

    Attributes:
        name: How settings call it.
        title: How people call it.
        architecture: ``modelspec.architecture`` of its LoRAs, without ``/lora``.
        folder: Local folder that holds the weights.
        text_encoder_file, unet_file, vae_file: Weights inside ``folder``.
        resolution: Native side of a square picture, pixels; ``resolution_step`` divides every side.
        text_length: Tokens a prompt is padded to.
        num_train_timesteps, beta_start, beta_end: The noise schedule, ``scaled_linear``.
        lora_targets: Suffixes of UNet modules that get a LoRA.
        high_noise_weight: What an error in the picture adds to the loss (``training.loop.timestep_weights``); 0 weighs all timesteps alike.
        learning_rate, train_steps, train_batch_size, num_inference_steps, guidance_scale: Defaults of ``Settings``.
    """

    name: str
    title: str
    architecture: str
    folder: Path
    text_encoder_file: str
    unet_file: str
    vae_file: str
    resolution: int
    resolution_step: int
    text_length: int
    num_train_timesteps: int
    beta_start: float
    beta_end: float
    lora_targets: tuple[str, ...]
    learning_rate: float
    train_steps: int
    train_batch_size: int
    num_inference_steps: int
    guidance_scale: float
    high_noise_weight: float = 0.0

    def check(self) -> None:
        """Raise BaseError unless every file is there, and weights are as long as their own header says."""
        weights = (self.text_encoder_file, self.unet_file, self.vae_file)
        for name in (*weights, "model_index.json", "text_encoder/config.json", "unet/config.json", "vae/config.json", "tokenizer/tokenizer.model"):
            path = self.folder / name
            if not path.is_file():
                raise BaseError(f"The base {self.name!r} lacks {path}: restore it from the repository (git checkout -- {os.path.relpath(self.folder)}).")
            if name not in weights:
                continue
            expected = header_length(path) + max((entry["data_offsets"][1] for entry in read_header(path).values()), default=0)
            if path.stat().st_size != expected:
                raise BaseError(f"{path} is {path.stat().st_size} bytes long where its header asks for {expected}: it is cut off, get it again.")

    def config(self, component: str) -> dict:
        """The ``config.json`` of ``unet``, ``vae`` or ``text_encoder``, without private keys."""
        content = json.loads((self.folder / component / "config.json").read_text(encoding="utf-8"))
        return {key: value for key, value in content.items() if not key.startswith("_")}

    def fingerprint(self) -> str:
        """SHA-256 over names, sizes and content (headers only, beyond 64 MB) of all files of the base."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.suffix in {".json", ".safetensors", ".model"}:
                size = path.stat().st_size
                digest.update(f"{path.relative_to(self.folder).as_posix()}:{size}:".encode())
                with open(path, "rb") as file:
                    digest.update(file.read(size if size <= WHOLE_FILE_LIMIT else header_length(path)))
        return digest.hexdigest()


def header_length(path: Path) -> int:
    """Bytes before the first tensor of a safetensors file (https://github.com/huggingface/safetensors#format)."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(100 * 2**20, max(path.stat().st_size - 8, 0)):
        raise BaseError(f"{path} is not a safetensors file: its header would be {length} bytes long; get it again.")
    return 8 + length


def read_header(path: Path) -> dict:
    """Names, types, shapes and offsets of the tensors of a safetensors file."""
    length = header_length(path)
    with open(path, "rb") as file:
        file.seek(8)
        try:
            header = json.loads(file.read(length - 8))
        except ValueError as error:
            raise BaseError(f"{path} has a damaged header: get it again.") from error
    header.pop("__metadata__", None)
    return header
