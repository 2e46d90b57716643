"""How diffusers and transformers rename tensors while they load, and models that are loaded whole or not at all."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from storyboard.compat import diffusers, transformers
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError

COMPUTED = (
    "position_ids",
    "inv_freq",
)  # ends of the names of tensors that follow from the config; in older files
ROTARY = "rotary_pos_emb.inv_freq"


def renamed(model: torch.nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Names in a file -> names in ``model``, as the library of its class renames them while loading.

    Such are attention in diffusers before 0.18 (``query`` is ``to_q`` today) and the prefixes of transformers before 5.
    """
    library = diffusers if diffusers.is_model(model) else transformers
    return library.renamed(model, names)


def differences(model: torch.nn.Module, found: Mapping[str, Sequence[int]]) -> list[str]:
    """What is wrong with tensors of the names and shapes ``found`` for ``model``, a phrase for each.

    Those that are computed may be absent or too many.
    """
    computed = lambda name: name.endswith(COMPUTED)
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [
        f"{name} should be {shape} and is {list(found[name]) if name in found else 'absent'}"
        for name, shape in expected.items()
        if not (_same_numbers(list(found[name]), shape) if name in found else computed(name))
    ]
    return wrong + [
        f"{name} has no place there"
        for name in found
        if name not in expected and not computed(name)
    ]


def _same_numbers(found: list[int], expected: list[int]) -> bool:
    """Whether the shapes are the same, or those of a 1x1 convolution (n, m, 1, 1) and of a linear layer (n, m)."""
    short, long = sorted([found, expected], key=len)
    return short == long or (len(short) == 2 and long == [*short, 1, 1])


def pretrained(kind: type, folder: Path, **options: object) -> torch.nn.Module:
    """``kind.from_pretrained(folder)`` in evaluation mode, from safetensors files that hold its tensors and no others.

    The libraries fill what a file lacks with random numbers and only report it.

    Args:
        options: Further arguments of ``from_pretrained``.

    Raises:
        BaseError: The files are damaged or of another model than ``config.json``, or there are none.
    """
    options |= {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    try:
        with quiet():
            model, report = kind.from_pretrained(folder, **options)
    except torch.OutOfMemoryError:
        raise
    except (
        OSError,
        ValueError,
        RuntimeError,
        SafetensorError,
    ) as error:  # RuntimeError: another shape
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        said = f"{folder} cannot be loaded as {kind.__name__} ({reason})"
        raise BaseError(f"{said}: get the config and the weights of the same model.") from error

    wrong = [
        f"{name} is {what}"
        for what in ("missing", "unexpected", "mismatched")
        for name in sorted(map(str, report[f"{what}_keys"]))
        if not name.endswith(COMPUTED)
    ]
    if wrong:
        said = f"{folder} does not hold the {type(model).__name__} that its config.json describes"
        such = f"{len(wrong)} tensors differ, such as: {wrong[0]}"
        raise BaseError(f"{said} ({such}): get the config and the weights of the same model.")

    for name, values in rotary_frequencies(model, model.dtype).items():
        if name in report["missing_keys"]:
            owner = model.get_submodule(name.rpartition(".")[0])
            owner.inv_freq = values.to(model.device)
    return model.eval()


def rotary_frequencies(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """ChatGLM's rotary frequencies by their name in ``model``; nothing for models without.

    The formula is ``RotaryEmbedding`` of diffusers/pipelines/kolors/text_encoder.py, which rotates in their type.
    """
    found = {}
    for name, buffer in model.named_buffers():
        if name.endswith(ROTARY):
            size = 2 * len(buffer)
            exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
            found[name] = (1.0 / 10000**exponents).to(dtype)
    return found
