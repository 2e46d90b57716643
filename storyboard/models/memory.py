"""Memory rules: what fits on a card, from its free memory and the needs of the base's family.

Needs are GiB that a free card must have. They were measured on an H200 with Kolors and SDXL
(benchmarks/RESULTS.md, "A CUDA card"); SD 1.5's, ``OVERHEAD`` and ``MemoryNeeds.drawing`` are
estimated. Those for a picture are for one of 1024 x 1024 and grow with its area. What a family
needs stands in ``models/families``.
"""

import importlib.util
from dataclasses import dataclass

from storyboard.errors import ResourceError, SettingsError
from storyboard.models import devices
from storyboard.models.bases import Base
from storyboard.settings import Settings

GIB = 2**30
SMALL = 0.3  # UNet or text encoders of a base that is small, such as mini
OVERHEAD = 1.5  # CUDA context, VAE, what the allocator cannot use
FP32_FACTOR = 2  # of the UNet's weights, which are given in 16 bits
TEXT_ENCODER_FACTORS = {None: 1, 8: 0.55, 4: 0.35}  # by text_encoder_bits
FULL_SIDE = 1024
UNTILED_ON_MPS = 512  # pixels; diffusers reports pressure on memory above


@dataclass(frozen=True)
class Plan:
    """How a run uses its machine.

    Attributes:
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        gradient_checkpointing: Activations are computed again in the backward pass.
        train_micro_batch_size: Pictures in the UNet at once in training; a step gathers the
            gradients of several micro-batches.
        render_micro_batch_size: Pictures in the UNet at once in drawing.
        text_encoder_on_cpu: The text encoders run on the CPU, because they do not fit.
        offload: While drawing, UNet and VAE are on the card in turn.
        vae_tiling: The VAE decodes in tiles.
        cuda_graphs: A training step is captured once and replayed, which keeps its activations'
            memory until the end.
    """

    device: str
    precision: str
    gradient_checkpointing: bool
    train_micro_batch_size: int
    render_micro_batch_size: int
    text_encoder_on_cpu: bool = False
    offload: bool = False
    vae_tiling: bool = False
    cuda_graphs: bool = False

    @property
    def dtype(self):
        """torch's type of ``precision``."""
        import torch

        types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return types[self.precision]

    def __str__(self) -> str:
        train = f"training {self.train_micro_batch_size} at once"
        if self.gradient_checkpointing:
            train += " with gradient checkpointing"
        if self.cuda_graphs:
            train += " as CUDA graphs"

        parts = [self.precision, train, f"drawing {self.render_micro_batch_size} at once"]
        if self.vae_tiling:
            parts.append("VAE in tiles")
        if self.offload:
            parts.append("UNet and VAE in turn")
        if self.text_encoder_on_cpu:
            parts.append("text encoder on the CPU")
        return ", ".join(parts)


def plan(base: Base, settings: Settings, free: float | None = None) -> Plan:
    """What suits the machine; whatever ``settings`` names itself is taken as it is.

    Args:
        free: Free bytes of the card; None asks torch. Without a card the CPU is used, in fp32.

    Raises:
        SettingsError: ``text_encoder_bits`` without bitsandbytes, or for an encoder that is to run
            on the CPU.
    """
    import torch

    if settings.text_encoder_bits and not importlib.util.find_spec("bitsandbytes"):
        raise SettingsError(
            f"text_encoder_bits={settings.text_encoder_bits} needs bitsandbytes: "
            "run %pip install bitsandbytes, or set text_encoder_bits=None."
        )
    if free is not None:
        return _plan_for_card(base, settings, free, has_bf16=True)
    device = devices.choose(settings.device)
    if device == devices.CUDA:
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return _plan_for_card(base, settings, devices.free_memory(device), has_bf16)
    if device == devices.MPS:
        return _plan_for_mps(base, settings)
    return _plan_for_cpu(base, settings)


def _plan_for_cpu(base: Base, settings: Settings) -> Plan:
    _refuse_bits_on_cpu(settings)
    return Plan(
        device="cpu",
        precision=settings.precision or "fp32",
        gradient_checkpointing=bool(settings.gradient_checkpointing),
        train_micro_batch_size=settings.train_batch_size or base.train_batch_size,
        render_micro_batch_size=settings.render_batch_size,
        vae_tiling=bool(settings.vae_tiling),
    )


def _plan_for_mps(base: Base, settings: Settings) -> Plan:
    """The plan for Apple silicon, which has not been tried here.

    In fp32 and one picture after another, as diffusers and its maintainers advise:
    https://huggingface.co/docs/diffusers/optimization/mps,
    https://github.com/huggingface/diffusers/issues/6154.
    """
    if settings.text_encoder_bits or settings.offload:
        name = "text_encoder_bits" if settings.text_encoder_bits else "offload"
        raise SettingsError(
            f"{name}={getattr(settings, name)} needs a CUDA card, and torch computes on Apple "
            f'silicon here: set {name}=None, or device="cpu".'
        )
    checkpointing, tiling = settings.gradient_checkpointing, settings.vae_tiling
    resolution = settings.resolution or base.resolution
    return Plan(
        device=devices.MPS,
        precision=settings.precision or "fp32",
        gradient_checkpointing=is_large(base) if checkpointing is None else checkpointing,
        train_micro_batch_size=1,
        render_micro_batch_size=1,
        text_encoder_on_cpu=bool(settings.text_encoder_on_cpu),
        vae_tiling=resolution > UNTILED_ON_MPS if tiling is None else tiling,
    )


def _plan_for_card(base: Base, settings: Settings, free: float, has_bf16: bool) -> Plan:
    """The plan for a card with ``free`` bytes; ``has_bf16``: it computes in bf16."""
    precision = settings.precision or _precision(base, has_bf16)
    needs, area = base.family.memory, _area(base, settings)
    room = free / GIB - OVERHEAD - unet_need(base, precision)
    batch_size = settings.train_batch_size or base.train_batch_size

    def fitting(need: float, wanted: int) -> int:
        return max(1, min(wanted, int(room / (need * area))))

    checkpointing = settings.gradient_checkpointing
    if checkpointing is None:
        checkpointing = room < needs.training * area * batch_size
    training = needs.training_checkpointed if checkpointing else needs.training
    train_micro_batch_size = fitting(training, batch_size)

    # in fp32 the padding is counted on the CPU, and fp16 was not measured; previews need room
    # beside a graph's activations
    has_room = room > 2 * needs.training * area * train_micro_batch_size
    cuda_graphs = precision == "bf16" and not checkpointing and has_room

    text_encoder_on_cpu = settings.text_encoder_on_cpu
    if text_encoder_on_cpu is None:
        text_encoder_on_cpu = free / GIB < OVERHEAD + text_need(base, settings.text_encoder_bits)
    if text_encoder_on_cpu:
        _refuse_bits_on_cpu(settings)

    offload, vae_tiling = settings.offload, settings.vae_tiling
    return Plan(
        device="cuda",
        precision=precision,
        gradient_checkpointing=checkpointing,
        train_micro_batch_size=train_micro_batch_size,
        render_micro_batch_size=fitting(needs.drawing, settings.render_batch_size),
        text_encoder_on_cpu=text_encoder_on_cpu,
        offload=room < needs.drawing * area if offload is None else offload,
        vae_tiling=room < needs.decoding * area if vae_tiling is None else vae_tiling,
        cuda_graphs=cuda_graphs,
    )


def check(base: Base, settings: Settings, free: float | None = None) -> None:
    """Raise ResourceError unless a training step of one picture fits, in the most sparing way.

    Args:
        free: Free bytes of the card; None asks torch.
    """
    if not is_large(base):
        return
    precision = settings.precision
    if free is None:
        device = devices.choose(settings.device)
        if device == devices.CPU:
            raise ResourceError(
                f"base={base.name!r} needs a CUDA card or Apple silicon, and torch computes on the "
                'CPU here: set base="mini", or open the notebook on a machine with a card.'
            )
        free = devices.free_memory(device)
        if device == devices.MPS:
            precision = precision or "fp32"

    resolution = settings.resolution or base.resolution
    needed = training_need(base, precision, resolution)
    if free / GIB < needed:
        raise ResourceError(
            f"base={base.name!r} at {resolution} needs about {needed:.0f} GiB of the card's "
            f"memory, and {free / GIB:.1f} are free: set resolution={resolution // 2}, "
            'or base="sd15", or close what else uses the card.'
        )


def training_need(base: Base, precision: str | None, resolution: int) -> float:
    """GiB for a training step of one picture with gradient checkpointing."""
    activations = base.family.memory.training_checkpointed * (resolution / FULL_SIDE) ** 2
    return OVERHEAD + unet_need(base, precision) + activations


def drawing_need(base: Base, precision: str | None, resolution: int) -> float:
    """GiB to draw one picture with everything on the card and the VAE in one piece."""
    needs = base.family.memory
    picture = max(needs.drawing, needs.decoding) * (resolution / FULL_SIDE) ** 2
    return OVERHEAD + unet_need(base, precision) + picture


def unet_need(base: Base, precision: str | None) -> float:
    """GiB of the UNet with a LoRA and its optimizer; ``precision`` None is 16 bits."""
    need = base.family.memory.unet if is_large(base) else SMALL
    return need * (FP32_FACTOR if precision == "fp32" else 1)


def text_need(base: Base, bits: int | None) -> float:
    """GiB of the text encoders, quantised to ``bits`` where that is 8 or 4."""
    need = base.family.memory.text if is_large(base) else SMALL
    return need * TEXT_ENCODER_FACTORS[bits]


def is_large(base: Base) -> bool:
    """Whether the base is one for a card, by the size of its weights."""
    if base.checkpoint:
        files = [base.checkpoint]
    elif base.folder:
        files = base.weight_files("unet")
    else:
        return base.download > GIB
    return sum(path.stat().st_size for path in files) > GIB


def _precision(base: Base, has_bf16: bool) -> str:
    """A small base gains nothing from 16 bits, and in fp32 it draws the CPU's pictures."""
    if not is_large(base):
        return "fp32"
    return "bf16" if has_bf16 else "fp16"


def _area(base: Base, settings: Settings) -> float:
    return ((settings.resolution or base.resolution) / FULL_SIDE) ** 2


def _refuse_bits_on_cpu(settings: Settings) -> None:
    if settings.text_encoder_bits:
        raise SettingsError(
            f"text_encoder_bits={settings.text_encoder_bits} needs a CUDA card with room for the "
            "text encoder: set text_encoder_bits=None, it runs on the CPU then."
        )
