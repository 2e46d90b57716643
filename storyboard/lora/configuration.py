"""peft's configuration of a LoRA: what it says of alphas, and which of its options change more.

It lies in ``adapter_config.json`` beside peft's own files, and in the metadata of diffusers'
(``save_lora_weights``, diffusers/loaders/lora_base.py), there with the component before every key.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from storyboard.errors import LoraError, brief
from storyboard.lora.names import CLIP_MODEL, ModulePath, shown
from storyboard.lora.state import LoraFile

METADATA = "lora_adapter_metadata"  # the key in the metadata of a safetensors file
WRAPPER = "base_model.model."  # before the names of a model that peft wraps
# with these a file is more than its up and down, or less: its sums begin at other weights
OTHER_OPTIONS = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication"),
    *("alora_invocation_tokens", "trainable_token_indices", "target_parameters"),
    *("kasa_config", "monteclora_config", "arrow_config", "loftq_config"),
)
KEPT_WEIGHTS = (None, True, False, "gaussian", "eva", "orthogonal")  # of init_lora_weights
LITERAL = re.compile(r"\^?[\w.-]+\$?")  # a pattern that is a name
# a pattern without repetition of repetitions, which could take for ever
PATTERN = re.compile(r"\^?(?:[\w|()-]|\\?\.|\\d\+?|\.[*+])+\$?")
WILDCARDS, PATTERNS = 3, 50  # in one pattern, in a file
# what a configuration of another shape than peft's raises
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)

Alphas = Callable[[ModulePath, int], float]


class Patterns(NamedTuple):
    """Alphas of modules by their names, in the order of the file.

    Attributes:
        names: Name or end of one -> position and alpha.
        expressions: Position, compiled expression, alpha.
    """

    names: Mapping[str, tuple[int, float]]
    expressions: tuple[tuple[int, re.Pattern, float], ...]

    def alpha(self, module: str) -> float | None:
        """As peft looks it up (peft/utils/other.py, get_pattern_key); None where none matches."""
        plain = module.removeprefix(f"{CLIP_MODEL}.")
        matches = []
        for name in (plain, f"{CLIP_MODEL}.{plain}"):
            words = name.split(".")
            ends = [".".join(words[first:]) for first in range(len(words))]
            keys = [f"^{name}", *ends]
            matches += [self.names[key] for key in keys if key in self.names]
            matches += [
                (position, alpha)
                for position, expression, alpha in self.expressions
                if expression.match(name)
            ]
        return min(matches)[1] if matches else None


def alphas(file: LoraFile, dotted: Mapping[ModulePath, str]) -> Alphas:
    """Gives a module's alpha: the configuration's, or its rank where the file has none.

    It is not a number for what peft itself wrote, where the configuration is missing: its scale
    is known nowhere else.

    Args:
        dotted: Each module's name in its component.

    Raises:
        LoraError: The configuration is damaged, or has an option that is not read.
    """
    if METADATA not in file.metadata:
        wrapped = any(key.startswith(WRAPPER) for key in file.tensors)
        return lambda path, rank: math.nan if wrapped else rank

    try:
        configuration = json.loads(file.metadata[METADATA])
        components = {
            path.component: _component(file, configuration, path.component) for path in dotted
        }
    except DAMAGE as error:
        reason = shown(f"{type(error).__name__}: {error}")
        raise LoraError(
            f"{file.path} has damaged metadata ({METADATA}: {reason}): get it again."
        ) from error

    def alpha(path: ModulePath, rank: int) -> float:
        patterns, usual, by_root = components[path.component]
        own = patterns.alpha(dotted[path])
        own = usual if own is None else own
        return own * math.sqrt(rank) if by_root else own

    return alpha


def _component(
    file: LoraFile, configuration: Mapping[str, object], component: str
) -> tuple[Patterns, float, bool]:
    """Patterns, the usual alpha, and whether alphas are divided by the root of the rank.

    (arXiv:2312.03732, rank-stabilised LoRA.)
    """

    def value(key: str, default: object = None) -> object:
        return configuration.get(f"{component}.{key}", default)

    for option in OTHER_OPTIONS:
        if value(option):
            _refuse(file, option, value(option))
    if value("bias", "none") != "none":
        _refuse(file, "bias", value("bias"))
    if value("init_lora_weights") not in KEPT_WEIGHTS:
        _refuse(file, "init_lora_weights", value("init_lora_weights"))

    usual = _number(configuration[f"{component}.lora_alpha"])
    return _patterns(file, value("alpha_pattern") or {}), usual, bool(value("use_rslora"))


def _refuse(file: LoraFile, option: str, value: object) -> None:
    raise LoraError(
        f"{file.path} was trained with peft's {option}={brief(value)}, with which it is more "
        "than its lora_A and lora_B: train it without, or save it converted to a plain LoRA."
    )


def _patterns(file: LoraFile, found: Mapping[str, object]) -> Patterns:
    names: dict[str, tuple[int, float]] = {}
    expressions: list[tuple[int, re.Pattern[str], float]] = []
    for position, (pattern, value) in enumerate(found.items()):
        alpha = _number(value)
        if LITERAL.fullmatch(pattern):
            names.setdefault(pattern.removesuffix("$"), (position, alpha))
            continue
        wildcards = sum(pattern.count(sign) for sign in ("*", "+"))
        readable = PATTERN.fullmatch(pattern) and ")*" not in pattern and ")+" not in pattern
        if not readable or wildcards > WILDCARDS or len(expressions) == PATTERNS:
            raise LoraError(
                f"{file.path} names modules by {shown(pattern)!r} in alpha_pattern, which is not "
                "read: write their names there."
            )
        try:
            expression = re.compile(rf"(.*\.)?({pattern})$")
        except re.error as error:
            raise ValueError(f"{shown(pattern)!r}: {error}") from error
        expressions.append((position, expression, alpha))
    return Patterns(names, tuple(expressions))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)
