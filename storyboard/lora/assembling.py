"""The tensors of a file -> what they change: every module whole, or an error that names one."""

from collections.abc import Callable, Iterable, Mapping

import torch

from storyboard.errors import LoraError
from storyboard.lora import kinds
from storyboard.lora.names import ModulePath, kohya_name, shown
from storyboard.lora.state import PARTS, LoraFile, LoraModule, LoraState, Place, number

SUFFIXES = {part: suffix for suffix, part in (PARTS | kinds.SUFFIXES).items()}
BYTES = 4  # of a number of a matrix that is computed
LARGEST = 4 * 2**30  # bytes of all matrices that are computed for one file
LARGEST_MODULE = 2**28  # and for one module; the largest of SDXL takes half of it
SHOWN_SHAPES = 4

Alphas = Callable[[ModulePath, int], float]
Parts = dict[str, torch.Tensor]


def assemble(
    file: LoraFile, places: Mapping[str, Place], default_alpha: Alphas | None = None
) -> LoraState:
    """The LoRA whose tensors ``file`` has at ``places``.

    Args:
        places: Name of every tensor that the form understands -> what it is.
        default_alpha: Gives the alpha of a module of a certain rank that has no tensor for it;
            None takes the rank.

    Raises:
        LoraError: A tensor is there twice, a module lacks a part or its parts do not go together,
            an alpha is not one number, or a kind would become too large as a plain LoRA.
    """
    modules = _grouped(file, places)
    _refuse_incomplete(file, modules)

    size, states, of_kinds = 0, {}, set()
    for path, parts in modules.items():
        _check_alpha(file, path, parts)
        kind = kinds.kind_of(parts)
        if kind is None:
            states[path] = _plain(file, path, parts, default_alpha)
            continue

        try:
            change = kinds.plain(parts)
        except (RuntimeError, IndexError, ValueError, TypeError):  # torch at odd shapes
            raise _do_not_fit(file, path, parts) from None
        size += change.size * BYTES
        if size > LARGEST or change.size * BYTES > LARGEST_MODULE:
            raise LoraError(
                f"{file.path} is {kind} whose changes, as matrices of a plain LoRA, would take "
                f"over {LARGEST / 2**30:.0f} GB, or those of one module (such as "
                f"{shown(kohya_name(path, file.family))}) over {LARGEST_MODULE / 2**30:.2f} GB: "
                "give one of a lower rank, or a plain LoRA."
            )
        states[path] = _of_kind(file, path, parts, change, default_alpha)
        of_kinds.add(kind)
    return LoraState(file.path, file.family, states, frozenset(places), tuple(sorted(of_kinds)))


def _grouped(file: LoraFile, places: Mapping[str, Place]) -> dict[ModulePath, Parts]:
    modules: dict[ModulePath, Parts] = {}
    for key, (path, part) in places.items():
        parts = modules.setdefault(path, {})
        if part in parts:
            raise LoraError(
                f"{file.path} has {_kohya_key(file, path, part)} twice, "
                f"under two names (such as {shown(key)}): get it again."
            )
        parts[part] = file.tensors[key].contiguous()
    return modules


def _refuse_incomplete(file: LoraFile, modules: Mapping[ModulePath, Parts]) -> None:
    """Raise LoraError where modules lack parts of their kind, or have those of two kinds."""

    def keys(wrong: Callable[[Parts], Iterable[str]]) -> list[str]:
        return sorted(
            _kohya_key(file, path, part) for path, parts in modules.items() for part in wrong(parts)
        )

    if missing := keys(kinds.missing):
        raise LoraError(
            f"{file.path} lacks {len(missing)} tensors (such as {missing[0]}): "
            "it is not whole, get it again."
        )
    if odd := keys(kinds.strangers):
        raise LoraError(
            f"{file.path} has {len(odd)} tensors that do not go with the others of their module "
            f"(such as {odd[0]}): get it again."
        )


def _check_alpha(file: LoraFile, path: ModulePath, parts: Parts) -> None:
    alpha = parts.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise LoraError(
            f"{_kohya_key(file, path, 'alpha')} in {file.path} is not one number but of the shape "
            f"{list(alpha.shape)}: get it again."
        )


def _plain(
    file: LoraFile, path: ModulePath, parts: Parts, default_alpha: Alphas | None
) -> LoraModule:
    down, up = parts["down"], parts["up"]
    whole = min(down.ndim, up.ndim) >= 2 and down.numel() and up.numel()
    if not whole or up.shape[1] != len(down):
        raise _do_not_fit(file, path, parts)
    alpha = _alpha(path, parts, len(down), default_alpha)
    if not isinstance(alpha, torch.Tensor):
        alpha = number(alpha, down.dtype)
    return LoraModule(down, up, alpha)


def _of_kind(
    file: LoraFile,
    path: ModulePath,
    parts: Parts,
    change: kinds.Plain,
    default_alpha: Alphas | None,
) -> LoraModule:
    """The plain module of the same change, whose alpha gives it the same scale."""
    if not change.size:
        raise _do_not_fit(file, path, parts)
    up, down = kinds.shaped(change.factors(), path, file.family)
    if change.alpha_rank is None:
        return LoraModule(down, up, number(change.rank, down.dtype), None)

    alpha = _alpha(path, parts, change.alpha_rank, default_alpha)
    if isinstance(alpha, torch.Tensor) and alpha.is_meta:  # only the header was read
        return LoraModule(down, up, alpha, change.alpha_rank)
    own = number(float(alpha) * change.rank / change.alpha_rank, torch.float32)
    return LoraModule(down, up, own, change.alpha_rank)


def _alpha(
    path: ModulePath, parts: Parts, rank: int, default_alpha: Alphas | None
) -> torch.Tensor | float:
    if "alpha" in parts:
        return parts["alpha"].reshape(())
    return default_alpha(path, rank) if default_alpha else rank


def _do_not_fit(file: LoraFile, path: ModulePath, parts: Parts) -> LoraError:
    in_order = sorted(parts.items())[:SHOWN_SHAPES]
    shapes = ", ".join(f"{SUFFIXES[part]} {list(tensor.shape)}" for part, tensor in in_order)
    name = shown(kohya_name(path, file.family))
    return LoraError(
        f"{file.path} has matrices that do not go together, of {name} ({shapes}): get it again."
    )


def _kohya_key(file: LoraFile, path: ModulePath, part: str) -> str:
    return shown(f"{kohya_name(path, file.family)}.{SUFFIXES[part]}")
