"""Reference pictures: a ControlNet's residuals for the UNet, or the latents that image-to-image starts from."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel
from PIL import Image, ImageOps

from storyboard import artifacts
from storyboard.compat import diffusers
from storyboard.compat.quiet import quiet
from storyboard.compat.torch import true_fp32
from storyboard.data import pictures
from storyboard.errors import BaseError, SettingsError
from storyboard.models import loading as models
from storyboard.models import weights
from storyboard.models.bases import Base
from storyboard.reference import HUB_ID, OWN, Reference
from storyboard.rendering import annotators

OTHER_KINDS = {  # what is called a ControlNet as well, by a key that only its config.json has
    "num_control_type": "a ControlNet Union",
    "time_embedding_mix": "a ControlNet-XS",
    "num_single_layers": "a ControlNet for Flux",
    "axes_dims_rope": "a ControlNet for Qwen-Image",
    "joint_attention_dim": "a ControlNet for Stable Diffusion 3",
    "motion_max_seq_length": "a SparseCtrl for video",
    "adapter_type": "a T2I-Adapter",
}


@dataclass(frozen=True)
class Prepared:
    """A reference, checked, with everything at hand that it needs.

    Attributes:
        folder, annotator: Of the ControlNet, and of the model that makes its map; None where there is none.
        facts: What enters the panel's fingerprint and its PNG: the picture by its content, never by its path; ``file`` is
            where what ``shown`` gives lies beside the panel, ``model`` a ControlNet other than the base's own.
    """

    reference: Reference
    folder: Path | None
    annotator: Path | None
    facts: dict

    @property
    def group(self) -> tuple:
        """Panels of one group can be drawn together."""
        return (
            ("image", self.reference.strength)
            if self.folder is None
            else ("controlnet", str(self.folder))
        )


def prepare(base: Base, reference: Reference, place: int, steps: int) -> Prepared:
    """Check the picture of panel ``place`` and fetch what it needs, before anything is drawn.

    Raises:
        SettingsError: The picture cannot be read, the base has no such ControlNet, or image-to-image would have no step left.
        BaseError: The ControlNet is missing or made for another base.
    """
    path = Path(reference.picture).expanduser()
    check_picture(path, f"The reference of panel {place}")
    facts = {
        "picture": artifacts.digest_of_file(path),
        "control": reference.control,
        "strength": reference.strength,
        "file": f"panel-{place}-reference.png",
    }
    if reference.control == "image":
        if skipped(reference, steps) >= steps:
            said = f"Reference(strength={reference.strength:g}) of panel {place} leaves none of {steps} steps"
            raise SettingsError(f"{said}: lower it or raise num_inference_steps.")
        return Prepared(reference, None, None, facts)
    model = reference.weights or base.controlnets.get(reference.control)
    if not model:
        known = ", ".join(f'"{name}"' for name in sorted(base.controlnets)) or "none"
        said = f'The base {base.name!r} has no ControlNet for {reference.control!r} (it has {known}, and "image" without one)'
        raise SettingsError(f"{said}: name one with Reference(weights=...).")
    folder = weights.fetch_module(model, f"the ControlNet for {reference.control}")
    check(base, folder)
    annotator = None
    if not reference.prepared:
        if maker := reference.annotator or annotators.ANNOTATORS.get(reference.control):
            annotator = weights.fetch_module(maker, f"the model that finds {reference.control}")
        facts |= {
            "annotator": _fingerprint(base, annotator) if annotator else None,
            "versions": artifacts.versions("opencv-python-headless", "transformers"),
        }
    named = {"model": _name(reference.weights), "controlnet": _fingerprint(base, folder)}
    return Prepared(
        reference,
        folder,
        annotator,
        facts | named | {"end": reference.end, "prepared": reference.prepared},
    )


def _name(model: str | None) -> str | None:
    """Which ControlNet other than the base's own: its id at the hubs, or ``OWN``."""
    return model and (
        model if not Path(model).expanduser().exists() and re.fullmatch(HUB_ID, model) else OWN
    )


def check_picture(path: Path, what: str) -> None:
    """Raise SettingsError unless there is a whole picture at ``path``."""
    try:
        with Image.open(path) as image:
            image.load()
            pictures.eight_bits(pictures.upright(image))
    except pictures.UNREADABLE as error:
        raise SettingsError(
            f"{what}, {path}, cannot be read as a picture ({type(error).__name__}: {error}): give the path of a whole picture."
        ) from error


def check(base: Base, folder: Path) -> None:
    """Check by its structure, whatever its class is called, that the ControlNet in ``folder`` fits the base's UNet.

    Raises:
        BaseError: It is of another kind, was made for another base, or is not whole.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseError(
            f"{folder} holds no ControlNet in diffusers' layout ({type(error).__name__}): it needs config.json and weights."
        ) from error

    if kind := next((kind for key, kind in OTHER_KINDS.items() if key in config), None):
        said = f"{folder} holds {kind}, which cannot guide the base {base.name!r}"
        raise BaseError(f"{said}: name a ControlNet for one kind of map, in diffusers' layout.")
    for key, accepted in _accepted(base.config("unet")).items():
        if config.get(key) not in accepted:
            said = f"{folder} holds a ControlNet of {key}={config.get(key)}"
            raise BaseError(
                f"{said}, where the base {base.name!r} takes {accepted[-1]}: name one made for this base."
            )

    beside = _as_base(base, folder)
    beside.check_weights(folder.name)
    models.check(_skeleton(beside), beside.weight_files(folder.name))


def _accepted(unet: dict) -> dict[str, tuple]:
    """What a ControlNet's config may say beside that of the UNet whose inputs it takes and whose residuals it adds."""
    same = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")
    accepted = {key: (unet.get(key),) for key in same}
    accepted |= {
        "conditioning_channels": (None, 3),
        "encoder_hid_dim": (None, unet.get("encoder_hid_dim")),
    }
    if (
        unet.get("encoder_hid_dim_type") != "text_proj"
    ):  # a UNet that has it lends its time embedding, see Control
        key = "projection_class_embeddings_input_dim"
        accepted[key] = (None, unet.get(key))
    return accepted


def groups(todo: Sequence[int], prepared: Sequence[Prepared | None]) -> list[list[int]]:
    """``todo`` in parts that can be drawn together, panels without reference first."""
    found: dict[tuple, list[int]] = {(): [place for place in todo if prepared[place] is None]}
    for place in todo:
        if prepared[place]:
            found.setdefault(prepared[place].group, []).append(place)
    return [part for part in found.values() if part]


class Control:
    """A ControlNet beside the UNet of a pipeline, any of the three: its residuals reach the UNet as keyword arguments.

    diffusers' ControlNet pipelines do the same for SD 1.5 and SDXL (parity is tested). As a hook it serves Kolors as well, for which
    diffusers has none, ends with guidance, and lets every picture of a batch have a strength and an end of its own.
    """

    def __init__(
        self, base: Base, folder: Path, unet: torch.nn.Module, dtype: torch.dtype, device: str
    ) -> None:
        self.model = load(base, folder, dtype).to(device, memory_format=torch.channels_last)
        self.projection, config = (
            None,
            base.config("unet"),
        )  # the module's own changes with an IP-Adapter
        if (
            config.get("encoder_hid_dim_type") == "text_proj"
        ):  # diffusers' ControlNet holds the projection and does not apply it
            self.projection = (
                self.model.encoder_hid_proj
                or getattr(unet, "text_encoder_hid_proj", None)
                or unet.encoder_hid_proj
            )
            if self.model.config.projection_class_embeddings_input_dim not in (
                None,
                config["projection_class_embeddings_input_dim"],
            ):
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
        """While open, every call of ``unet`` is a step with control.

        Args:
            conditions: Maps (n, 3, h, w) in [0, 1], one a picture; the UNet's batch is n, or 2 n under guidance.
            strengths, ends: One a picture.
        """
        call = 0
        conditions = conditions.to(
            self.model.device, self.model.dtype, memory_format=torch.channels_last
        )

        def add(_unet, arguments, named):
            nonlocal call
            call += 1
            sample, timestep = arguments
            rows = [
                strength if call / steps <= end else 0.0 for strength, end in zip(strengths, ends)
            ]
            if not any(rows):
                return None
            repeats = len(sample) // len(conditions)
            scale = torch.tensor(rows * repeats, dtype=sample.dtype, device=sample.device).view(
                -1, 1, 1, 1
            )
            hidden = named["encoder_hidden_states"]
            down, mid = self.model(
                sample,
                timestep,
                encoder_hidden_states=self.projection(hidden) if self.projection else hidden,
                controlnet_cond=conditions.repeat(repeats, 1, 1, 1),
                added_cond_kwargs=named.get("added_cond_kwargs"),
                return_dict=False,
            )
            residuals = {
                "down_block_additional_residuals": [part * scale for part in down],
                "mid_block_additional_residual": mid * scale,
            }
            return arguments, named | residuals

        hook = unet.register_forward_pre_hook(add, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def load(base: Base, folder: Path, dtype: torch.dtype) -> ControlNetModel:
    """The ControlNet in ``folder``, which ``check`` let pass, in evaluation mode, on the CPU."""
    beside = _as_base(base, folder)
    return models.filled(_skeleton(beside), beside.weight_files(folder.name), dtype)


def _skeleton(beside: Base) -> ControlNetModel:
    """The ControlNet in the folder that ``beside`` is named after, without weights."""
    with quiet(), init_empty_weights(include_buffers=False):
        return ControlNetModel.from_config(beside.config(beside.name))


def picture(reference: Reference, resolution: int) -> Image.Image:
    """The reference upright, on white, in RGB, cut to a square of ``resolution`` pixels around its middle."""
    with Image.open(Path(reference.picture).expanduser()) as image:
        image = pictures.eight_bits(pictures.upright(image)).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return ImageOps.fit(on_white, (resolution, resolution), Image.Resampling.LANCZOS)


def shown(prepared: Prepared, resolution: int) -> Image.Image:
    """What is followed, ``resolution`` pixels wide and high: the map that the ControlNet sees, or the picture that image-to-image starts from."""
    image, reference = picture(prepared.reference, resolution), prepared.reference
    return (
        image
        if prepared.folder is None or reference.prepared
        else annotators.make(image, reference.control, prepared.annotator)
    )


@torch.no_grad()
def latents(pipe, images: Sequence[Image.Image]) -> torch.Tensor:
    """n pictures of one size, (h, w) pixels, as scaled latents (n, 4, h / 8, w / 8), without sampling."""
    pixels = torch.stack([annotators.as_tensor(image) for image in images]) * 2 - 1
    vae = pipe.vae
    with true_fp32(pipe.unet.dtype):
        return (
            torch.cat(
                [
                    vae.encode(
                        one[None].to(diffusers.execution_device(pipe), vae.dtype)
                    ).latent_dist.mean
                    for one in pixels
                ]
            )
            * vae.config.scaling_factor
        )


def image_to_image(base: Base, pipe):
    """diffusers' image-to-image pipeline of the same modules as ``pipe``."""
    return models.pipeline(
        base,
        base.family.image_to_image,
        vae=pipe.vae,
        unet=pipe.unet,
        scheduler=pipe.scheduler,
    )


def skipped(reference: Reference, steps: int) -> int:
    """Steps that image-to-image leaves out at the start, as diffusers counts them."""
    return steps - min(int(steps * (1 - reference.strength)), steps)


def _as_base(base: Base, folder: Path) -> Base:
    """``folder`` as if it were a component of a base, so that the same code reads and checks it."""
    return replace(base, name=folder.name, folder=folder.parent, modelscope=None)


def _fingerprint(base: Base, folder: Path) -> str:
    return replace(base, folder=folder).fingerprint()
