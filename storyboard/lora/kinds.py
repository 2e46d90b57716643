"""Kinds of change that a plain LoRA can hold exactly: as ``up`` and ``down`` of the same change.

| kind | change, before its scale | rank as a plain LoRA |
|---|---|---|
| LoCon with a Tucker core | ``up (mid x down)`` | r |
| LoHa (arXiv:2108.06098) | ``(a1 b1) * (a2 b2)``, element by element | r1 r2 |
| LoKr (arXiv:2309.14859) | ``w1 (x) w2``, the Kronecker product | rank(w1) rank(w2) |

A rank is at most the shorter side of the weight. The formulas are LyCORIS' (lycoris/functional),
which ComfyUI's weight adapters and peft share.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from storyboard.lora.names import ModulePath
from storyboard.models.families import Family

Parts = Mapping[str, torch.Tensor]
SUFFIXES = {  # of a tensor's name -> the part that it is
    "lora_mid.weight": "mid",
    **{
        name: name
        for name in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b"),
            *("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        )
    },
}
THREE_BY_THREE = ("conv_in", "conv_out", "conv1", "conv2", "samplers_0_conv")  # of every UNet here
ONE_BY_ONE = ("conv_shortcut",)
PROJECTIONS = ("proj_in", "proj_out")  # linear layers, but convolutions in the first family
CONVOLUTED_PROJECTIONS = "sd15"


class Factors(NamedTuple):
    """A matrix as ``up @ down``.

    Attributes:
        up: (outputs, rank).
        down: (rank, inputs), for a convolution inputs times the area of its kernel.
    """

    up: torch.Tensor
    down: torch.Tensor

    @property
    def rank(self) -> int:
        return len(self.down)


class Plain(NamedTuple):
    """A change as a plain LoRA: ``scale * up @ down``, where ``scale`` is ``alpha / rank``.

    Attributes:
        alpha_rank: What the kind divides alpha by; None where it passes alpha over.
        size: Numbers in both matrices.
        factors: Makes them.
    """

    alpha_rank: int | None
    rank: int
    size: int
    factors: Callable[[], Factors]


def kind_of(parts: Parts) -> str | None:
    """How people call the kind of these parts; None for a plain LoRA."""
    if "mid" in parts:
        return "a LoCon with a Tucker core"
    if any(part.startswith("hada_") for part in parts):
        return "a LoHa"
    if any(part.startswith("lokr_") for part in parts):
        return "a LoKr"
    return None


def missing(parts: Parts) -> list[str]:
    """The parts that a module lacks of those that its kind needs."""
    kind = kind_of(parts)
    if kind in (None, "a LoCon with a Tucker core"):
        needed = ["down", "up"]
    elif kind == "a LoHa":
        needed = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"]
        if "hada_t1" in parts or "hada_t2" in parts:
            needed += ["hada_t1", "hada_t2"]
    else:
        needed = [
            part
            for whole in ("lokr_w1", "lokr_w2")
            if whole not in parts
            for part in (f"{whole}_a", f"{whole}_b")
        ]
    return [part for part in needed if part not in parts]


def strangers(parts: Parts) -> list[str]:
    """The parts that do not go with the others: of two kinds, or a matrix beside its halves."""
    kind = kind_of(parts)
    if kind in (None, "a LoCon with a Tucker core"):
        return []
    prefix = "hada_" if kind == "a LoHa" else "lokr_"
    odd = [part for part in parts if part != "alpha" and not part.startswith(prefix)]
    for whole in ("lokr_w1", "lokr_w2"):
        if whole in parts:
            odd += [part for part in (f"{whole}_a", f"{whole}_b") if part in parts]
    if "lokr_t2" in parts and "lokr_w2" in parts:
        odd.append("lokr_t2")
    return odd


def plain(parts: Parts) -> Plain:
    """The plain LoRA of a kind, whose ``missing`` and ``strangers`` are empty.

    Raises:
        RuntimeError, IndexError: Shapes that do not go together, in torch's words.
    """
    parts = {part: tensor.float() for part, tensor in parts.items() if part != "alpha"}
    kind = kind_of(parts)
    if kind == "a LoHa":
        return _hadamard(parts)
    return _kronecker(parts) if kind == "a LoKr" else _tucker(parts)


def shaped(factors: Factors, path: ModulePath, family: Family) -> Factors:
    """``factors`` of a convolution with the axes of its kernel, by the name of the module.

    LoHa and LoKr write a kernel flat. What a base at hand has otherwise is set right there.
    """
    side = _kernel(path, family)
    up, down = factors
    if side is None or down.shape[1] % side**2:
        return factors
    return Factors(up[:, :, None, None], down.reshape(len(down), -1, side, side))


def _kernel(path: ModulePath, family: Family) -> int | None:
    """The side of the kernel of a module; None for a linear layer."""
    if path.component != "unet":
        return None
    if path.name.endswith(THREE_BY_THREE):
        return 3
    of_one = path.name.endswith(PROJECTIONS) and family.name == CONVOLUTED_PROJECTIONS
    return 1 if of_one or path.name.endswith(ONE_BY_ONE) else None


def _tucker(parts: Parts) -> Plain:
    """The core goes into ``down``: a convolution of 1 x 1, then one of the kernel's size."""
    mid, up, down = parts["mid"], parts["up"].flatten(1), parts["down"].flatten(1)
    if mid.ndim != 4 or tuple(mid.shape[:2]) != (up.shape[1], len(down)):
        raise RuntimeError(f"a core of {list(mid.shape)}")
    size = len(mid) * (len(up) + mid[0, 0].numel() * down.shape[1])

    def factors() -> Factors:
        return Factors(up, torch.einsum("mnkl,ni->mikl", mid, down).flatten(1))

    return Plain(len(down), len(mid), size, factors)


def _hadamard(parts: Parts) -> Plain:
    """The product of two matrices element by element is that of the Khatri-Rao products."""
    first = _halves(parts["hada_w1_a"], parts["hada_w1_b"], parts.get("hada_t1"))
    second = _halves(parts["hada_w2_a"], parts["hada_w2_b"], parts.get("hada_t2"))
    outputs, inputs = len(first.up), first.down.shape[1]
    if (outputs, inputs) != (len(second.up), second.down.shape[1]):
        raise RuntimeError(f"{outputs} x {inputs} against {list(second.up.shape)}")
    rank = min(first.rank * second.rank, outputs, inputs)

    def factors() -> Factors:
        if rank < min(outputs, inputs):
            return Factors(
                torch.einsum("oi,oj->oij", first.up, second.up).flatten(1),
                torch.einsum("in,jn->ijn", first.down, second.down).flatten(0, 1),
            )
        return _of_matrix((first.up @ first.down) * (second.up @ second.down))

    alpha_rank = len(parts["hada_w1_b"])
    return Plain(alpha_rank, rank, rank * (outputs + inputs), factors)


def _kronecker(parts: Parts) -> Plain:
    """The Kronecker product of two products is the product of two Kronecker products.

    LyCORIS divides alpha by the rank of the first decomposed side, and by its own rule passes alpha
    over where neither is.
    """
    first, second = _side(parts, "lokr_w1"), _side(parts, "lokr_w2", parts.get("lokr_t2"))
    outputs = len(first.up) * len(second.up)
    inputs = first.down.shape[1] * second.down.shape[1]
    rank = min(first.rank * second.rank, outputs, inputs)

    def factors() -> Factors:
        if rank == first.rank * second.rank:
            return Factors(torch.kron(first.up, second.up), torch.kron(first.down, second.down))
        return _of_matrix(torch.kron(first.up @ first.down, second.up @ second.down))

    halves = [parts[half] for half in ("lokr_w2_b", "lokr_w1_b") if half in parts]
    return Plain(len(halves[0]) if halves else None, rank, rank * (outputs + inputs), factors)


def _side(parts: Parts, name: str, core: torch.Tensor | None = None) -> Factors:
    """One side of a Kronecker product, which is whole or in halves."""
    if name in parts:
        return _of_matrix(parts[name].flatten(1))
    return _halves(parts[f"{name}_a"], parts[f"{name}_b"], core)


def _halves(a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None) -> Factors:
    """``a @ b``; with a core (i, j, height, width) ``a`` is (i, outputs) and ``b`` (j, inputs)."""
    if core is not None:
        a = a.T.contiguous()  # torch.kron asks for it
        b = torch.einsum("ijkl,jn->inkl", core, b).flatten(1).contiguous()
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != len(b):
        raise RuntimeError(f"halves of {list(a.shape)} and {list(b.shape)}")
    return Factors(a, b)


def _of_matrix(matrix: torch.Tensor) -> Factors:
    """``matrix`` beside the identity, on its shorter side."""
    outputs, inputs = matrix.shape
    one = torch.eye(min(outputs, inputs), device=matrix.device)
    return Factors(one, matrix) if outputs <= inputs else Factors(matrix, one)
