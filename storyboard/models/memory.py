"""What fits: device, precision and how much at once, from the card's free memory and a small table of needs."""

import gc
import importlib.util
from dataclasses import dataclass

from storyboard.errors import ResourceError, SettingsError
from storyboard.models.bases import Base
from storyboard.settings import Settings

GIB = 2**30
# GiB that a free card must have, per picture of 1024 x 1024 where pictures count. Measured on an H200 with Kolors and SDXL
# (benchmarks/RESULTS.md, "A CUDA card"); SD 1.5's, OVERHEAD and DRAWING are estimated.
SMALL = 0.3  # UNet or text encoders of a base that is small, such as mini
OVERHEAD = 1.5  # CUDA context, VAE, what the allocator cannot use
ACTIVATIONS = {False: 5.6, True: 0.8}  # a training picture without and with gradient checkpointing
DRAWING = 1.6  # a picture being denoised
DECODING = 5.4  # the VAE in fp32 on a whole picture


@dataclass(frozen=True)
class Plan:
    """How a run uses its machine.

    Attributes:
        device, precision: ``"cuda"`` or ``"cpu"``; ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        gradient_checkpointing: Activations are computed again in the backward pass.
        train_at_once, render_at_once: Pictures in the UNet at once; a step gathers the gradients of several.
        text_encoder_on_cpu: The text encoders run on the CPU, because they do not fit.
        offload: While drawing, UNet and VAE are on the card in turn.
        vae_tiling: The VAE decodes in tiles.
        cuda_graphs: A training step is captured once and replayed, which keeps its activations' memory for good.
    """

    device: str
    precision: str
    gradient_checkpointing: bool
    train_at_once: int
    render_at_once: int
    text_encoder_on_cpu: bool = False
    offload: bool = False
    vae_tiling: bool = False
    cuda_graphs: bool = False

    @property
    def dtype(self):
        """torch's type of ``precision``."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
            self.precision
        ]

    def __str__(self) -> str:
        train = f"{self.train_at_once} at once{' with gradient checkpointing' if self.gradient_checkpointing else ''}{' as CUDA graphs' if self.cuda_graphs else ''}"
        render = f"{self.render_at_once} at once{', VAE in tiles' if self.vae_tiling else ''}{', UNet and VAE in turn' if self.offload else ''}"
        return f"{self.precision}, training {train}, drawing {render}{', text encoder on the CPU' if self.text_encoder_on_cpu else ''}"


def check(base: Base, settings: Settings, free: float | None = None) -> None:
    """Raise ResourceError unless a training step of one picture fits, in the most sparing way."""
    import torch

    large, resolution = _large(base), settings.resolution or base.resolution
    if not torch.cuda.is_available() and free is None:
        if large:
            raise ResourceError(
                f'base={base.name!r} needs a CUDA card, and torch finds none here: set base="mini", or open the notebook on a machine with a card.'
            )
        return
    free = _free() if free is None else free
    needed = (
        OVERHEAD
        + _need("unet", base) * (2 if settings.precision == "fp32" else 1)
        + ACTIVATIONS[True] * (resolution / 1024) ** 2
    )
    if large and free / GIB < needed:
        raise ResourceError(
            f'base={base.name!r} at {resolution} needs about {needed:.0f} GiB of the card\'s memory, and {free / GIB:.1f} are free: set resolution={resolution // 2}, or base="sd15", or close what else uses the card.'
        )


def _large(base: Base) -> bool:
    """Whether the base is one for a card, by the size of its weights."""
    weights = (
        [base.checkpoint] if base.checkpoint else base.weight_files("unet") if base.folder else []
    )
    return sum(path.stat().st_size for path in weights) > GIB if weights else base.download > GIB


def _need(part: str, base: Base) -> float:
    """GiB that ``part`` (``"unet"`` or ``"text"``) of ``base`` needs; its family's at full size."""
    return getattr(base.family.memory, part) if _large(base) else SMALL


def plan(base: Base, settings: Settings, free: float | None = None) -> Plan:
    """What suits the machine; whatever ``settings`` names itself is taken as it is.

    Args:
        free: Free bytes of the card; None asks torch. Without a card the CPU is used, in fp32.

    Raises:
        SettingsError: ``text_encoder_bits`` without bitsandbytes, or for an encoder that is to run on the CPU.
    """
    import torch

    batch_size = settings.train_batch_size or base.train_batch_size
    if settings.text_encoder_bits and not importlib.util.find_spec("bitsandbytes"):
        raise SettingsError(
            f"text_encoder_bits={settings.text_encoder_bits} needs bitsandbytes: run %pip install bitsandbytes, or set text_encoder_bits=None."
        )
    if not torch.cuda.is_available() and free is None:
        _refuse_bits_on_cpu(settings)
        return Plan(
            "cpu",
            settings.precision or "fp32",
            bool(settings.gradient_checkpointing),
            batch_size,
            settings.render_batch_size,
            vae_tiling=bool(settings.vae_tiling),
        )
    if free is None:
        free = _free()
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = True
    # a small base gains nothing from 16 bits, and in fp32 it draws the CPU's pictures
    precision = settings.precision or (
        "fp32" if not _large(base) else "bf16" if has_bf16 else "fp16"
    )
    room = free / GIB - OVERHEAD - _need("unet", base) * (2 if precision == "fp32" else 1)
    area = ((settings.resolution or base.resolution) / 1024) ** 2
    chosen = lambda wanted, needed: needed if wanted is None else wanted
    fits = lambda need, wanted: max(1, min(wanted, int(room / (need * area))))
    checkpointing = chosen(
        settings.gradient_checkpointing,
        room < ACTIVATIONS[False] * area * batch_size,
    )
    train_at_once = fits(ACTIVATIONS[checkpointing], batch_size)
    # in fp32 the padding is counted on the CPU, and fp16 was not measured; previews need room beside a graph's activations
    cuda_graphs = (
        precision == "bf16"
        and not checkpointing
        and room > 2 * ACTIVATIONS[False] * area * train_at_once
    )
    text = OVERHEAD + _need("text", base) * {None: 1, 8: 0.55, 4: 0.35}[settings.text_encoder_bits]
    text_encoder_on_cpu = chosen(settings.text_encoder_on_cpu, free / GIB < text)
    if text_encoder_on_cpu:
        _refuse_bits_on_cpu(settings)
    return Plan(
        "cuda",
        precision,
        checkpointing,
        train_at_once,
        fits(DRAWING, settings.render_batch_size),
        text_encoder_on_cpu=text_encoder_on_cpu,
        offload=chosen(settings.offload, room < DRAWING * area),
        vae_tiling=chosen(settings.vae_tiling, room < DECODING * area),
        cuda_graphs=cuda_graphs,
    )


def _free() -> int:
    """Free bytes of the card, with what torch only keeps in reserve."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def _refuse_bits_on_cpu(settings: Settings) -> None:
    if settings.text_encoder_bits:
        raise SettingsError(
            f"text_encoder_bits={settings.text_encoder_bits} needs a CUDA card with room for the text encoder: set text_encoder_bits=None, it runs on the CPU then."
        )
