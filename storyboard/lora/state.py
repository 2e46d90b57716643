"""What a LoRA changes, the same whatever form its file has.

Another kind than the plain LoRA (a Tucker core, the magnitudes of a DoRA) gets a field of
``LoraModule`` here, a part in ``PARTS``, and forms that read and write it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from storyboard.errors import LoraError
from storyboard.lora.names import ModulePath, kohya_name
from storyboard.models.families import Family

PARTS = {  # of LoraModule, by kohya's name
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "alpha": "alpha",
}


class Place(NamedTuple):
    """What a tensor of a file is: a part, one of the values of ``PARTS``, of a module."""

    path: ModulePath
    part: str


@dataclass(frozen=True)
class LoraModule:
    """The change ``alpha / rank * up @ down`` to the weight of a module (arXiv:2106.09685).

    Attributes:
        down: (rank, inputs), for a convolution (rank, inputs, height, width).
        up: (outputs, rank), for a convolution (outputs, rank, 1, 1).
        alpha: One number, in the precision of its file.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: torch.Tensor

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def scale(self) -> float:
        return float(self.alpha) / self.rank


@dataclass(frozen=True)
class LoraFile:
    """The content of a file, to be read by a form.

    Attributes:
        path: For messages.
        tensors: By the file's own names; on the meta device where only its header was read.
        metadata: What else its header says.
        family: Of the base at hand, or the one that names of tensors and metadata speak of.
        layers_per_block: Of the base's UNet.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]
    family: Family
    layers_per_block: int = 2


@dataclass(frozen=True)
class LoraState:
    """A LoRA.

    Attributes:
        path: The file that it was read from, for messages.
        family: As in ``LoraFile``; decides the names that kohya's form has.
        modules: In the order of the file.
        keys: Names of the file's tensors that are in it.
    """

    path: Path
    family: Family
    modules: Mapping[ModulePath, LoraModule]
    keys: frozenset[str] = frozenset()

    @property
    def components(self) -> set[str]:
        """Components of a base that it changes."""
        return {path.component for path in self.modules}

    def only(self, components: Collection[str]) -> "LoraState":
        """What it changes in ``components``."""
        modules = {
            path: module for path, module in self.modules.items() if path.component in components
        }
        return replace(self, modules=modules)

    def with_alpha(self, alpha: float) -> "LoraState":
        """The same with one alpha for all modules."""
        modules = {
            path: replace(module, alpha=number(alpha, module.down.dtype))
            for path, module in self.modules.items()
        }
        return replace(self, modules=modules)

    def floats(self) -> "LoraState":
        """The same in fp32."""
        modules = {
            path: LoraModule(module.down.float(), module.up.float(), module.alpha.float())
            for path, module in self.modules.items()
        }
        return replace(self, modules=modules)

    def named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors by kohya's names."""
        for path, module in self.modules.items():
            name = kohya_name(path, self.family)
            for suffix, part in PARTS.items():
                yield f"{name}.{suffix}", getattr(module, part)

    def refuse_broken(self) -> None:
        """Raise LoraError where a value is not finite."""
        broken = sorted(
            name for name, tensor in self.named() if not torch.isfinite(tensor.float()).all()
        )
        if broken:
            raise LoraError(
                f"{self.path} holds values that are not finite (such as {broken[0]}): "
                "get it again, or give an earlier checkpoint of it."
            )


def assemble(
    file: LoraFile,
    places: Mapping[str, Place],
    default_alpha: Callable[[ModulePath, int], float] | None = None,
) -> LoraState:
    """The LoRA whose tensors ``file`` has at ``places``.

    Args:
        places: Name of every tensor that the form understands -> what it is.
        default_alpha: Gives the alpha of a module of a certain rank that has no tensor for it;
            None takes the rank.

    Raises:
        LoraError: A tensor is there twice, or a module lacks one of its two matrices.
    """
    parts: dict[ModulePath, dict[str, torch.Tensor]] = {}
    for key, (path, part) in places.items():
        module = parts.setdefault(path, {})
        if part in module:
            raise LoraError(
                f"{file.path} has {_kohya_key(file, path, part)} twice, "
                f"under two names (such as {key}): get it again."
            )
        module[part] = file.tensors[key].contiguous()

    missing = sorted(
        _kohya_key(file, path, part)
        for path, module in parts.items()
        for part in ("down", "up")
        if part not in module
    )
    if missing:
        raise LoraError(
            f"{file.path} lacks {len(missing)} tensors (such as {missing[0]}): "
            "it is not whole, get it again."
        )

    modules = {}
    for path, module in parts.items():
        down = module["down"]
        if "alpha" not in module:
            alpha = default_alpha(path, len(down)) if default_alpha else len(down)
            module["alpha"] = number(alpha, down.dtype)
        modules[path] = LoraModule(**module)
    return LoraState(file.path, file.family, modules, frozenset(places))


def number(value: float, dtype: torch.dtype) -> torch.Tensor:
    """``value`` in ``dtype``, as kohya's trainer writes alpha, or in fp32 where that changes it."""
    exact = torch.tensor(float(value), dtype=torch.float32)
    rounded = exact.to(dtype)
    return rounded if rounded.float() == exact else exact


def _kohya_key(file: LoraFile, path: ModulePath, part: str) -> str:
    suffix = next(suffix for suffix, each in PARTS.items() if each == part)
    return f"{kohya_name(path, file.family)}.{suffix}"
