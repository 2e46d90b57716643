"""The pipeline that has a base's text encoders alone."""

import torch

from storyboard.models import loading
from storyboard.models.base import Base
from storyboard.models.tokenizing import tokenizer


def text_pipeline(base: Base, device: str, dtype: torch.dtype, bits: int | None = None):
    """The pipeline of ``base`` with its text encoders alone, quantised to ``bits``."""
    encoders = [name for name in base.components if name.startswith("text_encoder")]
    # before the encoders, which take longer to load
    parts = {name.replace("text_encoder", "tokenizer"): tokenizer(base, name) for name in encoders}
    options = _quantised(bits, dtype)
    for component in encoders:
        parts[component] = loading.load(base, component, dtype, device, **options)
    return loading.pipeline(base, **parts)


def _quantised(bits: int | None, dtype: torch.dtype) -> dict[str, object]:
    """Options of ``from_pretrained``; {} where ``bits`` is None."""
    if bits is None:
        return {}
    from transformers import BitsAndBytesConfig

    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if bits == 8
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype)
    )
    return {"quantization_config": config, "device_map": {"": 0}}
