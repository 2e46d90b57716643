"""Private parts of diffusers' pipelines and models, and hooks on its UNet."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import nn

from storyboard.compat import guard

PACKAGE = "diffusers"


def execution_device(pipe) -> torch.device:
    """Where ``pipe`` computes, its modules being moved there in turn or not."""
    guard.require(PACKAGE, pipe, "_execution_device")
    return pipe._execution_device


def callback_tensors(pipe) -> list[str]:
    """Names of the tensors that a callback at the end of a step can read and replace."""
    guard.require(PACKAGE, pipe, "_callback_tensor_inputs")
    return pipe._callback_tensor_inputs


def end_guidance(pipe) -> None:
    """Let the steps that follow in the pipeline's present call do without guidance.

    The next call sets it anew. diffusers' own ``SDXLCFGCutoffCallback`` does the same and keeps the
    last row of each tensor alone, which breaks batches.
    """
    guard.require(PACKAGE, pipe, "_guidance_scale", "do_classifier_free_guidance")
    pipe._guidance_scale = 1.0
    guard.check(
        PACKAGE,
        not pipe.do_classifier_free_guidance,
        "_guidance_scale no longer decides on guidance",
    )


def is_model(model: nn.Module) -> bool:
    """Whether ``model`` is of one of diffusers' classes."""
    from diffusers import ModelMixin

    return isinstance(model, ModelMixin)


def renamed(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Names in a file -> names in ``model``, as ``from_pretrained`` renames them.

    Attention was named otherwise before diffusers 0.18: ``query`` is ``to_q`` today.
    """
    guard.require(PACKAGE, model, "_fix_state_dict_keys_on_load")
    state = {name: name for name in names}
    model._fix_state_dict_keys_on_load(state)
    return {old: new for new, old in state.items()}


def clip_from_single_file(
    kind: type, tensors: Mapping[str, torch.Tensor], **options: object
) -> nn.Module:
    """A CLIP text encoder of class ``kind`` from tensors in the original layout.

    Args:
        options: As ``from_single_file`` of diffusers' models takes them.
    """
    from diffusers.loaders import single_file_utils

    guard.require(PACKAGE, single_file_utils, "create_diffusers_clip_model_from_ldm")
    return single_file_utils.create_diffusers_clip_model_from_ldm(kind, tensors, **options)


def chatglm_offsets(tokenizer, text: str) -> list[tuple[int, int]]:
    """First and last character (exclusive) of each SentencePiece token of ``text``."""
    guard.require(PACKAGE, tokenizer, "tokenizer")
    guard.require(PACKAGE, tokenizer.tokenizer, "sp_model")
    return tokenizer.tokenizer.sp_model.encode(text, return_type="offset_mapping")["offsets"]


@contextlib.contextmanager
def self_attention(unet: nn.Module, processor: Callable) -> Iterator[int]:
    """Inside, ``processor`` computes all self-attention of ``unet``; yields the number of layers.

    Every layer has the processor that it had afterwards.
    """
    guard.require(PACKAGE, unet, "attn_processors", "set_attn_processor")
    before = unet.attn_processors
    names = [name for name in before if name.endswith("attn1.processor")]
    unet.set_attn_processor(before | dict.fromkeys(names, processor))
    try:
        yield len(names)
    finally:
        unet.set_attn_processor(before)


def cross_attention_layers(unet: nn.Module) -> list[nn.Module]:
    """Layers of ``unet`` that look at the prompt.

    Raises:
        LibraryError: They take no mask, or are not where they were.
    """
    from diffusers.models.attention_processor import Attention

    guard.require_parameters(PACKAGE, Attention.forward, "encoder_hidden_states", "attention_mask")
    layers = [
        module
        for name, module in unet.named_modules()
        if name.endswith("attn2") and isinstance(module, Attention)
    ]
    guard.check(PACKAGE, bool(layers), "a UNet has no attention layers that are named attn2")
    return layers


def replace_prompt_embeds(
    unet: nn.Module, replace: Callable[[torch.Tensor], torch.Tensor | None]
) -> torch.utils.hooks.RemovableHandle:
    """Let ``unet`` see ``replace(encoder_hidden_states)`` in every call; None leaves them."""
    guard.require_parameters(PACKAGE, type(unet).forward, "encoder_hidden_states")

    def before(_unet, args: tuple, named: dict):
        replaced = replace(named["encoder_hidden_states"])
        return None if replaced is None else (args, named | {"encoder_hidden_states": replaced})

    return unet.register_forward_pre_hook(before, with_kwargs=True)


@contextlib.contextmanager
def add_residuals(unet: nn.Module, residuals: Callable[..., dict | None]) -> Iterator[None]:
    """Inside, ``unet`` adds a ControlNet's residuals in every call.

    Args:
        residuals: Takes the arguments of the call; gives those of diffusers' UNet for residuals by
            name, or None for a call without.
    """
    names = ("down_block_additional_residuals", "mid_block_additional_residual")
    guard.require_parameters(PACKAGE, type(unet).forward, *names)

    def before(_unet, args: tuple, named: dict):
        added = residuals(*args, **named)
        return None if added is None else (args, named | added)

    handle = unet.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def add_attention_bias(
    layer: nn.Module, bias: Callable[[], torch.Tensor | None]
) -> torch.utils.hooks.RemovableHandle:
    """Let the attention ``layer`` add ``bias()`` to its scores in every call; None adds nothing."""

    def before(_layer, args: tuple, named: dict):
        added = bias()
        return None if added is None else (args, named | {"attention_mask": added})

    return layer.register_forward_pre_hook(before, with_kwargs=True)


def transformers_channels_last(unet: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
    """Let the transformer blocks of ``unet`` hand on tensors that lie channels last.

    By themselves they hand on one channel after another, and so would all layers behind them.
    """
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    guard.require_parameters(PACKAGE, Transformer2DModel.forward, "return_dict")

    def after(_module, _args, output: tuple):
        hidden_states, *others = output
        return hidden_states.contiguous(memory_format=torch.channels_last), *others

    return [
        module.register_forward_hook(after)
        for module in unet.modules()
        if isinstance(module, Transformer2DModel)
    ]
