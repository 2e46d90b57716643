"""Which module of a base a name in a LoRA file means, and how kohya's form writes it."""

import re
from functools import lru_cache
from typing import NamedTuple

from storyboard.models import families
from storyboard.models.families import Family

CLIP_MODEL = "text_model"  # only some versions of transformers begin a text encoder's names with it
SHOWN = 120  # characters of a name in a message
UNPREFIXED = "text_projection"  # the one module of a text encoder that lies outside of it


class ModulePath(NamedTuple):
    """A module of a base, the same for every form.

    Attributes:
        component: Of the base, such as ``"unet"`` or ``"text_encoder_2"``.
        name: In it, with ``_`` for every dot and without ``text_model``.
    """

    component: str
    name: str


def module_path(component: str, module: str) -> ModulePath:
    """``text_encoder`` and ``text_model.encoder.layers.0.mlp.fc1``, dotted or with ``_``."""
    return ModulePath(component, module.replace(".", "_").removeprefix(f"{CLIP_MODEL}_"))


def shown(name: str) -> str:
    """A name from a file as messages write it: one line, not too long."""
    name = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in name)
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}…"


def components() -> set[str]:
    """Components that a LoRA of any family can change."""
    return {component for family in families.known() for component in family.kohya_prefixes}


def component_of(name: str, family: Family | None = None) -> str | None:
    """The component of the kohya-form module ``name``; None if its prefix is not known.

    Args:
        family: Its prefixes go before those of other families.
    """
    path = path_of(name, family)
    return path and path.component


def path_of(name: str, family: Family | None = None) -> ModulePath | None:
    """``lora_te1_text_model_encoder_…`` -> its path; None if its prefix is not known."""
    prefixes = _prefixes(family)
    for prefix in sorted(prefixes, key=len, reverse=True):
        if name.startswith(prefix):
            return module_path(prefixes[prefix], name.removeprefix(prefix))
    return None


def kohya_name(path: ModulePath, family: Family) -> str:
    """kohya's name of a module (sd-scripts, networks/lora.py), by the prefixes of ``family``.

    A component that ``family`` does not have is named as another family that has it names it.
    """
    prefix = family.kohya_prefixes.get(path.component) or next(
        each.kohya_prefixes[path.component]
        for each in families.known()
        if path.component in each.kohya_prefixes
    )
    if path.component.startswith("text_encoder") and path.name != UNPREFIXED:
        return f"{prefix}{CLIP_MODEL}_{path.name}"
    return prefix + path.name


def dotted_name(path: ModulePath, family: Family) -> str | None:
    """The name in the component, with its dots; None if no module of ``family`` is called so."""
    words = family.module_names.get(path.component)
    if not words:
        return None
    text = path.component.startswith("text_encoder") and path.name != UNPREFIXED
    name = f"{CLIP_MODEL}_{path.name}" if text else path.name
    whole, word = _grammar(words)
    return ".".join(word.findall(name)) if whole.fullmatch(name) else None


def _prefixes(family: Family | None) -> dict[str, str]:
    """kohya's prefix -> component, of all families."""
    first_to_last = [*reversed(families.known()), *([family] if family else [])]
    return {
        prefix: component
        for each in first_to_last
        for component, prefix in each.kohya_prefixes.items()
    }


@lru_cache
def _grammar(words: tuple[str, ...]) -> tuple[re.Pattern, re.Pattern]:
    """Patterns of a whole name that is made of ``words``, and of one of them."""
    word = rf"(?:{'|'.join(words)})(?=_|$)"
    return re.compile(rf"{word}(?:_{word})*"), re.compile(word)
