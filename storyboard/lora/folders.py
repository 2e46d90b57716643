"""Folders with a LoRA: peft's, with its configuration, and diffusers'."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from storyboard.errors import LoraError
from storyboard.lora import configuration, names
from storyboard.lora.configuration import DAMAGE, WRAPPER
from storyboard.lora.forms.registry import Metadata, Tensors
from storyboard.lora.names import shown

CONFIG = "adapter_config.json"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
OF_DIFFUSERS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LARGEST_CONFIG = 10 * 2**20  # bytes
KINDS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}  # peft_type -> where alpha stands
TEXT_NAMES = ("text_model.", "encoder.layers.", "text_projection")

Read = Callable[[Path], tuple[Tensors, Metadata]]


def is_adapter(path: Path) -> bool:
    """Whether ``path`` is the file of a peft folder, beside its configuration."""
    return path.name in ADAPTERS and (path.parent / CONFIG).is_file()


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder; one of a name that no disk takes is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def read(folder: Path, read_file: Read) -> tuple[Tensors, Metadata]:
    """Tensors and metadata of a folder, in the form of diffusers where it is peft's.

    Args:
        folder: With peft's two files, with one such folder for each component (``unet``,
            ``text_encoder``), or with diffusers' one file.
        read_file: Reads a file of it.

    Raises:
        LoraError: It is none of these, or its configuration is not read.
    """
    own = [path for path in (folder, *_components(folder)) if (path / CONFIG).is_file()]
    if not own:
        for name in OF_DIFFUSERS:
            if (folder / name).is_file():
                return read_file(folder / name)
        raise _without_lora(folder)

    tensors: Tensors = {}
    settings: dict[str, object] = {}
    metadata: Metadata = {}
    for path in own:
        of_one, component = _of_peft(path, read_file)
        if any(key.startswith(f"{component}.") for key in tensors):
            raise LoraError(
                f"{folder} holds two LoRAs for {component}: give the folder of one of them."
            )
        tensors |= {f"{component}.{key}": tensor for key, tensor in of_one.items()}
        config = _config(path)
        settings |= {f"{component}.{key}": value for key, value in config.items()}
        _refuse_whole_kronecker(path, of_one, config)
        trained_on = config.get("base_model_name_or_path")
        if isinstance(trained_on, str) and HUB_ID.fullmatch(trained_on):
            metadata["base_model"] = trained_on
    return tensors, metadata | {configuration.METADATA: json.dumps(settings)}


def _components(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(names.components())]


def _without_lora(folder: Path) -> LoraError:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(files) == 1:
        return LoraError(f"{folder} is a folder: give the file {shown(files[0])} in it.")
    listed = f", which holds {len(files)} files (such as {shown(files[0])})" if files else ""
    return LoraError(
        f"{folder} is a folder without {CONFIG} or {OF_DIFFUSERS[0]}{listed}: "
        "give the path of one LoRA file."
    )


def _of_peft(folder: Path, read_file: Read) -> tuple[Tensors, str]:
    """The tensors of one peft folder without ``base_model.model.``, and their component."""
    file = next((folder / name for name in ADAPTERS if (folder / name).is_file()), None)
    if file is None:
        raise LoraError(f"{folder} has {CONFIG} and no {ADAPTERS[0]} beside it: get it again.")
    tensors, _ = read_file(file)
    plain = {key.removeprefix(WRAPPER): tensor for key, tensor in tensors.items()}
    if len(plain) < len(tensors):
        raise LoraError(f"{file} has a tensor twice, with {WRAPPER} and without: get it again.")
    tensors = plain
    if folder.name in names.components():
        return tensors, folder.name
    text = all(key.startswith(TEXT_NAMES) for key in tensors)
    return tensors, "text_encoder" if text else "unet"


def _config(folder: Path) -> dict[str, object]:
    """peft's configuration, with alpha where that of a plain LoRA stands."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"over {LARGEST_CONFIG} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("peft_type", "LORA")
        if kind in KINDS:
            config["lora_alpha"] = config[KINDS[kind]]
    except (OSError, *DAMAGE) as error:
        raise LoraError(
            f"{path} is damaged ({shown(f'{type(error).__name__}: {error}')}): get it again."
        ) from error
    if kind not in KINDS:
        raise LoraError(
            f"{folder} is of peft's kind {shown(str(kind))}, which is not read: "
            f"give one of the kinds {', '.join(KINDS)}."
        )
    return config


def _refuse_whole_kronecker(folder: Path, tensors: Tensors, config: dict[str, object]) -> None:
    """Raise LoraError where peft's LoKr scales what LyCORIS and ComfyUI do not.

    Where neither side is in halves they pass alpha over; peft does not (tuners/lokr/layer.py).
    """
    whole = any(
        key.endswith(".lokr_w1") and f"{key.removesuffix('1')}2" in tensors for key in tensors
    )
    if whole and config.get("alpha") != config.get("r"):
        raise LoraError(
            f"{folder} is peft's LoKr with whole matrices and alpha={config.get('alpha')!r} beside "
            f"r={config.get('r')!r}, whose scale other programs pass over: "
            "save it with alpha equal to r."
        )
