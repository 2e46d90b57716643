"""Every setting in one place, as the user wrote it."""

import difflib
import numbers
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from storyboard import cluster, durations, paths, places, prompts
from storyboard.errors import SettingsError, brief
from storyboard.story import MAX_SEED

PRECISIONS = ("fp32", "bf16", "fp16")
DEVICES = ("cuda", "mps", "cpu")
CHARACTER_CONSISTENCY = ("shared", "ip-adapter")
CLIP_LAYER_LIMIT = 12  # CLIP ViT-L, which SD 1.5 and SDXL have, has so many layers

WHOLE_NUMBERS = {  # name -> smallest and largest value
    "seed": (0, MAX_SEED),
    "resolution": (8, 4096),
    "rank": (1, 256),
    "train_steps": (1, 10**6),
    "train_batch_size": (1, 1024),
    "num_inference_steps": (2, 1000),
    "render_batch_size": (1, 64),
    "clip_skip": (1, CLIP_LAYER_LIMIT),
}
NUMBERS = {
    "alpha": (1e-6, 1e6),
    "learning_rate": (1e-8, 1.0),
    "guidance_scale": (1.0, 50.0),
    "guidance_end": (0.0, 1.0),
    "lora_strength": (-2.0, 2.0),
    "prior_loss_weight": (0.0, 10.0),
    "caption_dropout": (0.0, 1.0),
}
FURTHER_NUMBERS = ("character_strength", "text_encoder_bits", "time_budget")
SWITCHES = ("gradient_checkpointing", "text_encoder_on_cpu", "offload", "vae_tiling")
PATHS = ("dataset", "recipe", "output")  # or names
OPTIONAL_PATHS = ("base", "captioner", "character_picture", "keep_in")


@dataclass(frozen=True)
class Settings:
    """What the notebook's ``parameters`` cell sets, and nothing else: None stays None.

    ``models.run.resolve`` fills in what None comes to, which depends on base and machine, and
    refuses what does not go with the base. Where rank, learning rate, steps, batch and prior loss
    weight are None, ``training.defaults`` lets them follow the training set.

    Paths may be ``Path`` objects; a leading ``~`` is the home folder.

    Args:
        base: What is fine-tuned: ``"mini"``, ``"kolors"``, ``"sdxl"``, ``"sd15"``, or the path of a
            diffusers folder or a ``.safetensors`` checkpoint. None takes Kolors on a CUDA card with
            room for it and mini elsewhere.
        dataset: ``"sample"``, a folder of pictures with captions, or a ModelScope data set id.
        recipe: Name of a Data-Juicer recipe in ``recipes/`` or the path of one.
        output: Folder that everything made is written to.
        seed: Reaches data order, noise, initialisation and rendering.
        resolution: Side of a square of the same area as training and story pictures, in pixels.
        rank: Rank of the LoRA, 1 to 256; None takes what suits base and training set.
        alpha: Its scale is ``alpha / rank``; None is ``alpha = rank``.
        learning_rate: Peak of a cosine schedule with warm-up.
        train_steps: Optimizer steps.
        train_batch_size: Pictures in a step.
        prior_loss_weight: Weight, in the loss, of pictures that the base itself draws of varied
            prompts, so that it keeps what it knows (https://arxiv.org/abs/2208.12242, section
            3.2); they are a third of each batch. 0 uses none.
        caption_dropout: Share of pictures that are learnt without their caption, 0 to 1.
        num_inference_steps: Denoising steps for a picture.
        guidance_scale: Classifier-free guidance; 1 switches it off.
        guidance_end: Share of the steps after which guidance ends, 0 to 1.
        lora_strength: What the LoRA's change to the base is multiplied by in drawing: 0 is the base
            alone, 1 is as it was trained.
        render_batch_size: Panels drawn at once.
        character: How the character of panel 1 stays the same: ``"shared"`` (self-attention that
            also looks at panel 1), ``"ip-adapter"``, or None.
        character_strength: Above 0 to 10 for shared attention, 0 to 2 for the IP-Adapter; None
            takes what is usual.
        character_picture: For the IP-Adapter, the picture of the character; None takes panel 1.
        text_encoder_bits: 8 or 4 load Kolors' text encoder quantised, on a CUDA card with
            bitsandbytes; None keeps it whole.
        precision: Of the base, "bf16", "fp16" or "fp32"; the LoRA is always trained in fp32.
        device: "cuda", "mps" (Apple silicon) or "cpu"; None takes the first that torch has.
        gradient_checkpointing: Compute activations twice, for a third of the memory; None decides
            by the card.
        text_encoder_on_cpu: The text encoders run on the CPU; None: where the card is too small.
        offload: While drawing, UNet and VAE are on the card in turn; None decides by the card.
        vae_tiling: The VAE decodes in overlapping tiles, with less memory; None decides by the
            card.
        caption_template: Caption of pictures that have none, where ``{folder}`` is the name of the
            picture's folder without kohya's number and ``{file}`` its own without suffix; None
            takes the concept of kohya's ``10_concept`` folders.
        captioner: Model that writes captions, in English, for pictures that neither have one nor
            get one from a template or a folder: a folder or an id at the hubs, such as
            ``"Salesforce/blip-image-captioning-large"``; None writes none.
        clip_skip: Layer of CLIP that captions and prompts are read at, counted from the end as
            A1111 and kohya do: 2 is the penultimate (diffusers' own ``clip_skip=1`` for SD 1.5).
            None is the base's usual: 1 for SD 1.5, 2 for SDXL, which never reads the last.
        allow_operators: Operators of the recipe that may run although they can run code that stands
            in it, start programs, reach the network or load pickles: set it for a recipe that you
            trust as you trust a program, such as ``("python_lambda_mapper",)``.
        keep_in: Where ``keep`` and ``restore`` look, and training and drawing copy what they made
            to, training at every checkpoint: a mounted folder, or a private repository such as
            ``"modelscope:me/my-story"`` or ``"huggingface:me/my-story"``.
        time_budget: How long a call of ``train`` may take: ``"3h"``, ``"2h30m"``, ``"90m"`` or
            minutes as a number. It ends in time, with its state saved.
        cluster: ``"local"`` (all GPUs of this machine), or the ``"host:port"`` of a Ray's head:
            cleaning, training and ``render_many`` work there. None stays in this process.

    Raises:
        SettingsError: A value of another type or out of range, in one sentence.
    """

    base: str | None = None
    dataset: str = "sample"
    recipe: str = "sample"
    output: str = "outputs"
    seed: int = 42
    resolution: int | None = None
    rank: int | None = None
    alpha: float | None = None
    learning_rate: float | None = None
    train_steps: int | None = None
    train_batch_size: int | None = None
    prior_loss_weight: float | None = None
    caption_dropout: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_end: float | None = None
    lora_strength: float = 1.0
    render_batch_size: int = 4
    character: str | None = None
    character_strength: float | None = None
    character_picture: str | None = None
    text_encoder_bits: int | None = None
    precision: str | None = None
    device: str | None = None
    gradient_checkpointing: bool | None = None
    text_encoder_on_cpu: bool | None = None
    offload: bool | None = None
    vae_tiling: bool | None = None
    caption_template: str | None = None
    captioner: str | None = None
    clip_skip: int | None = None
    allow_operators: tuple[str, ...] = ()
    keep_in: str | None = None
    time_budget: str | float | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        for name in (*WHOLE_NUMBERS, *NUMBERS, *FURTHER_NUMBERS):
            object.__setattr__(self, name, _python_number(getattr(self, name)))
        for name, whole_range in WHOLE_NUMBERS.items():
            self._check_number(name, *whole_range, whole=True)
        for name, number_range in NUMBERS.items():
            self._check_number(name, *number_range)

        self._check_choice("precision", PRECISIONS)
        self._check_choice("device", DEVICES)
        self._check_choice("character", CHARACTER_CONSISTENCY)
        self._check_choice("text_encoder_bits", (8, 4))
        for name in SWITCHES:
            value = getattr(self, name)
            if not isinstance(value, bool | None):
                raise SettingsError(f"{name}={brief(value)} must be True, False or None.")

        for name in PATHS + OPTIONAL_PATHS:
            self._take_path(name)
        self._check_output()
        self._check_character()
        self._check_caption_template()
        self._check_operators()
        places.check("keep_in", self.keep_in)
        durations.check("time_budget", self.time_budget)
        cluster.check_address(self.cluster)

    def _check_number(self, name: str, low: float, high: float, whole: bool = False) -> None:
        """Raise SettingsError unless it is a number in the range, or None where it may be."""
        value = getattr(self, name)
        if value is None and type(self).__dataclass_fields__[name].default is None:
            return

        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            number = "a whole number" if whole else "a number"
            raise SettingsError(f"{name}={brief(value)} must be {number} from {low:g} to {high:g}.")

    def _check_choice(self, name: str, choices: tuple) -> None:
        value = getattr(self, name)
        if value is None or (type(value) in (str, int) and value in choices):
            return
        quoted = [f'"{each}"' if isinstance(each, str) else str(each) for each in choices]
        raise SettingsError(f"{name}={brief(value)} must be {', '.join(quoted)} or None.")

    def _take_path(self, name: str) -> None:
        """Make text of a path; raise SettingsError if it can be none."""
        value = getattr(self, name)
        if value is not None or name not in OPTIONAL_PATHS:
            object.__setattr__(self, name, paths.taken(name, value))

    def _check_output(self) -> None:
        """Raise SettingsError if the output folder cannot be one."""
        paths.check_output("output", self.folder)
        for folder in (self.folder, *self.folder.parents):
            if folder.is_dir():
                return
            if folder.exists():
                raise SettingsError(
                    f"output={brief(self.output)} cannot be a folder, because {folder} is a file: "
                    "name another."
                )

    def _check_character(self) -> None:
        if self.character is None and self.character_strength is not None:
            raise SettingsError(
                'character_strength belongs to character="shared" or "ip-adapter": '
                "set that too, or leave it out."
            )
        if self.character != "ip-adapter" and self.character_picture is not None:
            raise SettingsError(
                'character_picture belongs to character="ip-adapter": '
                "set that too, or leave it out."
            )
        if self.character_strength is not None:
            low, high = (0.01, 10) if self.character == "shared" else (0, 2)
            self._check_number("character_strength", low, high)

    def _check_caption_template(self) -> None:
        template = self.caption_template
        if template is None:
            return
        rest = template
        if isinstance(template, str):
            rest = template.replace("{folder}", "").replace("{file}", "")
        if not isinstance(template, str) or "{" in rest or "}" in rest:
            raise SettingsError(
                f"caption_template={brief(template)} must be text with no brackets "
                "but {folder} and {file}, or None."
            )
        prompts.check_characters(template, "caption_template")

    def _check_operators(self) -> None:
        """Raise SettingsError unless they are names; a list, as notebooks pass, becomes a tuple."""
        names = self.allow_operators
        if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
            raise SettingsError(
                f'allow_operators={brief(names)} must be names of operators, such as ("name",).'
            )
        object.__setattr__(self, "allow_operators", tuple(names))

    @property
    def folder(self) -> Path:
        """Where the stages write."""
        return Path(self.output)

    def but(self, **changes: Any) -> "Settings":
        """The same settings with some changed, as if all had been written at once.

        Strength and picture belong to the kind of character consistency that they were written
        for: where that changes, they go back to None, unless ``changes`` has them.
        """
        known = [field.name for field in fields(self)]
        for name in changes.keys() - set(known):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}."
            raise SettingsError(f"There is no setting {brief(name)}: {hint}")
        character = changes.get("character", self.character)
        if isinstance(character, str | None) and character != self.character:
            changes = {"character_strength": None, "character_picture": None} | changes
        return replace(self, **changes)

    def _repr_html_(self) -> str:
        from storyboard import show

        return show.table("Settings", ["setting", "value"], asdict(self).items())


def _python_number(value: Any) -> Any:
    """NumPy's numbers and the like as Python's own, which JSON can write; others as they are."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)
