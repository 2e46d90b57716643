"""What a picture was made from: typed, versioned records, also in PNGs and in JSON files.

pydantic validates them: it comes with Data-Juicer anyway, checks types strictly, and names the
field that is wrong. ``PanelRecord.from_json`` is the one place where records from outside come in.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from storyboard import artifacts
from storyboard.errors import StoryboardError

TEXTS = ("prompt", "negative_prompt")
CHARACTER_FILE = "character.png"
MAX_BATCH_SIZE = 64
MAX_FIELD = 100  # characters of a field's name in a message
MAX_TEXT_LENGTH = 77 * 128  # tokens: two prompts of 11 chunks each, at their common length

# what a record says and no picture depends on; embeddings are cached whichever device made them
NOT_IN_FINGERPRINT: Any = {
    "version": True,
    "drawn": True,
    "text_encoder_on_cpu": True,
    "base": {"name", "layout"},
    "lora": {"tensors_digest", "text_encoder"},
    "reference": {"file", "model"},
    "character": {"file"},
}

# version 1 knew these families alone, by diffusers' pipeline class
FAMILIES_OF_VERSION_1 = {
    "KolorsPipeline": "kolors",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionPipeline": "sd15",
}

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=r"^[\w.+-]{1,40}$")]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class RecordError(StoryboardError, ValueError):
    """A record that does not have the form that it should; names the field."""


class Record(BaseModel):
    """Frozen, of exactly the fields that it declares, each of its declared type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BaseRecord(Record):
    """The base that a picture was drawn with.

    Attributes:
        name: As in settings, or the name of a folder or file.
        family: Name of its family (``storyboard.models.families``).
        pipeline: diffusers' class that draws with it.
        fingerprint: Of its files; None where it is not known, as of a ComfyUI graph.
        layout: ``"diffusers"`` for a folder of one's own, which ComfyUI loads by another node.
    """

    name: str
    family: str
    pipeline: str
    fingerprint: Sha256 | None = None
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    zero_terminal_snr: bool = False
    layout: Literal["diffusers"] | None = None


class LoraRecord(Record):
    """The LoRA that a picture was drawn with.

    Attributes:
        digest: SHA-256 of the file; None where it is not known, as of a ComfyUI graph.
        tensors_digest: SHA-256 of the tensors alone, by which A1111 knows it.
        strength: Weight of its addition to the base.
        text_encoder: Whether it has modules for text encoders.
    """

    digest: Sha256 | None = None
    tensors_digest: Sha256 | None = None
    strength: float = 1.0
    text_encoder: bool = False


class ReferenceRecord(Record):
    """The picture that a panel follows (``storyboard.reference.Reference``).

    Attributes:
        picture: SHA-256 of the picture; None where it is not known, as of a ComfyUI graph.
        file: What the panel follows, beside the panel: the ControlNet's map, or the picture itself.
        model: A ControlNet other than the base's own, by its id at the hubs or as ``"own"``.
        controlnet, annotator: Fingerprints of the models.
        versions: Of the packages that made the map.
    """

    control: Literal["edges", "depth", "pose", "segmentation", "colour", "image"]
    strength: Annotated[float, Field(ge=0)]
    file: Annotated[str, Field(pattern=r"^[^/\\:\x00]+$")]
    picture: Sha256 | None = None
    end: Share = 1.0
    prepared: bool = False
    model: str | None = None
    controlnet: Sha256 | None = None
    annotator: Sha256 | None = None
    versions: dict[str, Version] = {}


class CharacterRecord(Record):
    """How a panel keeps the character of panel 1, or of a picture.

    Attributes:
        source: SHA-256 of the picture, or the fingerprint of panel 1.
        weights: SHA-256 of the IP-Adapter and bytes of its image encoder.
        file: The picture beside the panels, if one was given; ``heroine.png`` in version 1.
    """

    method: Literal["shared", "ip-adapter"]
    strength: Annotated[float, Field(ge=0)]
    source: Sha256
    weights: tuple[Sha256, Count] | None = None
    file: Literal["character.png", "heroine.png"] | None = None


class DrawnRecord(Record):
    """How a panel was drawn: with ``PanelRecord`` this makes the picture again, bit for bit.

    Attributes:
        batch, row: Pictures that were denoised together, and the row of this one, from 0.
        text_length: Tokens that all prompts of the batch were repeated to.
        vae_tiling: Whether it was decoded in tiles.
        chunks: Of each prompt that is longer than CLIP reads, its parts; None where every prompt of
            the batch is short, or where an earlier version encoded a long one.
        fingerprint: Of the panel at that time.
        file, bytes: The PNG; None in the PNG itself.
    """

    batch: Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)]
    row: Annotated[int, Field(ge=0)]
    text_length: Annotated[int, Field(ge=1, le=MAX_TEXT_LENGTH)]
    vae_tiling: bool
    chunks: dict[Literal["prompt", "negative_prompt"], tuple[str, ...]] | None = None
    fingerprint: Sha256 | None = None
    file: Annotated[str, Field(pattern=r"^[^/\\:\x00]+$")] | None = None
    bytes: int | None = None

    @property
    def file_name(self) -> str:
        """``file``, of a record that says where its picture lies; RecordError for others."""
        if self.file is None:
            raise RecordError("the record does not name the file of its picture")
        return self.file

    @model_validator(mode="after")
    def _check_row(self) -> Self:
        if self.row >= self.batch:
            raise ValueError(f"row {self.row} of a batch of {self.batch}")
        return self


class PanelRecord(Record):
    """Everything that a panel's picture is made from.

    Attributes:
        steps, guidance_scale: Denoising steps, and the scale of classifier-free guidance.
        guidance_end: Share of the steps after which guidance ends.
        sampler, schedule_type: In A1111's words.
        precision: Of the base; None where it is not known, as of a ComfyUI graph.
        text_encoder_bits: Bits of a quantised text encoder; None where it is whole.
        text_encoder_on_cpu: Whether a machine with a card kept the text encoders off it; None where
            it is not known.
        clip_skip: Layer of CLIP that prompts are read at, counted from the end; None for the usual.
        versions: Of the packages that draw.
        drawn: None before it is drawn.
    """

    version: Literal[2] = 2
    prompt: str
    negative_prompt: str
    seed: Annotated[int, Field(ge=0)]
    width: Count
    height: Count
    steps: Count
    guidance_scale: Annotated[float, Field(ge=0)]
    guidance_end: Share = 1.0
    sampler: Literal["DPM++ 2M"] = "DPM++ 2M"
    schedule_type: Literal["Karras", "Simple"] = "Karras"
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    text_encoder_bits: Literal[4, 8] | None = None
    text_encoder_on_cpu: bool | None = None
    clip_skip: Count | None = None
    base: BaseRecord
    lora: LoraRecord | None = None
    reference: ReferenceRecord | None = None
    character: CharacterRecord | None = None
    versions: dict[str, Version] = {}
    drawn: DrawnRecord | None = None

    @property
    def as_drawn(self) -> DrawnRecord:
        """``drawn``, of a panel that is drawn; RecordError for one that is not."""
        if self.drawn is None:
            raise RecordError("the record is of a panel that is not drawn")
        return self.drawn

    def fingerprint(self) -> str:
        """SHA-256 of what the picture is made from; equal for every record of the same picture."""
        facts = self.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT, exclude_none=True)
        return artifacts.fingerprint(stage="panel", **facts)

    def to_json(self) -> dict[str, Any]:
        """For ``json.dumps``; what is None is left out."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_json(cls, content: object) -> Self:
        """The record that ``json.loads`` read, also one of version 1.

        Raises:
            RecordError: It is no record; names the first field that is wrong.
        """
        if not isinstance(content, Mapping):
            raise RecordError(f"a record is a JSON object, not {type(content).__name__}")
        if "version" not in content:
            content = _of_version_1(content)
        try:
            # from JSON, where a strict tuple is a list; NaN, which json.dumps writes, is refused
            return cls.model_validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "the record"
            field = " ".join(field.split())[:MAX_FIELD]  # a key may be anybody's text
            raise RecordError(f"{field}: {first['msg']}") from error
        except RecursionError as error:
            raise RecordError("it is nested without end") from error


def is_version_1(content: object) -> bool:
    """Whether ``content``, as ``json.loads`` reads it, is a panel that an earlier version drew."""
    return isinstance(content, Mapping) and "version" not in content


def _of_version_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """The flat panel of version 1 in today's form; what it does not know is left for validation."""
    left = dict(content)
    base = _take(
        left,
        base="name",
        pipeline="pipeline",
        base_fingerprint="fingerprint",
        prediction_type="prediction_type",
        zero_terminal_snr="zero_terminal_snr",
        layout="layout",
    )
    family = FAMILIES_OF_VERSION_1.get(str(base.get("pipeline")))
    record: dict[str, Any] = {"base": base | ({"family": family} if family else {})}

    lora = _take(
        left, lora="digest", lora_tensors="tensors_digest", lora_text_encoder="text_encoder"
    )
    if lora.get("digest") is not None:
        record["lora"] = lora

    if isinstance(heroine := left.get("heroine"), Mapping):
        del left["heroine"]
        names = {"by": "method", "of": "source"}
        record["character"] = {names.get(key, key): value for key, value in heroine.items()}

    fields = ("batch", "row", "text_length", "vae_tiling", "chunks", "fingerprint", "file", "bytes")
    drawn = _take(left, **{field: field for field in fields})
    if "batch" in drawn:  # its PNGs did not say how they were drawn
        record["drawn"] = drawn

    return {"version": 2, **left, **record}


def _take(content: dict[str, Any], **names: str) -> dict[str, Any]:
    """Move what ``content`` has of ``names`` out of it, by the name that each maps to."""
    return {new: content.pop(old) for old, new in names.items() if old in content}
