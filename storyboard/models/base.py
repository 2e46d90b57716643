"""What a stage has to know of the model it works on."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from storyboard.errors import BaseError, reason
from storyboard.models import configs, tokenizer_files
from storyboard.models.families import Family
from storyboard.models.hubs import HubModel
from storyboard.models.safetensors_header import header_length
from storyboard.models.weight_files import find_weights, read_headers

# up to this size a file's whole content enters the fingerprint; beyond it the header, and pieces
# from all over the file, because checkpoints of one family share their header
WHOLE_FILE_LIMIT = 64 * 2**20
PIECES, PIECE = 256, 2**16
FINGERPRINTED = {".json", ".safetensors", ".model", ".txt"}

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Base:
    """A base model: a family, where its weights are, and what suits it.

    Defaults are those of Stable Diffusion's schedule and of a base at full size.

    Attributes:
        name: How settings call it.
        title: How people call it.
        family: What depends on its architecture.
        architecture: ``modelspec.architecture`` of its LoRAs, without ``/lora``.
        kohya_name: ``ss_base_model_version`` of its LoRAs, as kohya's sd-scripts write it.
        resolution: Native side of a square picture, pixels.
        resolution_step: Divides every side of a picture.
        folder: Local folder in diffusers' layout; None until the weights are fetched.
        checkpoint: A single file in the original layout that the weights come from; None for all
            others.
        modelscope, huggingface: Ids at the two hubs, asked in this order; None for a base that is
            at hand.
        download: Bytes that the hub sends, as listed when this was written; the true size is
            printed before.
        num_train_timesteps, beta_start, beta_end: The noise schedule, ``scaled_linear``.
        prediction_type: What the UNet predicts, ``"epsilon"`` (the noise) or ``"v_prediction"``
            (https://arxiv.org/abs/2202.00512).
        zero_terminal_snr: The schedule is rescaled to end at pure noise
            (https://arxiv.org/abs/2305.08891).
        lora_targets: Suffixes of UNet modules that get a LoRA; a single one is a regular
            expression for whole names, as peft takes it.
        high_noise_weight: What an error in the picture adds to the loss
            (``training.loss.timestep_weights``); 0 weighs all timesteps alike.
        rank, learning_rate, train_steps, train_batch_size, prior_loss_weight, caption_dropout,
            num_inference_steps, guidance_scale, guidance_end: Defaults of ``Settings``.
        small_set: Those of them that are others for a training set of few pictures
            (``training.defaults``), by name.
        vae_psnr: Of pictures of its own styles through its VAE, dB; None where every style comes
            through it.
        controlnets: By ``Reference``'s control, a ControlNet at the hubs or in a folder.
        ip_adapter: Model at the hubs, weight file and folder of the image encoder in it; None
            where there is no IP-Adapter.
        unet: What the config of its UNet says, by which a folder is known to be built on it.
        licence: Fields of a model card's front matter that a LoRA of it is given on under.
        comfy_files: File that its publisher offers, by the input of ComfyUI's loader.
        comfy_note: What a graph of ComfyUI says of this base.
        embedded: It lies in this repository, where git restores it.
        judge: What scores its pictures: ``"clip"`` and other metrics, or ``"mini"``, the
            classifier of what mini knows.
    """

    name: str
    title: str
    family: Family
    architecture: str
    kohya_name: str
    resolution: int
    resolution_step: int = 64
    folder: Path | None = None
    checkpoint: Path | None = None
    modelscope: str | None = None
    huggingface: str | None = None
    download: int = 0
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: str = "epsilon"
    zero_terminal_snr: bool = False
    lora_targets: tuple[str, ...] = ATTENTION
    high_noise_weight: float = 0.0
    rank: int = 16
    learning_rate: float = 1e-4
    train_steps: int = 800
    train_batch_size: int = 4
    prior_loss_weight: float = 0.0
    caption_dropout: float = 0.1
    num_inference_steps: int = 25
    guidance_scale: float = 5.0
    guidance_end: float = 1.0
    small_set: Mapping[str, float] = field(default_factory=dict, hash=False)
    vae_psnr: float | None = None
    controlnets: Mapping[str, HubModel | str] = field(default_factory=dict, hash=False)
    ip_adapter: tuple[HubModel, str, str] | None = None
    unet: Mapping[str, object] = field(default_factory=dict, hash=False)
    licence: Mapping[str, str] = field(default_factory=dict, hash=False)
    comfy_files: Mapping[str, str] = field(default_factory=dict, hash=False)
    comfy_note: str = ""
    embedded: bool = False
    judge: str = "clip"

    @property
    def root(self) -> Path:
        """``folder``, of a base that is fetched; BaseError for one that is not."""
        if self.folder is None:
            raise BaseError(f"The weights of {self.name!r} are not fetched: run the check cell.")
        return self.folder

    @property
    def pipeline(self) -> str:
        """diffusers' class that draws with it."""
        return self.family.pipeline

    @property
    def components(self) -> tuple[str, ...]:
        """Folders that hold weights."""
        return self.family.components

    @property
    def text_length(self) -> int:
        """Tokens that a prompt is padded to."""
        return self.family.text_length

    @property
    def clip_layer(self) -> int | None:
        """The layer of CLIP that prompts are usually read at, counted from the end, if any."""
        return self.family.clip_layer

    @property
    def schedule_type(self) -> str:
        """What A1111 calls the sigmas of drawing (``rendering.sampling.scheduler``)."""
        return "Simple" if self.zero_terminal_snr else "Karras"

    def weight_files(self, component: str) -> list[Path]:
        """The safetensors files of ``component``; arguments and errors as ``find_weights``."""
        return find_weights(self.folder / component, f"The base {self.name!r}", self._remedy())

    def variant(self, component: str) -> str | None:
        """``"fp16"`` where the weights are named so, as ``from_pretrained`` asks for it."""
        return "fp16" if ".fp16" in self.weight_files(component)[0].name else None

    def check(self) -> None:
        """Check every file but for the numbers: headers, configs, vocabularies.

        Raises:
            BaseError: A file is missing or damaged, or a config asks for more than the weights are.
        """
        index = self._read("model_index.json")
        configs.check_values(self.folder / "model_index.json", index, self._remedy())
        for component in self.components:
            if component.startswith("text_encoder"):
                folder = self.folder / component.replace("text_encoder", "tokenizer")
                tokenizer_files.check(folder, f"The base {self.name!r}", self._remedy())
        for component in self.components:
            self.check_component(component)

    def check_component(self, component: str) -> None:
        """Raise BaseError unless config and weights of ``component`` are there and whole."""
        config = self._read(f"{component}/config.json")
        tensors = read_headers(self.weight_files(component), self._remedy())
        path = self.folder / component / "config.json"
        configs.check(path, config, len(tensors), self._remedy())

    def _read(self, name: str) -> dict:
        """The JSON object in the file ``name``."""
        path = self.folder / name
        if not path.is_file():
            raise BaseError(f"The base {self.name!r} lacks {path}: {self._remedy()}.")
        return configs.read(path, self._remedy())

    def _remedy(self) -> str:
        """What to do where files are missing."""
        if self.modelscope:
            # a client that links its snapshots to blobs would link to the same file again
            in_cache = self.root.parent.name == "snapshots"
            folder = self.root.parents[1] if in_cache else self.root
            return f"delete {folder} and run this cell again, it is fetched anew"
        if self.embedded:
            folder = os.path.relpath(self.folder)
            return f"restore it from the repository (git checkout -- {folder})"
        return "get it again"

    def config(self, component: str) -> dict:
        """The ``config.json`` of a component, without private keys."""
        return configs.public(self._read(f"{component}/config.json"))

    def fingerprint(self) -> str:
        """SHA-256 of its files, as ``fingerprint_of``."""
        return fingerprint_of(self.folder)


def fingerprint_of(folder: Path) -> str:
    """SHA-256 over names, sizes and content of a model's files.

    Of files beyond 64 MB: header and 256 pieces.

    Raises:
        BaseError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix not in FINGERPRINTED:
            continue

        size = path.stat().st_size
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}:{size}:".encode(errors="surrogateescape"))
        try:
            for piece in _pieces(path, size):
                digest.update(piece)
        except OSError as error:
            raise BaseError(f"{path} cannot be read ({reason(error)}): get it again.") from error
    return digest.hexdigest()


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """The content of a file, or parts from all over it where it is long."""
    with path.open("rb") as file:
        if size <= WHOLE_FILE_LIMIT:
            yield file.read()
            return
        if path.suffix == ".safetensors":
            yield file.read(header_length(path))
        for piece in range(PIECES):
            file.seek(piece * (size - PIECE) // (PIECES - 1))
            yield file.read(PIECE)
