"""What fits: device, precision and how much at once, from the card's free memory and a small table of needs."""

from dataclasses import dataclass

from .bases import Base
from .errors import ResourceError
from .settings import Settings

GIB = 2**30
# GiB that a free card must have, per picture of 1024 x 1024 where pictures count. Estimated from parameter counts and
# published runs (kohya's SDXL LoRA with checkpointing 10 GB, SimpleTuner's Kolors 7.2); no card was at hand.
UNET = {"KolorsPipeline": 5.2, "StableDiffusionXLPipeline": 5.2, "StableDiffusionPipeline": 1.8}
TEXT = {"KolorsPipeline": 12.8, "StableDiffusionXLPipeline": 1.8, "StableDiffusionPipeline": 0.4}
OVERHEAD = 1.5  # CUDA context, VAE, LoRA with AdamW's moments
ACTIVATIONS = {False: 9.0, True: 1.8}  # a training picture without and with gradient checkpointing
DRAWING = 1.6  # a picture being denoised
DECODING = 8.0  # the VAE in fp32 on a whole picture; in tiles 1.5


@dataclass(frozen=True)
class Plan:
    """How a run uses its machine.

    Attributes:
        device, precision: ``"cuda"`` or ``"cpu"``; ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        gradient_checkpointing: Activations are computed again in the backward pass.
        train_at_once, render_at_once: Pictures in the UNet at once; a step gathers the gradients of several.
        text_on_cpu: The text encoders do not fit and run on the CPU.
        offload: While drawing, UNet and VAE are on the card in turn.
        tiling: The VAE decodes in tiles.
    """

    device: str
    precision: str
    gradient_checkpointing: bool
    train_at_once: int
    render_at_once: int
    text_on_cpu: bool = False
    offload: bool = False
    tiling: bool = False

    @property
    def dtype(self):
        """torch's type of ``precision``."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    def __str__(self) -> str:
        train = f"{self.train_at_once} at once{' with gradient checkpointing' if self.gradient_checkpointing else ''}"
        render = f"{self.render_at_once} at once{', VAE in tiles' if self.tiling else ''}{', UNet and VAE in turn' if self.offload else ''}"
        return f"{self.precision}, training {train}, drawing {render}{', text encoder on the CPU' if self.text_on_cpu else ''}"


def check(base: Base, settings: Settings, free: float | None = None) -> None:
    """Raise ResourceError unless a training step of one picture fits, in the most sparing way."""
    import torch

    weights = [base.checkpoint] if base.checkpoint else base.weight_files("unet") if base.folder else []
    large = sum(path.stat().st_size for path in weights) > GIB if weights else base.download > GIB
    if not torch.cuda.is_available() and free is None:
        if large:
            raise ResourceError(f"base={base.name!r} needs a CUDA card, and torch finds none here: set base=\"mini\", or open the notebook on a machine with a card.")
        return
    free = torch.cuda.mem_get_info()[0] if free is None else free
    needed = OVERHEAD + UNET[base.pipeline] * (2 if settings.precision == "fp32" else 1) + ACTIVATIONS[True] * (settings.resolution / 1024) ** 2
    if large and free / GIB < needed:
        raise ResourceError(f"base={base.name!r} at {settings.resolution} needs about {needed:.0f} GiB of the card's memory, and {free / GIB:.1f} are free: set resolution={settings.resolution // 2}, or base=\"sd15\", or close what else uses the card.")


def plan(base: Base, settings: Settings, free: float | None = None) -> Plan:
    """What suits the machine; whatever ``settings`` names itself is taken as it is.

    Args:
        free: Free bytes of the card; None asks torch. Without a card the CPU is used, in fp32.
    """
    import torch

    if not torch.cuda.is_available() and free is None:
        return Plan("cpu", settings.precision or "fp32", bool(settings.gradient_checkpointing), settings.train_batch_size, settings.render_batch_size)
    if free is None:
        free = torch.cuda.mem_get_info()[0]
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = True
    precision = settings.precision or ("bf16" if has_bf16 else "fp16")
    room = free / GIB - OVERHEAD - UNET[base.pipeline] * (2 if precision == "fp32" else 1)
    area = (settings.resolution / 1024) ** 2
    checkpointing = settings.gradient_checkpointing
    if checkpointing is None:
        checkpointing = room < ACTIVATIONS[False] * area * settings.train_batch_size
    fits = lambda need, wanted: max(1, min(wanted, int(room / (need * area))))
    tiling = room < DECODING * area
    return Plan(
        "cuda", precision, checkpointing, fits(ACTIVATIONS[checkpointing], settings.train_batch_size), fits(DRAWING, settings.render_batch_size),
        text_on_cpu=free / GIB < TEXT[base.pipeline] * {None: 1, 8: 0.55, 4: 0.35}[settings.text_encoder_bits] + OVERHEAD,
        offload=room < DRAWING * area, tiling=tiling,
    )
