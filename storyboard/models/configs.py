"""``config.json`` and the other JSON files of models: read within bounds, their values checked."""

import contextlib
import inspect
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

from storyboard.errors import BaseError, brief

MOST_BYTES = 32 * 2**20  # of a JSON file; the largest are tokenizers of 17 MB
MOST_DEPTH = 32
LARGEST = 2**20  # of a size; the largest are vocabularies of 262,144
LONGEST_LIST = 64  # of sizes, one a block
LARGEST_SAMPLE = 1024  # latents of a side

# whole numbers of at least 1, or lists of such
SIZES = {
    "in_channels",
    "out_channels",
    "latent_channels",
    "num_channels",
    "conditioning_channels",
    "block_out_channels",
    "conditioning_embedding_out_channels",
    "layers_per_block",
    "transformer_layers_per_block",
    "num_layers",
    "num_hidden_layers",
    "norm_num_groups",
    "attention_head_dim",
    "num_attention_heads",
    "cross_attention_dim",
    "hidden_size",
    "intermediate_size",
    "ffn_hidden_size",
    "kv_channels",
    "multi_query_group_num",
    "vocab_size",
    "padded_vocab_size",
    "max_position_embeddings",
    "seq_length",
    "image_size",
    "patch_size",
    "projection_dim",
    "addition_time_embed_dim",
    "encoder_hid_dim",
    "projection_class_embeddings_input_dim",
    "sample_size",
}
LAYERS = (
    "layers_per_block",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "num_hidden_layers",
    "num_layers",
)
# numbers above 0
FACTORS = (
    "scaling_factor",
    "norm_eps",
    "layer_norm_eps",
    "layernorm_epsilon",
    "mid_block_scale_factor",
    "resnet_out_scale_factor",
)
SWITCHES = ("force_zeros_for_empty_prompt",)  # true or false
JSON_TYPES = {bool, int, float, str, list, dict, type(None)}
# what a module asks for in every call and nothing here gives
UNSUPPORTED = ("class_embed_type", "num_class_embeds", "quantization_config", "time_cond_proj_dim")


def parsed(content: bytes) -> dict:
    """The JSON object in ``content``.

    Raises:
        ValueError: It is none, is nested deeper than MOST_DEPTH, has a key twice or a number that
            is not finite; says so as a part of a sentence.
    """
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except json.JSONDecodeError as error:
        reason = "it begins with a byte order mark" if content[:3] == b"\xef\xbb\xbf" else error.msg
        raise ValueError(f"it is no JSON: {reason}, line {error.lineno}") from error
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MOST_DEPTH}") from error

    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    _check_depth(value)
    return value


def read(path: Path, remedy: str = "get it again") -> dict:
    """The JSON object in a file.

    Args:
        remedy: What to do where it is damaged, for the message.

    Raises:
        BaseError: It is missing, too large, or holds no such object.
    """
    try:
        if not path.is_file():
            raise BaseError(f"{path} is missing: {remedy}.")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise BaseError(f"{path} is {size / 1e6:,.0f} MB of JSON: {remedy}.")
        return parsed(path.read_bytes())
    except OSError as error:
        raise BaseError(f"{path} cannot be read ({error.strerror}): {remedy}.") from error
    except ValueError as error:
        raise BaseError(f"{path} is damaged ({error}): {remedy}.") from error


def public(config: Mapping[str, object]) -> dict:
    """``config`` without private keys."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def check(path: Path, config: Mapping[str, object], tensors: int, remedy: str) -> None:
    """Check the values of a model's ``config``, and its layers against its weights.

    Args:
        tensors: How many the headers of its weights list. A model has no more layers than that.

    Raises:
        BaseError: Names the key.
    """
    check_values(path, config, remedy)
    for part in _parts(config):
        counts = [max(_flat(part[key]), default=1) for key in LAYERS if part.get(key)]
        layers = math.prod(counts)
        if layers > tensors:
            keys = ", ".join(key for key in LAYERS if part.get(key))
            raise BaseError(
                f"{path} asks for {layers:,} layers ({keys}) where its weights are {tensors:,} "
                f"tensors: {remedy}."
            )


def check_values(path: Path, config: Mapping[str, object], remedy: str = "get it again") -> None:
    """Raise BaseError where a value cannot be right for any model; names file and key."""
    for part in _parts(config):
        for key, value in part.items():
            if wrong := _wrong(key, value):
                raise BaseError(f"{path} has {key}={brief(value)}, {wrong}: {remedy}.")


def check_types(path: Path, config: Mapping[str, object], kind: type, remedy: str) -> None:
    """Raise BaseError where a value is not of the type that the class ``kind`` takes."""
    for key, allowed in _accepted(kind).items():
        if key in config and not _fits(config[key], allowed):
            names = " or ".join(sorted(each.__name__ for each in allowed if each is not type(None)))
            raise BaseError(
                f"{path} has {key}={brief(config[key])}, where {kind.__name__} takes {names}: "
                f"{remedy}."
            )


def _unique(pairs: list[tuple[str, object]]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it has the key {brief(twice)} twice")
    return content


def _refuse_constant(name: str) -> typing.NoReturn:
    raise ValueError(f"it holds the number {name}")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [item for each in inner for item in each if isinstance(item, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MOST_DEPTH}")


def _parts(config: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """``config`` and the configs in it, such as ``text_config``."""
    yield config
    for key, value in config.items():
        if key.endswith("_config") and isinstance(value, dict):
            yield from _parts(value)


def _flat(value: object) -> list:
    """The items of nested lists; a value that is no list is the only one."""
    if not isinstance(value, list):
        return [value]
    return [item for each in value for item in _flat(each)]


def _wrong(key: str, value: object) -> str | None:
    """What is wrong with a value, as the rest of a sentence; None is a key that is left out."""
    if value is None:
        return None
    if key in UNSUPPORTED:
        return "which is not supported"
    values = _flat(value)
    if any(isinstance(each, float) and not math.isfinite(each) for each in values):
        return "which is not finite"
    if key in SIZES or key in LAYERS:
        if len(values) > LONGEST_LIST:
            return f"which is more than {LONGEST_LIST} numbers"
        largest = LARGEST_SAMPLE if key == "sample_size" else LARGEST
        if not all(type(each) is int and 1 <= each <= largest for each in values):
            return f"which is not from 1 to {largest}"
    if key in SWITCHES and not isinstance(value, bool):
        return "which is neither true nor false"
    if key in FACTORS and (not _is_number(value) or value <= 0):
        return "which is no number above 0"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _accepted(kind: type) -> dict[str, set[type]]:
    """Types by key, as annotations and defaults of the constructor name them.

    Keys of which neither says anything, or which take other things than JSON has, are left out.
    """
    constructor = kind.__init__
    # transformers annotates the class, diffusers the constructor
    hints = inspect.get_annotations(kind)
    with contextlib.suppress(NameError, TypeError):  # what only a type checker can resolve
        hints |= typing.get_type_hints(constructor)

    accepted = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        allowed = set(_named(hints[name])) if name in hints else set()
        if parameter.default not in (inspect.Parameter.empty, None):
            allowed |= _types_of(parameter.default)
        elif name not in hints:
            continue
        allowed = {list if each is tuple else each for each in allowed}
        if allowed and allowed <= JSON_TYPES:
            accepted[name] = allowed
    return accepted


def _types_of(default: object) -> set[type]:
    """The type of a default, and of what it lists."""
    items = default if isinstance(default, tuple | list) else ()
    return {type(default), *(each for item in items for each in _types_of(item))}


def _named(annotation: object) -> Iterator[type]:
    """The plain types that an annotation is made of; ``object`` for what is none."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        yield from map(type, parts)
    elif annotation is Ellipsis:  # of tuple[int, ...]
        return
    elif origin is None:
        yield annotation if isinstance(annotation, type) else object
    else:
        if origin not in (typing.Union, types.UnionType):
            yield origin if isinstance(origin, type) else object
        for each in parts:
            yield from _named(each)


def _fits(value: object, allowed: set[type]) -> bool:
    """Whether ``value``, or all that it lists, is of the types ``allowed``."""
    if isinstance(value, list):
        return list in allowed and all(_fits(each, allowed) for each in value)
    if value is None:  # published configs have it for bool as well
        return bool in allowed or type(None) in allowed or list in allowed
    return type(value) in allowed or (type(value) is int and float in allowed)
