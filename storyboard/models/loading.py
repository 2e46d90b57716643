"""Weights on disk -> modules of diffusers and transformers; no model code of our own."""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights

from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, reason
from storyboard.models import configs, devices, layout
from storyboard.models.bases import Base
from storyboard.models.layout import COMPUTED, DTYPES, renamed
from storyboard.models.safetensors_header import header_length, read_header
from storyboard.models.weight_files import SUFFIX, find_weights, read_headers

ROTARY = "rotary_pos_emb.inv_freq"  # of ChatGLM
_checked: set[tuple] = set()  # files whose layout was right


def class_of(base: Base, component: str) -> type:
    """The class that holds the weights of ``component``."""
    module, name = base.family.classes[component]
    return getattr(importlib.import_module(module), name)


def skeleton(base: Base, component: str) -> torch.nn.Module:
    """The module of ``component`` without weights: parameters on meta, buffers as computed.

    Raises:
        BaseError: ``config.json`` does not describe such a module.
    """
    base.check_component(component)
    return built(class_of(base, component), base.root / component)


def built(kind: type, folder: Path) -> torch.nn.Module:
    """A module of class ``kind`` without weights, as ``config.json`` in ``folder`` describes it.

    Raises:
        BaseError: It does not describe one.
    """
    path, remedy = folder / "config.json", "get the config and the weights of the same model"
    config = configs.public(configs.read(path, remedy))
    configs.check_values(path, config, remedy)
    config_class = getattr(kind, "config_class", None)  # of transformers
    configs.check_types(path, config, config_class or kind, remedy)
    try:
        with quiet(), init_empty_weights(include_buffers=False):
            if config_class:
                return kind(config_class.from_pretrained(folder))
            return kind.from_config(config)
    except Exception as error:  # constructors raise whatever their arithmetic meets
        raise BaseError(
            f"{path} does not describe a {kind.__name__} ({reason(error)}): {remedy}."
        ) from error


def check_layouts(base: Base) -> None:
    """Raise BaseError unless the files of every component hold what its config describes.

    Once in a process for files of the same sizes and times: the first that need weights wait for
    it, so that what is loaded last is not found wrong after hours.
    """
    files = sorted(path for path in base.root.glob("*/*") if path.suffix in (".json", SUFFIX))
    facts = [(path, path.stat()) for path in files if path.is_file()]
    state = tuple((path, each.st_size, each.st_mtime_ns) for path, each in facts)
    if state in _checked:
        return
    for component in base.components:
        check_layout(base, component)
    _checked.add(state)


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
    remedy = "get the config and the weights of the same model"
    check_folder(folder, remedy)
    options |= {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if kind.__name__.startswith("Auto"):  # by itself it asks at the keyboard
        options["trust_remote_code"] = False
    try:
        with quiet():
            model, report = kind.from_pretrained(folder, **options)
    except torch.OutOfMemoryError:  # a RuntimeError that is not about the files
        raise
    except Exception as error:  # the libraries raise whatever their own code meets
        raise BaseError(
            f"{folder} cannot be loaded as {kind.__name__} ({reason(error)}): {remedy}."
        ) from error

    wrong = []
    for what in ("missing", "unexpected", "mismatched"):
        names = sorted(map(str, report[f"{what}_keys"]))
        wrong += [f"{name} is {what}" for name in names if not name.endswith(COMPUTED)]
    if wrong:
        raise BaseError(
            f"{folder} does not hold the {type(model).__name__} that its config.json describes "
            f"({len(wrong)} tensors differ, such as: {wrong[0]}): {remedy}."
        )

    for name, values in rotary_frequencies(model, model.dtype).items():
        if name in report["missing_keys"]:
            owner = model.get_submodule(name.rpartition(".")[0])
            owner.inv_freq = values.to(model.device)
    return model.eval()


def check_folder(folder: Path, remedy: str) -> None:
    """Check ``config.json`` and the headers of the weights of one model, before it is loaded.

    Raises:
        BaseError: A file is missing or damaged, or the config asks for more than the weights are.
    """
    path = folder / "config.json"
    config = configs.read(path, remedy)
    tensors = read_headers(find_weights(folder, f"The model in {folder}", remedy), remedy)
    configs.check(path, config, len(tensors), remedy)


def pipeline(base: Base, kind: str | None = None, **parts: object):
    """diffusers' pipeline of ``base`` from some of its parts, the others None.

    It is configured as ``model_index.json`` says.

    Args:
        kind: diffusers' class, if it is not the base's own.
        parts: Modules, tokenizers and the scheduler by the names of the pipeline's arguments.
    """
    import diffusers

    kind = getattr(diffusers, kind or base.pipeline)
    index = configs.read(base.root / "model_index.json")
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


def damaged(modules: Mapping[str, torch.nn.Module]) -> str | None:
    """Component and name of the first tensor with a value that is not finite, for a message.

    All numbers are read: this is for finding the cause of an error.
    """
    for component, module in modules.items():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return f"{component} has values that are not finite in {name}"
    return None


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
    turned = tensor.ndim == 4 and device != devices.MPS
    memory_format = torch.channels_last if turned else torch.preserve_format
    return tensor.to(device, dtype, memory_format=memory_format)
