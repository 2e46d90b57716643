"""A LoRA in the UNet, as it is trained: injected by DiffSynth-Studio, computed with less work."""

from contextlib import ExitStack

import torch
from diffsynth.diffusion.training_module import DiffusionTrainingModule

from storyboard.compat import diffusers
from storyboard.compat.quiet import quiet
from storyboard.training import fp32_speedups, lora_branches
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.pipeline import TrainingPipeline


def inject(pipe: TrainingPipeline, hyperparameters: Hyperparameters) -> ExitStack:
    """Put a LoRA of fp32 weights into ``pipe.unet``, initialised from the seed.

    Returns:
        What restores peft's and diffusers' own forwards when it is closed. The LoRA stays.
    """
    with torch.random.fork_rng():
        torch.manual_seed(hyperparameters.seed)
        pipe.unet = DiffusionTrainingModule().add_lora_to_model(
            pipe.unet,
            target_modules=list(hyperparameters.targets),
            lora_rank=hyperparameters.rank,
            lora_alpha=hyperparameters.alpha,
            upcast_dtype=torch.float32,
        )
    return _speed_up(pipe)


def _speed_up(pipe: TrainingPipeline) -> ExitStack:
    with quiet():
        pipe.unet.to(memory_format=torch.channels_last)
    handles = diffusers.transformers_channels_last(pipe.unet)
    if pipe.torch_dtype == torch.float32:
        handles += fp32_speedups.add_to_weights(pipe.unet)
        handles += fp32_speedups.fold_padding(pipe.unet)
    else:
        handles += lora_branches.add_as_branches(pipe.unet)

    restore = ExitStack()
    for handle in handles:
        restore.callback(handle.remove)
    return restore
