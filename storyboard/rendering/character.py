"""One heroine in all panels: self-attention that also looks at panel 1 (any base), or an IP-Adapter (where there is one)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from PIL import Image

from storyboard import artifacts
from storyboard.compat import diffusers
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, SettingsError
from storyboard.models import weights
from storyboard.models.base import read_header
from storyboard.models.layout import pretrained
from storyboard.models.run import Run
from storyboard.reference import Reference
from storyboard.rendering.controlnet import check_picture, picture


@dataclass
class Character:
    """How panels keep the heroine of panel 1, or of a picture.

    Attributes:
        by: ``"shared"`` or ``"ip-adapter"``.
        strength: Of shared attention, what a token of panel 1 weighs against one of a panel's own; of an IP-Adapter, its scale.
        source: The picture; None for panel 1.
        folder, files: Where the IP-Adapter lies, and its weight file and image encoder in there.
        weights: What of those enters the fingerprint.
        first_panel: Where panel 1's picture lies once it is drawn.
        resolution: Side in pixels that the picture is brought to.
        image: The picture, once the IP-Adapter is attached.
    """

    by: str
    strength: float
    first_panel: Path
    resolution: int
    source: Path | None = None
    folder: Path | None = None
    files: tuple[str, str] | None = None
    weights: list | None = None
    image: Image.Image | None = None
    FILE: ClassVar[str] = "heroine.png"  # beside the panels: the picture that was given

    def on(self, place: int) -> bool:
        """Whether panel ``place``, from 0, is drawn with it."""
        return place > 0 or self.source is not None

    def facts(self, place: int, first: dict) -> dict:
        """What enters a panel's fingerprint and PNG; nothing for a panel that is drawn without."""
        if not self.on(place):
            return {}
        of = artifacts.digest_of_file(self.source) if self.source else first["fingerprint"]
        found = {"heroine": {"by": self.by, "strength": self.strength, "of": of}}
        if (
            self.by == "ip-adapter"
        ):  # diffusers prepares its embedding for guidance once and for all steps
            found |= {"guidance_end": 1.0}
            found["heroine"] |= {"weights": self.weights} | (
                {"file": self.FILE} if self.source else {}
            )
        return found

    def picture(self) -> Image.Image:
        """What the IP-Adapter looks at: ``source`` or panel 1, a square of ``resolution`` pixels."""
        return picture(Reference(self.source or self.first_panel), self.resolution)

    def attach(self, pipe, drawing_pipe) -> Image.Image:
        """Put the IP-Adapter into ``pipe`` unless it is there; returns the picture that it shall look at.

        Raises:
            BaseError: The weights do not fit.
        """
        if self.image is None:
            self.image = self.picture()
            try:
                _load_ip_adapter(pipe, self.folder, *self.files)
            except (RuntimeError, ValueError, KeyError) as error:
                # diffusers leaves what the file lacks on the meta device and then cannot move it
                reason = (
                    "tensors are missing"
                    if isinstance(error, NotImplementedError)
                    else str(error).splitlines()[0]
                )
                said = f"{self.folder / self.files[0]} is no IP-Adapter for this base ({reason})"
                raise BaseError(f"{said}: get the one that was made for it.") from error
            pipe.set_ip_adapter_scale(self.strength)
        if drawing_pipe is not pipe:
            drawing_pipe.register_modules(
                image_encoder=pipe.image_encoder, feature_extractor=pipe.feature_extractor
            )
        return self.image


def prepare(run: Run, first_panel: Path, references: list) -> Character:
    """Check and fetch what ``run.character`` needs, before anything is drawn.

    Raises:
        SettingsError: The picture cannot be read, or references that shared attention cannot go with.
        BaseError, ResourceError: The IP-Adapter cannot be fetched.
    """
    source = Path(run.character_picture).expanduser() if run.character_picture else None
    if source:
        check_picture(source, "character_picture")
    if run.character == "shared":
        if references[0] or any(each and each.folder is None for each in references):
            said = 'character="shared" draws panel 1 beside every other panel'
            raise SettingsError(
                f'{said}: leave panel 1 without a reference, and the others without one of control="image".'
            )
        return Character("shared", run.character_strength, first_panel, run.resolution)
    model, file, encoder = run.base.ip_adapter
    names = (file, f"{encoder}/config.json", f"{encoder}/model.safetensors")
    folder = weights.fetch_module(model, "the IP-Adapter", names)
    known = [artifacts.digest_of_file(folder / file), (folder / names[2]).stat().st_size]
    return Character(
        "ip-adapter",
        run.character_strength,
        first_panel,
        run.resolution,
        source,
        folder,
        (file, encoder),
        known,
    )


def _load_ip_adapter(pipe, folder: Path, file: str, encoder: str) -> None:
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    # diffusers reads what it needs and does not ask whether the file holds more
    layers = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    keys = [name for name in read_header(folder / file) if name.endswith("to_k_ip.weight")]
    if len(keys) != len(layers):
        raise ValueError(
            f"it has keys for {len(keys)} layers of attention, the base has {len(layers)}"
        )

    model = pretrained(CLIPVisionModelWithProjection, folder / encoder, dtype=pipe.unet.dtype)
    side = model.config.image_size
    processor = CLIPImageProcessor(size=side, crop_size=side)
    with quiet():
        pipe.register_modules(
            image_encoder=model.to(diffusers.execution_device(pipe)), feature_extractor=processor
        )
        pipe.load_ip_adapter(
            str(folder),
            subfolder=str(Path(file).parent),
            weight_name=Path(file).name,
            image_encoder_folder=None,
            local_files_only=True,
        )


class SharedAttention:
    """Self-attention in which every picture of a batch also attends to the first one's keys and values.

    As StyleAligned does (https://arxiv.org/abs/2312.02133), with its shift of the shared scores by log(strength): a token of the
    first picture then weighs ``strength`` times one of a picture's own. Without its AdaIN of queries and keys, which made the places
    alike, too (measured on ``mini``).

    Args:
        pictures: In the batch; under guidance the UNet sees twice as many rows.
        strength: Above 0.
    """

    def __init__(self, pictures: int, strength: float) -> None:
        self.pictures, self.shift = pictures, math.log(strength)

    def __call__(
        self,
        attn,
        hidden_states: torch.Tensor,
        encoder_hidden_states=None,
        attention_mask=None,
        temb=None,
        **_named,
    ) -> torch.Tensor:
        rows, tokens, _ = hidden_states.shape
        query, key, value = (
            attn.to_q(hidden_states),
            attn.to_k(hidden_states),
            attn.to_v(hidden_states),
        )
        key, value = (
            torch.cat([key, self._first(key)], 1),
            torch.cat([value, self._first(value)], 1),
        )
        bias = query.new_zeros(1, 1, 1, 2 * tokens)
        bias[..., tokens:] = self.shift
        heads = lambda t: t.view(rows, -1, attn.heads, t.shape[2] // attn.heads).transpose(1, 2)
        out = F.scaled_dot_product_attention(heads(query), heads(key), heads(value), bias)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))

    def _first(self, t: torch.Tensor) -> torch.Tensor:
        """(b, ...) -> each half's first row in place of every row of it."""
        return (
            t.unflatten(0, (-1, self.pictures))[:, :1]
            .expand(-1, self.pictures, *(-1,) * (t.ndim - 1))
            .flatten(0, 1)
        )


@contextmanager
def shared(unet: torch.nn.Module, pictures: int, strength: float) -> Iterator[int]:
    """While open, the self-attention of ``unet`` is shared; yields the number of layers. Afterwards every processor is back."""
    with diffusers.self_attention(unet, SharedAttention(pictures, strength)) as layers:
        yield layers
