"""What can be fine-tuned: a base is a family and where its weights are."""

import shutil
from pathlib import Path

from storyboard import resources
from storyboard.errors import SettingsError, brief
from storyboard.models import families, recognition
from storyboard.models.base import Base
from storyboard.models.families import kolors, sd15, sdxl
from storyboard.models.hubs import HubModel

ROOM_FOR_KOLORS = 10 * 2**30  # bytes of the card
IP_ADAPTER = HubModel("AI-ModelScope/IP-Adapter", "h94/IP-Adapter")

KOLORS = Base(
    name="kolors",
    title="Kolors (快手可图)",
    family=kolors.FAMILY,
    unet={"block_out_channels": [320, 640, 1280], "encoder_hid_dim": 4096},
    architecture="kolors",
    kohya_name="kolors",
    modelscope="Kwai-Kolors/Kolors-diffusers",
    huggingface="Kwai-Kolors/Kolors-diffusers",
    download=17_820_000_000,
    resolution=1024,
    num_train_timesteps=1100,
    beta_end=0.014,
    guidance_scale=5.0,
    controlnets={
        "edges": HubModel(huggingface="Kwai-Kolors/Kolors-ControlNet-Canny"),
        "depth": HubModel(huggingface="Kwai-Kolors/Kolors-ControlNet-Depth"),
        "pose": HubModel(huggingface="Kwai-Kolors/Kolors-ControlNet-Pose"),
    },
    ip_adapter=(  # its safetensors are at a revision of Hugging Face alone
        HubModel(huggingface="Kwai-Kolors/Kolors-IP-Adapter-Plus", revision="refs/pr/4"),
        "ip_adapter_plus_general.safetensors",
        "image_encoder",
    ),
    licence={
        "license": "other",
        "license_name": "kolors",
        "license_link": "https://huggingface.co/Kwai-Kolors/Kolors/blob/main/MODEL_LICENSE",
    },
    comfy_files={"unet_name": "diffusion_pytorch_model.fp16.safetensors"},
)

MINI = Base(
    name="mini",
    title="mini (a small Kolors, in this repository)",
    family=kolors.FAMILY,
    unet={"block_out_channels": [64, 96, 160], "encoder_hid_dim": 192},
    architecture="kolors-mini",
    kohya_name="mini",
    folder=resources.path("models/mini"),
    resolution=256,
    resolution_step=32,
    num_train_timesteps=1100,
    beta_end=0.014,
    # the half of the UNet that draws: the other half needs no backward pass then
    lora_targets=(
        r"(mid_block|up_blocks)\..*\."
        r"(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|net\.0\.proj|net\.2|"
        r"conv1|conv2|time_emb_proj)",
    ),
    learning_rate=4.5e-3,
    train_steps=600,
    train_batch_size=6,
    small_set={"learning_rate": 3e-3, "train_steps": 2000, "prior_loss_weight": 1.0},
    vae_psnr=35.8,
    num_inference_steps=16,
    guidance_scale=2.0,
    guidance_end=0.6,  # to the end, lines and fills have more contrast than those it learnt from
    high_noise_weight=0.3,
    controlnets={"edges": str(resources.path("models/mini-controlnet"))},
    licence={"license": "cc-by-4.0"},
    comfy_note=(
        "These pictures were drawn by mini, a small Kolors that no ComfyUI node loads: the graph "
        "opens, but runs only with Kolors and a LoRA trained on Kolors, and draws other pictures. "
        "mini 无法在 ComfyUI 中运行，请换用 Kolors。"
    ),
    embedded=True,
    judge="mini",
)

SDXL = Base(
    name="sdxl",
    title="Stable Diffusion XL base 1.0",
    family=sdxl.FAMILY,
    unet={"block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048},
    architecture="stable-diffusion-xl-v1-base",
    kohya_name="sdxl_base_v1-0",
    modelscope="stabilityai/stable-diffusion-xl-base-1.0",
    huggingface="stabilityai/stable-diffusion-xl-base-1.0",
    download=6_940_000_000,
    resolution=1024,
    guidance_scale=6.0,
    controlnets={
        "edges": HubModel(
            "AI-ModelScope/controlnet-canny-sdxl-1.0", "diffusers/controlnet-canny-sdxl-1.0"
        ),
        "depth": HubModel(huggingface="diffusers/controlnet-depth-sdxl-1.0"),
        "pose": HubModel(huggingface="xinsir/controlnet-openpose-sdxl-1.0"),
    },
    ip_adapter=(
        IP_ADAPTER,
        "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
        "models/image_encoder",
    ),
    licence={"license": "openrail++"},
    comfy_files={"ckpt_name": "sd_xl_base_1.0.safetensors"},
)

SD15 = Base(
    name="sd15",
    title="Stable Diffusion 1.5",
    family=sd15.FAMILY,
    unet={"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768},
    architecture="stable-diffusion-v1",
    kohya_name="sd_v1",
    modelscope="AI-ModelScope/stable-diffusion-v1-5",
    huggingface="stable-diffusion-v1-5/stable-diffusion-v1-5",
    download=2_130_000_000,
    resolution=512,
    guidance_scale=7.0,
    controlnets={
        "edges": HubModel(huggingface="lllyasviel/control_v11p_sd15_canny"),
        "depth": HubModel(huggingface="lllyasviel/control_v11f1p_sd15_depth"),
        "pose": HubModel(huggingface="lllyasviel/control_v11p_sd15_openpose"),
        "segmentation": HubModel(huggingface="lllyasviel/control_v11p_sd15_seg"),
    },
    ip_adapter=(
        IP_ADAPTER,
        "models/ip-adapter-plus_sd15.safetensors",
        "models/image_encoder",
    ),
    licence={"license": "creativeml-openrail-m"},
    comfy_files={"ckpt_name": "v1-5-pruned-emaonly.safetensors"},
)

_BASES = {base.name: base for base in (KOLORS, MINI, SD15, SDXL)}


def register(base: Base) -> Base:
    """Make ``base`` known by its name; one of the same name is replaced."""
    _BASES[base.name] = base
    return base


def forget(name: str) -> None:
    """Undo ``register``."""
    del _BASES[name]


def names() -> tuple[str, ...]:
    """Names of all bases, sorted."""
    return tuple(sorted(_BASES))


def default() -> str:
    """``"kolors"`` where a CUDA card has room for it, ``"mini"`` elsewhere."""
    if not shutil.which("nvidia-smi") and not Path("/proc/driver/nvidia").exists():
        return "mini"  # without importing torch, which takes seconds
    import torch

    roomy = torch.cuda.is_available() and torch.cuda.mem_get_info()[1] >= ROOM_FOR_KOLORS
    return "kolors" if roomy else "mini"


def existing(name: str | Path) -> Path | None:
    """The file or folder at the path ``name``, which may begin with ``~``; None without one."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long for a path, or of no user
        return None


def get(name: str) -> Base:
    """The base called ``name``, or the one at the path ``name``.

    Raises:
        SettingsError: There is none; says which there are.
        BaseError: What lies at the path cannot be fine-tuned here.
    """
    if name in _BASES:
        return _BASES[name]
    if path := existing(name):
        return recognition.opened(path, tuple(_BASES.values()))
    for family in families.known():
        for lookalike in family.lookalikes:
            if lookalike.hub_id == name:
                recognition.refuse(name, lookalike)
    raise SettingsError(
        f"There is no base called {brief(name)}: "
        f"set base to one of {', '.join(map(repr, names()))}, "
        "or to the path of a diffusers folder or a .safetensors file."
    )
