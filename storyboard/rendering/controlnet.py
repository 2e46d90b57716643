"""ControlNets (https://arxiv.org/abs/2302.05543): checked, loaded, attached to a UNet."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import ControlNetModel

from storyboard.compat import diffusers
from storyboard.errors import BaseError
from storyboard.models import configs, layout
from storyboard.models import loading as models
from storyboard.models.base import Base
from storyboard.models.weight_files import find_weights

OTHER_KINDS = {  # what is called a ControlNet as well, by a key that only its config.json has
    "num_control_type": "a ControlNet Union",
    "time_embedding_mix": "a ControlNet-XS",
    "num_single_layers": "a ControlNet for Flux",
    "axes_dims_rope": "a ControlNet for Qwen-Image",
    "joint_attention_dim": "a ControlNet for Stable Diffusion 3",
    "motion_max_seq_length": "a SparseCtrl for video",
    "adapter_type": "a T2I-Adapter",
}


def check(base: Base, folder: Path) -> None:
    """Check by its structure that the ControlNet in ``folder`` fits the UNet of ``base``.

    What its class is called does not matter.

    Raises:
        BaseError: It is of another kind, was made for another base, or is not whole.
    """
    config = _config(folder)
    for key, kind in OTHER_KINDS.items():
        if key in config:
            raise BaseError(
                f"{folder} holds {kind}, which cannot control the base {base.name!r}: "
                "name a ControlNet for one kind of map, in diffusers' layout."
            )

    for key, accepted in _accepted(base.config("unet")).items():
        if config.get(key) not in accepted:
            raise BaseError(
                f"{folder} holds a ControlNet of {key}={config.get(key)}, where the base "
                f"{base.name!r} takes {accepted[-1]}: name one made for this base."
            )

    models.check_folder(folder, "get it again")
    layout.check(models.built(ControlNetModel, folder), _weight_files(folder))


def _config(folder: Path) -> dict:
    """Its ``config.json``, without private keys."""
    remedy = "name a ControlNet in diffusers' layout, with config.json and weights"
    return configs.public(configs.read(folder / "config.json", remedy))


def _accepted(unet: dict) -> dict[str, tuple]:
    """Values that a ControlNet's config may have, by key, for a UNet of the config ``unet``.

    It takes the UNet's inputs, and its residuals are added there.
    """
    same = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")
    accepted = {key: (unet.get(key),) for key in same}
    accepted["conditioning_channels"] = (None, 3)
    accepted["encoder_hid_dim"] = (None, unet.get("encoder_hid_dim"))

    # a UNet that projects its text lends its time embedding, see ControlNet
    if unet.get("encoder_hid_dim_type") != "text_proj":
        key = "projection_class_embeddings_input_dim"
        accepted[key] = (None, unet.get(key))
    return accepted


def load(folder: Path, dtype: torch.dtype) -> ControlNetModel:
    """The ControlNet in ``folder``, which ``check`` let pass, in evaluation mode, on the CPU."""
    return models.filled(models.built(ControlNetModel, folder), _weight_files(folder), dtype)


def _weight_files(folder: Path) -> list[Path]:
    return find_weights(folder, f"The ControlNet in {folder}", "get it again")


class ControlNet:
    """A ControlNet beside a pipeline's UNet, which gets its residuals as keyword arguments.

    diffusers' ControlNet pipelines do the same for SD 1.5 and SDXL (parity is tested). As a hook it
    serves Kolors as well, for which diffusers has none, ends with guidance, and lets every picture
    of a batch have a strength and an end of its own.

    Args:
        folder: As ``check`` let it pass.
        unet: Lends what a ControlNet for SDXL lacks where the UNet projects its text.
    """

    def __init__(
        self, base: Base, folder: Path, unet: torch.nn.Module, dtype: torch.dtype, device: str
    ) -> None:
        self.model = load(folder, dtype).to(device, memory_format=torch.channels_last)
        self.projection = None
        config = base.config("unet")  # the module's own changes with an IP-Adapter
        if config.get("encoder_hid_dim_type") != "text_proj":
            return

        # diffusers' ControlNet holds the projection and does not apply it
        self.projection = (
            self.model.encoder_hid_proj
            or getattr(unet, "text_encoder_hid_proj", None)
            or unet.encoder_hid_proj
        )
        key = "projection_class_embeddings_input_dim"
        if self.model.config[key] not in (None, config[key]):
            self.model.add_embedding = unet.add_embedding  # an SDXL ControlNet on Kolors

    @contextmanager
    def attached(
        self,
        unet: torch.nn.Module,
        conditions: torch.Tensor,
        strengths: Sequence[float],
        ends: Sequence[float],
        steps: int,
    ) -> Iterator[None]:
        """While open, every call of ``unet`` is a step under control.

        Args:
            conditions: Maps (n, 3, h, w) in [0, 1], one a picture; the UNet's batch is n, or 2 n
                under guidance.
            strengths: Of the residuals, one a picture.
            ends: Share of the steps after which control ends, one a picture.
            steps: Calls of ``unet`` that an end is a share of.
        """
        conditions = conditions.to(
            self.model.device, self.model.dtype, memory_format=torch.channels_last
        )
        step = 0

        def residuals(*arguments, **named) -> dict | None:
            nonlocal step
            step += 1
            scales = [
                strength if step / steps <= end else 0.0
                for strength, end in zip(strengths, ends, strict=True)
            ]
            if not any(scales):
                return None
            return self._residuals(conditions, scales, *arguments, **named)

        with diffusers.add_residuals(unet, residuals):
            yield

    def _residuals(
        self,
        conditions: torch.Tensor,
        scales: list[float],
        sample: torch.Tensor,
        timestep: torch.Tensor,
        *,
        encoder_hidden_states: torch.Tensor,
        added_cond_kwargs: dict | None = None,
        **_named: object,
    ) -> dict[str, object]:
        """Keyword arguments of a UNet's call with the arguments that follow ``scales``."""
        repeats = len(sample) // len(conditions)  # 2 under guidance
        scale = torch.tensor(scales * repeats, dtype=sample.dtype, device=sample.device)
        scale = scale.view(-1, 1, 1, 1)
        if self.projection:
            encoder_hidden_states = self.projection(encoder_hidden_states)

        down, mid = self.model(
            sample,
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            controlnet_cond=conditions.repeat(repeats, 1, 1, 1),
            added_cond_kwargs=added_cond_kwargs,
            return_dict=False,
        )
        return {
            "down_block_additional_residuals": [residual * scale for residual in down],
            "mid_block_additional_residual": mid * scale,
        }
