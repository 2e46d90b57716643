"""Every knob in one place, checked before anything is done with it."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from . import bases
from .errors import SettingsError
from .story import MAX_SEED

HEROINE_STRENGTH = {"shared": 1.0, "ip-adapter": 0.6}
CLIP_LAYER_LIMIT = 12  # CLIP ViT-L, which SD 1.5 and SDXL have, has so many layers


@dataclass(frozen=True)
class Settings:
    """What the notebook's ``parameters`` cell sets. ``None`` means: what suits the base.

    Args:
        base: What is fine-tuned: ``"mini"``, ``"kolors"``, ``"sdxl"``, ``"sd15"``, or the path of a diffusers folder or a
            ``.safetensors`` checkpoint. None takes Kolors on a CUDA card with room for it and mini elsewhere.
        dataset: ``"sample"``, a folder of pictures with captions, or a ModelScope data set id.
        caption_template: Caption of pictures that have none, where ``{folder}`` is the name of the picture's folder without
            kohya's number and ``{file}`` its own without suffix; None takes the concept of kohya's ``10_concept`` folders.
        captioner: Model that writes captions, in English, for pictures that neither have one nor get one from a template or a
            folder: a folder or an id at the hubs, such as ``"Salesforce/blip-image-captioning-large"``; None writes none.
        recipe: Name of a Data-Juicer recipe in ``recipes/`` or the path of one.
        output: Folder that everything made is written to.
        seed: Reaches data order, noise, initialisation and rendering.
        resolution: Side of a square of the same area as training and story pictures, in pixels.
        rank: Rank of the LoRA, 1 to 256.
        alpha: Its scale is ``alpha / rank``; None is ``alpha = rank``.
        learning_rate: Peak of a cosine schedule with warm-up.
        train_steps: Optimizer steps.
        train_batch_size: Pictures in a step.
        num_inference_steps: Denoising steps for a picture.
        guidance_scale: Classifier-free guidance; 1 switches it off.
        guidance_end: Share of the steps after which guidance ends, 0 to 1.
        render_batch_size: Panels drawn at once.
        heroine: How panels keep the heroine: ``"shared"`` (self-attention that also looks at panel 1), ``"ip-adapter"``, or None.
        heroine_strength: Above 0 to 10 for shared attention, 0 to 2 for the IP-Adapter; None takes what is usual.
        heroine_picture: For the IP-Adapter, the picture of the heroine; None takes panel 1.
        text_encoder_bits: 8 or 4 load Kolors' text encoder quantised, on a CUDA card with bitsandbytes; None keeps it whole.
        precision: Of the base, "bf16", "fp16" or "fp32"; the LoRA is always trained in fp32.
        gradient_checkpointing: Compute activations twice, for a third of the memory; None decides by the card.
        text_encoder_on_cpu: The text encoders run on the CPU; None: where the card is too small for them.
        offload: While drawing, UNet and VAE are on the card in turn; None decides by the card.
        vae_tiling: The VAE decodes in overlapping tiles, with less memory; None decides by the card.
        clip_skip: Layer of CLIP that captions and prompts are read at, counted from the end as A1111 and kohya do: 2 is the penultimate
            (diffusers' own ``clip_skip=1`` for SD 1.5). None is the base's usual: 1 for SD 1.5, 2 for SDXL, which never reads the last.

    Raises:
        SettingsError: A value out of range or an unknown base, in one sentence.
    """

    base: str | None = None
    dataset: str = "sample"
    recipe: str = "sample"
    output: str = "outputs"
    seed: int = 42
    resolution: int | None = None
    rank: int = 16
    alpha: float | None = None
    learning_rate: float | None = None
    train_steps: int | None = None
    train_batch_size: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_end: float | None = None
    render_batch_size: int = 4
    heroine: str | None = None
    heroine_strength: float | None = None
    heroine_picture: str | None = None
    text_encoder_bits: int | None = None
    precision: str | None = None
    gradient_checkpointing: bool | None = None
    text_encoder_on_cpu: bool | None = None
    offload: bool | None = None
    vae_tiling: bool | None = None
    caption_template: str | None = None
    captioner: str | None = None
    clip_skip: int | None = None

    def __post_init__(self) -> None:
        if self.base is None:
            object.__setattr__(self, "base", bases.default())
        base = bases.get(self.base)
        for field in fields(self):
            if getattr(self, field.name) is None and hasattr(base, field.name):
                object.__setattr__(self, field.name, getattr(base, field.name))
        self._in_range("seed", 0, MAX_SEED, whole=True)
        self._in_range("resolution", base.resolution_step, 4096, whole=True)
        self._in_range("rank", 1, 256, whole=True)
        if self.alpha is None:
            object.__setattr__(self, "alpha", float(self.rank))
        self._in_range("alpha", 1e-6, 1e6)
        self._in_range("learning_rate", 1e-8, 1.0)
        self._in_range("train_steps", 1, 10**6, whole=True)
        self._in_range("train_batch_size", 1, 1024, whole=True)
        self._in_range("num_inference_steps", 2, 1000, whole=True)
        self._in_range("guidance_scale", 1.0, 50.0)
        self._in_range("guidance_end", 0.0, 1.0)
        self._in_range("render_batch_size", 1, 64, whole=True)
        if self.precision not in (None, "fp32", "bf16", "fp16"):
            raise SettingsError(
                f'precision={self.precision!r} must be "bf16", "fp16", "fp32" or None.'
            )
        for name in ("gradient_checkpointing", "text_encoder_on_cpu", "offload", "vae_tiling"):
            if not isinstance(getattr(self, name), bool | None):
                raise SettingsError(f"{name}={getattr(self, name)!r} must be True, False or None.")
        self._check_heroine(base)
        if self.clip_skip is not None:
            if base.clip_layer is None:
                raise SettingsError(
                    f"clip_skip={self.clip_skip!r} belongs to CLIP, which the base {self.base!r} does not have: leave it None."
                )
            self._in_range("clip_skip", base.clip_layer, CLIP_LAYER_LIMIT, whole=True)
        if self.text_encoder_bits not in (None, 4, 8):
            raise SettingsError(
                f"text_encoder_bits={self.text_encoder_bits!r} must be 8, 4 or None."
            )
        if self.resolution % base.resolution_step:
            raise SettingsError(
                f"resolution={self.resolution} must be a multiple of {base.resolution_step} for the base {self.base!r}."
            )
        if self.caption_template is not None:
            words = (
                self.caption_template.replace("{folder}", "").replace("{file}", "")
                if isinstance(self.caption_template, str)
                else "{"
            )
            if "{" in words or "}" in words:
                raise SettingsError(
                    f"caption_template={self.caption_template!r} must be text with no brackets but {{folder}} and {{file}}, or None."
                )
        for name in (
            "base",
            "dataset",
            "recipe",
            "output",
            *(["captioner"] if self.captioner is not None else []),
        ):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise SettingsError(f"{name}={getattr(self, name)!r} must be a name or a path.")

    def _check_heroine(self, base: bases.Base) -> None:
        if self.heroine not in (None, *HEROINE_STRENGTH):
            raise SettingsError(f'heroine={self.heroine!r} must be "shared", "ip-adapter" or None.')
        if self.heroine == "ip-adapter" and base.ip_adapter is None:
            raise SettingsError(
                f'The base {self.base!r} has no IP-Adapter: set heroine="shared", or another base.'
            )
        if (
            self.heroine is None
            and self.heroine_strength is not None
            or self.heroine != "ip-adapter"
            and self.heroine_picture is not None
        ):
            raise SettingsError(
                'heroine_strength belongs to a heroine, and heroine_picture to heroine="ip-adapter": set that too, or leave them out.'
            )
        if self.heroine:
            if self.heroine_strength is None:
                object.__setattr__(self, "heroine_strength", HEROINE_STRENGTH[self.heroine])
            self._in_range(
                "heroine_strength", *((0.01, 10) if self.heroine == "shared" else (0, 2))
            )

    def _in_range(self, name: str, low: float, high: float, whole: bool = False) -> None:
        value = getattr(self, name)
        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise SettingsError(
                f"{name}={value!r} must be {'a whole number' if whole else 'a number'} from {low:g} to {high:g}."
            )

    @property
    def folder(self) -> Path:
        """Where the stages write."""
        return Path(self.output)

    def but(self, **changes: object) -> "Settings":
        """The same settings with some changed."""
        return replace(self, **changes)

    def _repr_html_(self) -> str:
        from . import show

        return show.table(
            "Settings", ["setting", "value"], [[k, v] for k, v in asdict(self).items()]
        )
