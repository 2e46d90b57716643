"""The forms that are known, and how they read a file: every tensor, or an error that names one."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from storyboard.errors import LoraError
from storyboard.lora import recognition
from storyboard.lora.names import shown
from storyboard.lora.state import LoraFile, LoraState
from storyboard.models.families import Family

Tensors = dict[str, torch.Tensor]
Metadata = dict[str, str]


Writer = Callable[[LoraState], tuple[Tensors, Metadata]]


@dataclass(frozen=True)
class Form:
    """A way to name a LoRA's tensors in a file.

    Attributes:
        name: How ``convert`` and messages call it.
        recognises: Whether the name of a tensor is of this form.
        read: Reads a file of which ``recognises`` holds for every tensor.
        write: The tensors and metadata of such a file; None where the form is only read.
        fallback: Whether it is asked after all others, because ``recognises`` holds for their
            names too.
    """

    name: str
    recognises: Callable[[str], bool]
    read: Callable[[LoraFile], LoraState]
    write: Writer | None = None
    fallback: bool = False


_FORMS: dict[str, Form] = {}


def register(form: Form) -> Form:
    """Make ``form`` known; one of the same name is replaced."""
    _FORMS.pop(form.name, None)
    _FORMS[form.name] = form
    return form


def forget(name: str) -> None:
    """Undo ``register``."""
    del _FORMS[name]


def known() -> tuple[Form, ...]:
    """All forms in the order they are asked: the last registered first, fallbacks at the end."""
    newest_first = reversed(_FORMS.values())
    return tuple(sorted(newest_first, key=lambda form: form.fallback))


def writers() -> dict[str, Writer]:
    """What writes a form, by its name, for those that can be written."""
    return {name: form.write for name, form in sorted(_FORMS.items()) if form.write}


def form_of(key: str) -> Form | None:
    """The form that a tensor's name is of; None where no form recognises it."""
    return next((form for form in known() if form.recognises(key)), None)


def recognised(path: Path, keys: Collection[str], family: Family) -> dict[str, Form]:
    """The form of every tensor, by their names alone.

    Raises:
        LoraError: No form recognises a tensor, or it is for another architecture.
    """
    recognition.refuse_odd_names(path, keys)
    recognition.refuse_other_architectures(path, keys, family)

    forms: dict[str, Form] = {}
    unread = []
    for key in keys:
        form = form_of(key)
        if form is None:
            unread.append(key)
        else:
            forms[key] = form
    if unread:
        recognition.refuse_unread(path, unread, keys)
    return forms


def read(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    family: Family | None = None,
    layers_per_block: int = 2,
) -> LoraState:
    """The LoRA in the tensors of a file, each by the form that recognises its name.

    Args:
        family, layers_per_block: Of the base at hand; without one, names and metadata tell the
            family.

    Raises:
        LoraError: No form recognises a tensor, it is for another architecture, or not whole.
    """
    family = family or recognition.family_of(tensors, metadata)
    forms = recognised(path, tensors, family)
    file = LoraFile(path, tensors, metadata, family, layers_per_block)
    states = [_read_by(form, file, forms) for form in dict.fromkeys(forms.values())]
    return _joined(states)


def _read_by(form: Form, file: LoraFile, forms: Mapping[str, Form]) -> LoraState:
    """What ``form`` makes of its tensors; LoraError where it left one out."""
    own = {key: tensor for key, tensor in file.tensors.items() if forms[key] == form}
    state = form.read(replace(file, tensors=own))
    left_out = sorted(own.keys() - state.keys)
    if left_out:
        raise LoraError(
            f"{len(left_out)} of the {len(file.tensors)} tensors in {file.path} (such as "
            f"{shown(left_out[0])}) are not read by the form {form.name!r}: {recognition.PLAIN}."
        )
    return state


def _joined(states: list[LoraState]) -> LoraState:
    """One LoRA of the parts that several forms read."""
    first, modules, keys = states[0], {}, frozenset()
    for state in states:
        twice = modules.keys() & state.modules.keys()
        if twice:
            path = min(twice)
            raise LoraError(
                f"{first.path} has {path.component}'s {shown(path.name)} twice, in two forms: "
                "get it again."
            )
        modules |= state.modules
        keys |= state.keys
    kinds = tuple(sorted({kind for state in states for kind in state.kinds}))
    return replace(first, modules=modules, keys=keys, kinds=kinds)
