"""Weights on disk -> modules of diffusers and transformers; no model code of our own."""

import importlib
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError

from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError
from storyboard.models import layout
from storyboard.models.bases import Base
from storyboard.models.layout import COMPUTED, DTYPES, renamed
from storyboard.models.safetensors_header import header_length, read_header

ROTARY = "rotary_pos_emb.inv_freq"  # of ChatGLM


def class_of(base: Base, component: str) -> type:
    """The class that holds the weights of ``component``."""
    module, name = base.family.classes[component]
    return getattr(importlib.import_module(module), name)


def skeleton(base: Base, component: str) -> torch.nn.Module:
    """The module of ``component`` without weights: parameters on meta, buffers as computed."""
    kind = class_of(base, component)
    with quiet(), init_empty_weights(include_buffers=False):
        if getattr(kind, "config_class", None):  # transformers
            return kind(kind.config_class.from_pretrained(base.folder / component))
        return kind.from_config(base.config(component))


def check_layout(base: Base, component: str) -> None:
    """Raise BaseError unless the files of ``component`` hold what its config describes."""
    layout.check(skeleton(base, component), base.weight_files(component))


def load(
    base: Base, component: str, dtype: torch.dtype, device: str = "cpu", **quantised: object
) -> torch.nn.Module:
    """The module of ``component`` with its weights, in evaluation mode.

    Args:
        device: Where each tensor goes as it is read: to fill a card, the CPU's memory has to hold
            one of them at a time.
        quantised: Options that ``from_pretrained`` quantises by; it loads then, onto the card.

    Raises:
        BaseError: The weights are not those that ``config.json`` describes.
    """
    model = skeleton(base, component)
    files = base.weight_files(component)
    layout.check(model, files)
    if quantised:
        variant = base.variant(component)
        return pretrained(
            type(model), base.folder / component, variant=variant, dtype=dtype, **quantised
        )
    return filled(model, files, dtype, device)


def filled(
    model: torch.nn.Module, files: Sequence[Path], dtype: torch.dtype, device: str = "cpu"
) -> torch.nn.Module:
    """``model``, until now without weights, with those in ``files``, which are checked already."""
    tensors = rotary_frequencies(model, dtype) | dict(_tensors(model, files, dtype, device))
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(False).eval().to(device)  # buffers that no file holds


def read(base: Base, component: str, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Names in the class of ``component`` and tensors: floats in ``dtype``, 4-D channels last."""
    return _tensors(skeleton(base, component), base.weight_files(component), dtype, "cpu")


def pretrained(kind: type, folder: Path, **options: object) -> torch.nn.Module:
    """``kind.from_pretrained(folder)`` in evaluation mode, or an error.

    From safetensors files that hold its tensors and no others: the libraries fill what a file
    lacks with random numbers and only report it.

    Args:
        options: Further arguments of ``from_pretrained``.

    Raises:
        BaseError: The files are damaged or of another model than ``config.json``, or there are
            none.
    """
    options |= {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    try:
        with quiet():
            model, report = kind.from_pretrained(folder, **options)
    except torch.OutOfMemoryError:  # a RuntimeError that is not about the files
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        raise BaseError(
            f"{folder} cannot be loaded as {kind.__name__} ({reason}): "
            "get the config and the weights of the same model."
        ) from error

    wrong = []
    for what in ("missing", "unexpected", "mismatched"):
        names = sorted(map(str, report[f"{what}_keys"]))
        wrong += [f"{name} is {what}" for name in names if not name.endswith(COMPUTED)]
    if wrong:
        raise BaseError(
            f"{folder} does not hold the {type(model).__name__} that its config.json describes "
            f"({len(wrong)} tensors differ, such as: {wrong[0]}): "
            "get the config and the weights of the same model."
        )

    for name, values in rotary_frequencies(model, model.dtype).items():
        if name in report["missing_keys"]:
            owner = model.get_submodule(name.rpartition(".")[0])
            owner.inv_freq = values.to(model.device)
    return model.eval()


def tokenizer(base: Base, component: str):
    """The tokenizer that belongs to the text encoder ``component``."""
    module, name = base.family.tokenizers[component]
    folder = base.folder / component.replace("text_encoder", "tokenizer")
    with quiet():
        kind = getattr(importlib.import_module(module), name)
        return kind.from_pretrained(folder, local_files_only=True)


def pipeline(base: Base, kind: str | None = None, **parts: object):
    """diffusers' pipeline of ``base`` from some of its parts, the others None.

    It is configured as ``model_index.json`` says.

    Args:
        kind: diffusers' class, if it is not the base's own.
        parts: Modules, tokenizers and the scheduler by the names of the pipeline's arguments.
    """
    import diffusers

    kind = getattr(diffusers, kind or base.pipeline)
    index = json.loads((base.folder / "model_index.json").read_text(encoding="utf-8"))
    parameters = inspect.signature(kind.__init__).parameters
    required = [
        name
        for name, parameter in parameters.items()
        if name != "self" and parameter.default is inspect.Parameter.empty
    ]

    arguments = dict.fromkeys(required)
    for name in ("force_zeros_for_empty_prompt",):
        if name in index and name in parameters:
            arguments[name] = index[name]
    for name in ("requires_safety_checker", "add_watermarker"):
        if name in parameters:
            arguments[name] = False

    with quiet():
        pipe = kind(**arguments | parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def rotary_frequencies(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """ChatGLM's rotary frequencies by their name in ``model``; nothing for models without.

    The formula is ``RotaryEmbedding`` of diffusers/pipelines/kolors/text_encoder.py, which rotates
    in their type.
    """
    frequencies = {}
    for name, buffer in model.named_buffers():
        if name.endswith(ROTARY):
            size = 2 * len(buffer)
            exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
            frequencies[name] = (1.0 / 10000**exponents).to(dtype)
    return frequencies


def _tensors(
    model: torch.nn.Module, files: Sequence[Path], dtype: torch.dtype, device: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names in ``model`` and tensors in the order of ``files``, each in memory of its own.

    Not by memory map: the file's pages would count beside the cast copies, and tensors would lie at
    addresses at which kernels round differently.
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for path in files:
        start, header = header_length(path), read_header(path)
        names = renamed(model, header)
        with path.open("rb", buffering=0) as file:
            for old, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                name = names[old]
                if name not in shapes:
                    continue  # the class computes it

                tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
                file.seek(start + entry["data_offsets"][0])
                if tensor.numel():
                    file.readinto(memoryview(tensor.view(-1).view(torch.uint8).numpy()))
                yield name, _placed(tensor.view(shapes[name]), dtype, device)


def _placed(tensor: torch.Tensor, dtype: torch.dtype, device: str) -> torch.Tensor:
    """``tensor`` on ``device``; floats in ``dtype``."""
    if not tensor.is_floating_point():
        return tensor.to(device)

    # kernels of convolutions lie as they will be used: to turn them later would leave holes in
    # memory
    memory_format = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
    return tensor.to(device, dtype, memory_format=memory_format)
