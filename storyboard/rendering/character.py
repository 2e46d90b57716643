"""Character consistency: all panels show the character of panel 1, or of a picture.

By self-attention that also looks at panel 1, with any base, or by an IP-Adapter
(https://arxiv.org/abs/2308.06721), where the base has one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from storyboard import artifacts
from storyboard.compat import diffusers
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, SettingsError, StoryboardError, reason
from storyboard.models import weights
from storyboard.models.loading import check_folder, pretrained
from storyboard.models.run import Run
from storyboard.models.safetensors_header import read_header
from storyboard.records import CHARACTER_FILE, CharacterRecord, PanelRecord
from storyboard.rendering.references import PreparedReference, check_picture, expanded, square


@dataclass
class Character:
    """How panels keep the character.

    Attributes:
        method: ``"shared"`` or ``"ip-adapter"``.
        strength: Of shared attention, what a token of panel 1 weighs against one of a panel's own;
            of an IP-Adapter, its scale.
        first_panel: Where panel 1's picture lies once it is drawn.
        resolution: Side in pixels that the picture is brought to.
        source: The picture; None for panel 1.
        folder, files: Of the IP-Adapter; its weight file and image encoder in there.
        weights: What of those enters the fingerprint.
        image: The picture, once the IP-Adapter is attached.
    """

    method: str
    strength: float
    first_panel: Path
    resolution: int
    source: Path | None = None
    folder: Path | None = None
    files: tuple[str, str] | None = None
    weights: tuple[str, int] | None = None
    image: Image.Image | None = None

    def applies_to(self, index: int) -> bool:
        """Whether panel ``index``, from 0, is drawn with it."""
        return index > 0 or self.source is not None

    def record(self, record: PanelRecord, index: int, first: PanelRecord) -> PanelRecord:
        """``record`` of panel ``index`` with what is to be known of the character."""
        if not self.applies_to(index):
            return record
        source = artifacts.digest_of_file(self.source) if self.source else first.fingerprint()
        character = CharacterRecord(
            method=self.method,
            strength=self.strength,
            source=source,
            weights=self.weights,
            file=CHARACTER_FILE if self.source else None,
        )
        changes: dict[str, object] = {"character": character}
        if self.method == "ip-adapter":
            # diffusers prepares its embedding for guidance once and for all steps
            changes["guidance_end"] = 1.0
        return record.model_copy(update=changes)

    def picture(self) -> Image.Image:
        """What the IP-Adapter looks at: ``source`` or panel 1, ``resolution`` pixels a side."""
        return square(self.source or self.first_panel, self.resolution)

    def attach(self, pipe, drawing_pipe) -> Image.Image:
        """Put the IP-Adapter into ``pipe`` unless it is there; returns what it looks at.

        Args:
            drawing_pipe: Draws with the modules of ``pipe``, or is that.

        Raises:
            BaseError: The weights do not fit.
        """
        if self.image is None:
            self.image = self.picture()
            try:
                _load_ip_adapter(pipe, self.folder, *self.files)
            except (torch.OutOfMemoryError, StoryboardError):
                raise
            except Exception as error:  # diffusers raises whatever its own code meets
                # it leaves what the file lacks on the meta device and then cannot move it
                lacking = isinstance(error, NotImplementedError)
                why = "tensors are missing" if lacking else reason(error)
                raise BaseError(
                    f"{self.folder / self.files[0]} is no IP-Adapter for this base ({why}): "
                    "get the one that was made for it."
                ) from error
            pipe.set_ip_adapter_scale(self.strength)
        if drawing_pipe is not pipe:
            drawing_pipe.register_modules(
                image_encoder=pipe.image_encoder, feature_extractor=pipe.feature_extractor
            )
        return self.image


def prepare(
    run: Run, first_panel: Path, references: Sequence[PreparedReference | None]
) -> Character:
    """Check and fetch what ``run.character`` needs, before anything is drawn.

    Args:
        first_panel: Where panel 1's picture will lie.
        references: One a panel.

    Raises:
        SettingsError: The picture cannot be read, or shared attention does not go with references.
        BaseError, ResourceError: The IP-Adapter cannot be fetched.
    """
    source = expanded(run.character_picture) if run.character_picture else None
    if source:
        check_picture(source, "character_picture")
    common = (run.character, run.character_strength, first_panel, run.resolution)

    if run.character == "shared":
        from_picture = any(each and each.controlnet is None for each in references)
        if references[0] or from_picture:
            raise SettingsError(
                'character="shared" draws panel 1 beside every other panel: leave panel 1 without '
                'a reference, and the others without one of control="image".'
            )
        return Character(*common)

    model, file, encoder = run.base.ip_adapter
    names = (file, f"{encoder}/config.json", f"{encoder}/model.safetensors")
    folder = weights.fetch_module(model, "the IP-Adapter", names)
    read_header(folder / file)
    check_folder(folder / encoder, "get the IP-Adapter's image encoder again")
    known = (artifacts.digest_of_file(folder / file), (folder / names[2]).stat().st_size)
    return Character(*common, source, folder, (file, encoder), known)


def _load_ip_adapter(pipe, folder: Path, file: str, encoder: str) -> None:
    """Load the IP-Adapter ``file`` and its image encoder from ``folder`` into ``pipe``."""
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    # diffusers reads what it needs and does not ask whether the file holds more
    layers = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    keys = [name for name in read_header(folder / file) if name.endswith("to_k_ip.weight")]
    if len(keys) != len(layers):
        raise BaseError(
            f"{folder / file} is no IP-Adapter for this base (it has keys for {len(keys)} layers "
            f"of attention, the base has {len(layers)}): get the one that was made for it."
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
