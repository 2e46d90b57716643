"""What a LoRA changes, the same whatever form its file has.

Kinds whose change a plain LoRA can hold exactly become one (``kinds``). Another kind, such as a
DoRA with its magnitudes, gets a field of ``LoraModule`` here, a part in ``PARTS``, and forms that
read and write it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from storyboard.lora.names import ModulePath, kohya_name
from storyboard.models.families import Family

PARTS = {  # of LoraModule, by kohya's name
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "alpha": "alpha",
}


class Place(NamedTuple):
    """What a tensor of a file is: a part, by ``PARTS`` or ``kinds.SUFFIXES``, of a module."""

    path: ModulePath
    part: str


@dataclass(frozen=True)
class LoraModule:
    """The change ``alpha / rank * up @ down`` to the weight of a module (arXiv:2106.09685).

    Attributes:
        down: (rank, inputs), for a convolution (rank, inputs, height, width).
        up: (outputs, rank), for a convolution (outputs, rank, 1, 1).
        alpha: One number, in the precision of its file.
        file_rank: What its file divides alpha by, where a module of another kind became this one;
            0 where that is the rank, None where the file's alpha means nothing.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: torch.Tensor
    file_rank: int | None = 0

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
        kinds: What its modules were before they became plain ones, sorted.
    """

    path: Path
    family: Family
    modules: Mapping[ModulePath, LoraModule]
    keys: frozenset[str] = frozenset()
    kinds: tuple[str, ...] = ()

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
        """The same with one alpha for all modules, by the ranks of the file."""
        modules = {}
        for path, module in self.modules.items():
            modules[path] = module
            if module.file_rank is not None:
                own = alpha * module.rank / (module.file_rank or module.rank)
                modules[path] = replace(module, alpha=number(own, module.down.dtype))
        return replace(self, modules=modules)

    def scaled(self, strength: float) -> "LoraState":
        """The same with its change multiplied by ``strength``."""
        modules = {
            path: replace(module, alpha=module.alpha.float() * strength)
            for path, module in self.modules.items()
        }
        return replace(self, modules=modules)

    def floats(self) -> "LoraState":
        """The same in fp32."""
        modules = {
            path: replace(
                module,
                down=module.down.float(),
                up=module.up.float(),
                alpha=module.alpha.float(),
            )
            for path, module in self.modules.items()
        }
        return replace(self, modules=modules)

    def named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors by kohya's names."""
        for path, module in self.modules.items():
            name = kohya_name(path, self.family)
            for suffix, part in PARTS.items():
                yield f"{name}.{suffix}", getattr(module, part)


def number(value: float, dtype: torch.dtype) -> torch.Tensor:
    """``value`` in ``dtype``, as kohya's trainer writes alpha, or in fp32 where that changes it."""
    exact = torch.tensor(float(value), dtype=torch.float32)
    rounded = exact.to(dtype)
    return rounded if rounded.float() == exact else exact
