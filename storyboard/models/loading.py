"""Weights on disk -> modules of diffusers and transformers; no model code of our own."""

import importlib
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights

from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError
from storyboard.models.base import header_length, read_header
from storyboard.models.bases import Base
from storyboard.models.layout import differences, pretrained, renamed, rotary_frequencies

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}


def class_of(base: Base, component: str) -> type:
    """The class that holds the weights of ``component``."""
    module, name = base.family.classes[component]
    return getattr(importlib.import_module(module), name)


def load(
    base: Base, component: str, dtype: torch.dtype, device: str = "cpu", **quantised: object
) -> torch.nn.Module:
    """The module of ``component`` with its weights, in evaluation mode.

    Args:
        device: Where each tensor goes as it is read: to fill a card, the CPU's memory has to hold one of them at a time.
        quantised: Options that ``from_pretrained`` quantises by; it loads then, onto the card.

    Raises:
        BaseError: The weights are not those that ``config.json`` describes.
    """
    model = skeleton(base, component)
    files = base.weight_files(component)
    check(model, files)
    if quantised:
        variant = base.variant(component)
        return pretrained(
            type(model), base.folder / component, variant=variant, dtype=dtype, **quantised
        )
    return filled(model, files, dtype, device)


def filled(
    model: torch.nn.Module, files: Sequence[Path], dtype: torch.dtype, device: str = "cpu"
) -> torch.nn.Module:
    """``model``, until now without weights, with those in ``files``, which ``check`` found to be its own."""
    tensors = rotary_frequencies(model, dtype) | dict(_tensors(model, files, dtype, device))
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(False).eval().to(device)  # buffers that no file holds


def read(base: Base, component: str, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of ``component`` by the names of its class, floats cast to ``dtype``, 4-D ones channels last."""
    return _tensors(skeleton(base, component), base.weight_files(component), dtype, "cpu")


def _tensors(
    model: torch.nn.Module, files: Sequence[Path], dtype: torch.dtype, device: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names in ``model`` and tensors in the order of ``files``, each in memory of its own.

    Not by memory map: the file's pages would count beside the cast copies, and tensors would lie at addresses at which
    kernels round differently.
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for path in files:
        start, header = header_length(path), read_header(path)
        names = renamed(model, header)
        with open(path, "rb", buffering=0) as file:
            for old, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                if (name := names[old]) not in shapes:
                    continue  # the class computes it

                tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
                file.seek(start + entry["data_offsets"][0])
                if tensor.numel():
                    file.readinto(memoryview(tensor.view(-1).view(torch.uint8).numpy()))
                tensor = tensor.view(shapes[name])

                # kernels of convolutions lie as they will be used: to turn them round later would leave holes in memory
                layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
                yield (
                    name,
                    tensor.to(device, dtype, memory_format=layout)
                    if tensor.is_floating_point()
                    else tensor.to(device),
                )


def tokenizer(base: Base, component: str):
    """The tokenizer that belongs to the text encoder ``component``."""
    module, name = base.family.tokenizers[component]
    with quiet():
        return getattr(importlib.import_module(module), name).from_pretrained(
            base.folder / component.replace("text_encoder", "tokenizer"), local_files_only=True
        )


def pipeline(base: Base, kind: str | None = None, **parts: object):
    """diffusers' pipeline of ``base`` from some of its parts, the others None; configured as ``model_index.json`` says.

    Args:
        kind: diffusers' class, if it is not the base's own.
    """
    import diffusers

    kind = getattr(diffusers, kind or base.pipeline)
    settings = json.loads((base.folder / "model_index.json").read_text(encoding="utf-8"))
    signature = inspect.signature(kind.__init__).parameters
    arguments = {
        name: None
        for name, parameter in signature.items()
        if name != "self" and parameter.default is inspect.Parameter.empty
    }
    arguments |= {
        name: settings[name]
        for name in ("force_zeros_for_empty_prompt",)
        if name in settings and name in signature
    }
    arguments |= {
        name: False for name in ("requires_safety_checker", "add_watermarker") if name in signature
    }
    with quiet():
        pipe = kind(**arguments | parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def check_layout(base: Base, component: str) -> None:
    """``check`` for ``component`` of ``base``."""
    check(skeleton(base, component), base.weight_files(component))


def check(model: torch.nn.Module, files: Sequence[Path]) -> None:
    """Compare names and shapes in the headers of ``files`` with those of ``model``; nothing is read but headers.

    Raises:
        BaseError: Tensors are missing, too many, of another shape or of an unknown type; names the file and the first.
    """
    found = {}
    for path in files:
        header = read_header(path)
        if strange := sorted({entry["dtype"] for entry in header.values()} - DTYPES.keys()):
            raise BaseError(
                f"{path} holds numbers of the type {strange[0]}: get the weights in fp16, bf16 or fp32."
            )
        names = renamed(model, header)
        found |= {names[old]: entry["shape"] for old, entry in header.items()}

    if wrong := differences(model, found):
        where = files[0] if len(files) == 1 else files[0].parent
        said = f"{where} does not hold the {type(model).__name__} that the config.json beside it describes"
        such = (
            f"{len(wrong)} of {len(model.state_dict())} tensors are missing or differ ({wrong[0]})"
        )
        raise BaseError(f"{said}: {such}: get the weights and the config of the same model.")


def skeleton(base: Base, component: str) -> torch.nn.Module:
    """The module of ``component`` without weights: parameters on the meta device, buffers as computed."""
    kind = class_of(base, component)
    with quiet(), init_empty_weights(include_buffers=False):
        if getattr(kind, "config_class", None):
            return kind(kind.config_class.from_pretrained(base.folder / component))
        return kind.from_config(base.config(component))
