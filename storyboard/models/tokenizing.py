"""The tokenizers of a base: read, and compared with the text encoders that they are for."""

import importlib

from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, brief, reason
from storyboard.models import configs, tokenizer_files
from storyboard.models.base import Base

SAMPLE = "a cat, 猫"
OLD_END = 2  # what published configs have for CLIP's last token, whatever it is


def tokenizer(base: Base, component: str):
    """The tokenizer that belongs to the text encoder ``component``.

    Raises:
        BaseError: Its files are damaged, or of another text encoder.
    """
    module, name = base.family.tokenizers[component]
    folder = base.root / component.replace("text_encoder", "tokenizer")
    tokenizer_files.check(folder, f"The base {base.name!r}", "get it again")
    try:
        with quiet():
            kind = getattr(importlib.import_module(module), name)
            made = kind.from_pretrained(folder, local_files_only=True)
            ids = made(SAMPLE)["input_ids"]
            largest = max(len(made) - 1, *ids)
    except Exception as error:  # the libraries raise whatever their own code meets
        raise BaseError(
            f"{folder} cannot be read as a {name} ({reason(error)}): get it again."
        ) from error

    config = base.config(component)
    size = config.get("vocab_size", config.get("padded_vocab_size"))
    if isinstance(size, int) and largest >= size:
        raise BaseError(
            f"{folder} has tokens up to {largest}, where the vocab_size of {component} is {size}: "
            "get both of the same model."
        )
    if base.clip_layer is not None:
        _fit_to_clip(base, component, made)
    return made


def _fit_to_clip(base: Base, component: str, made) -> None:
    """Compare length and last token with those of a CLIP text encoder.

    It pools the state at its last token. Where the files do not say how many tokens it reads, the
    tokenizer is told.
    """
    folder = base.root / component.replace("text_encoder", "tokenizer")
    path = folder / "tokenizer_config.json"
    written = configs.read(path).get("model_max_length") if path.is_file() else None
    if written is None:
        made.model_max_length = base.text_length
    elif written != base.text_length:
        raise BaseError(
            f"{path} has model_max_length={brief(written)}, where the {component} of the base "
            f"{base.name!r} reads {base.text_length} tokens: get both of the same model."
        )

    end = base.config(component).get("eos_token_id", OLD_END)
    if end not in (OLD_END, made.eos_token_id):
        raise BaseError(
            f"{base.root / component / 'config.json'} has eos_token_id={brief(end)}, where the "
            f"tokenizer beside it ends with {made.eos_token_id}: get both of the same model."
        )
