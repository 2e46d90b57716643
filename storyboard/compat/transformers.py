"""transformers: how it renames tensors while it loads, and text encoders read before their end."""

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn

from storyboard.compat import guard

PACKAGE = "transformers"


def renamed(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Names in a file -> names in ``model``, as ``from_pretrained`` renames them.

    Such are the prefixes of transformers before 5.
    """
    from transformers import conversion_mapping, core_model_loading

    guard.require(PACKAGE, conversion_mapping, "get_model_conversion_mapping")
    guard.require(PACKAGE, core_model_loading, "WeightRenaming", "rename_source_key")
    guard.require_parameters(
        PACKAGE,
        core_model_loading.rename_source_key,
        "source_key",
        "weight_renamings",
        "weight_converters",
        "base_model_prefix",
        "meta_state_dict",
    )
    # other transforms than renamings compute tensors: no base has such, and a tensor of an unknown
    # name is refused later
    renamings = [
        transform
        for transform in conversion_mapping.get_model_conversion_mapping(model)
        if isinstance(transform, core_model_loading.WeightRenaming)
    ]
    expected = dict.fromkeys(model.state_dict(), True)
    return {
        name: core_model_loading.rename_source_key(
            name, renamings, [], model.base_model_prefix, expected
        )[0]
        for name in names
    }


@contextlib.contextmanager
def without_last_layers(text_encoders: Iterable[nn.Module], count: int) -> Iterator[None]:
    """Inside, CLIP text encoders lack their last ``count`` layers and are read that much earlier.

    This is diffusers' own ``clip_skip``, final normalisation included, and holds for compel too.
    diffusers 0.42's of SD 1.5 asks ``CLIPTextModel`` for ``text_model``, which transformers 5 has
    no longer.
    """
    encoders = [getattr(each, "text_model", each).encoder for each in text_encoders if count]
    for encoder in encoders:
        guard.require(PACKAGE, encoder, "layers")
    before = [encoder.layers for encoder in encoders]
    try:
        for encoder in encoders:
            encoder.layers = encoder.layers[:-count]
        yield
    finally:
        for encoder, layers in zip(encoders, before, strict=True):
            encoder.layers = layers
