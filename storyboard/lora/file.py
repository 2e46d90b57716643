"""The LoRA, all that crosses from training to rendering: a file in kohya's form.

kohya's keys with alpha are the one form that diffusers, ComfyUI and A1111's family all load whole.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from storyboard.errors import LoraError

PREFIX = "lora_unet_"
# kohya's prefixes (sd-scripts, networks/lora.py), and the component of a base that each names
COMPONENTS = {
    PREFIX: "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
PARTS = ("lora_down.weight", "lora_up.weight", "alpha")
PLAIN = "give a plain LoRA (lora_down and lora_up) for Kolors, SDXL or SD 1.5"
FOREIGN = {  # names of tensors and what a file with one of them is; families before kinds
    r"double_blocks|single_blocks|single_transformer_blocks": "a LoRA for Flux",
    r"joint_blocks": "a LoRA for Stable Diffusion 3",
    r"^(transformer|lora_transformer)[._]|^diffusion_model\.(?!(input|middle|output)_)|^lora_unet_(blocks|layers)_\d|"
    r"^(lora_unet_|base_model\.model\.)?transformer_blocks[._]\d": "a LoRA for a diffusion transformer, not for a UNet",
    r"\.dora_scale$|lora_magnitude_vector": "a DoRA",
    r"\.hada_": "a LoHa",
    r"\.lokr_": "a LoKr",
    r"\.lora_mid\.": "a LoCon with a Tucker core",
    r"\.oft_": "an OFT",
    r"\.[ab][12]\.weight$": "a GLoRA",
    r"\.on_input$": "an (IA)3",
    r"\.diff(_b)?$|\.[wb]_norm$": "a file of whole weight differences",
    r"\.lora_[AB]\.bias$|\.lora_(up|down)\.bias$": "a LoRA with biases",
    r"^lllite_": "a ControlNet-LLLite",
    r"^(emb_params|string_to_param|string_to_token|clip_[lg])$": "an embedding (textual inversion)",
}
WORD = re.compile(
    r"<[^<>]+>|bundle_emb\..+"
)  # an embedding that a LoRA brings along: cloneofsimo/lora's, kohya's form


@dataclass(frozen=True)
class Lora:
    """A trained LoRA on disk.

    Attributes:
        path: ``lora.safetensors`` in kohya's form.
        base: Name of the base it belongs to.
        digest: SHA-256 of the file.
        losses: One a step.
        previews: ``{"step", "pictures": [file names]}`` in the order of training.
    """

    path: Path
    base: str
    digest: str
    losses: list[float] = field(repr=False)
    previews: list[dict] = field(repr=False)

    @property
    def checkpoints(self) -> list[Path]:
        """The LoRA along the way, in the order of training, each a file as ``path`` is; the last is ``path`` itself."""
        return [*sorted((self.path.parent / "checkpoints").glob("step-*.safetensors")), self.path]

    def __str__(self) -> str:
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return f"{self.path} ({self.path.stat().st_size / 1e6:.1f} MB, {len(self.losses)} steps, loss {sum(tail) / len(tail):.4f} over the last tenth)"

    def _repr_html_(self) -> str:
        from storyboard import show

        previews = [
            (preview["step"], [self.path.parent / name for name in preview["pictures"]])
            for preview in self.previews
        ]
        return show.training(str(self), self.losses, previews)


def to_kohya(
    state: dict[str, torch.Tensor], alpha: float | dict[str, float]
) -> dict[str, torch.Tensor]:
    """peft's ``a.b.lora_A.default.weight`` -> ``lora_unet_a_b.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``.

    Names as kohya-ss/sd-scripts writes them (networks/lora.py); values in fp32 on the CPU.

    Args:
        alpha: One for all, or one for each module by its name.
    """
    converted = {}
    for key, value in state.items():
        module, side = key.replace(".default.", ".").rsplit(".lora_", 1)
        name = PREFIX + module.replace(".", "_")
        converted[f"{name}.lora_{'down' if side.startswith('A') else 'up'}.weight"] = (
            value.detach().float().cpu().contiguous()
        )
        converted[f"{name}.alpha"] = torch.tensor(
            float(alpha[module] if isinstance(alpha, dict) else alpha)
        )
    return converted


def save(
    path: Path, state: dict[str, torch.Tensor], alpha: float, metadata: dict[str, object]
) -> None:
    """Write peft's ``state`` to ``path`` in kohya's form; metadata values become strings, as safetensors asks.

    Raises:
        LoraError: A weight is not finite, or nothing was trained.
    """
    tensors = to_kohya(state, alpha)
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise LoraError(
            "The LoRA holds values that are not finite: lower learning_rate and run the training cell again."
        )
    if not any(tensor.any() for name, tensor in tensors.items() if "lora_up" in name):
        raise LoraError(
            "The LoRA is all zeros, it has learnt nothing: raise train_steps and run the training cell again."
        )
    path.write_bytes(serialised(tensors, metadata))


def serialised(tensors: dict[str, torch.Tensor], metadata: dict[str, object]) -> bytes:
    """A safetensors file, byte for byte the same for the same content: its metadata, a hash map upstream, is sorted."""
    content = serialise(tensors, {key: str(value) for key, value in metadata.items()})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def component_of(name: str) -> str | None:
    """The component of a base that the kohya-form module ``name`` belongs to; None if its prefix is not known."""
    return next(
        (component for prefix, component in COMPONENTS.items() if name.startswith(prefix)), None
    )


def kohya_name(component: str, module: str, sdxl: bool) -> str:
    """``text_encoder`` and ``encoder.layers.0.mlp.fc1`` -> ``lora_te_text_model_encoder_layers_0_mlp_fc1``.

    SDXL's text encoders are ``lora_te1_…`` and ``lora_te2_…``.
    """
    if component == "unet":
        return PREFIX + module.replace(".", "_")
    prefix = "lora_te2_" if component == "text_encoder_2" else "lora_te1_" if sdxl else "lora_te_"
    module = module_key(component, module)[1]
    return prefix + (module if module == "text_projection" else f"text_model_{module}")


def module_key_of(name: str) -> tuple[str, str]:
    """``lora_te1_text_model_encoder_…`` -> component and ``encoder_…``, as ``module_key`` gives it."""
    prefix = next(prefix for prefix in COMPONENTS if name.startswith(prefix))
    return module_key(COMPONENTS[prefix], name.removeprefix(prefix))


def module_key(component: str, module: str) -> tuple[str, str]:
    """The same of a module's dotted name, with or without ``text_model.``, which transformers 5 leaves out."""
    return component, module.replace(".", "_").removeprefix("text_model_")


def data_digest(path: Path) -> str:
    """SHA-256 of a safetensors file behind its header, by which A1111 and kohya know a LoRA.

    (https://github.com/AUTOMATIC1111/stable-diffusion-webui, modules/hashes.py, addnet_hash_safetensors.)
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def modules(path: Path) -> set[str]:
    """Names of the modules that a kohya-form file changes, in the UNet and the text encoders.

    Raises:
        LoraError: It is no safetensors file, no LoRA in kohya's form, one of another kind, or modules lack a half.
    """
    return {
        key.removesuffix(".lora_down.weight")
        for key in shapes(path)
        if key.endswith(".lora_down.weight")
    }


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a kohya-form file; every one belongs to a module. Errors as ``modules``."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise LoraError(
            f"{path} is not a whole safetensors file ({error}): train it again or give another file."
        ) from error

    refuse_foreign(path, found)
    names = {
        key.rpartition(".lora_")[0]
        for key in found
        if key.endswith((".lora_down.weight", ".lora_up.weight"))
    }
    names = {name for name in names if component_of(name)}
    if not names:
        raise LoraError(
            f"{path} holds no LoRA in kohya's form: bring it in with import_lora, "
            "or give the lora.safetensors that training wrote."
        )
    if strange := found.keys() - {f"{name}.{part}" for name in names for part in PARTS}:
        raise LoraError(
            f"{path} holds {len(strange)} tensors beside its LoRA (such as {min(strange)}), "
            f"which would be left out: {PLAIN}."
        )
    refuse_halves(path, names, found)
    return found


def refuse_foreign(path: Path, keys: Iterable[str]) -> None:
    """Raise LoraError where names of tensors tell that a file is of another kind, or for another family."""
    keys = list(keys)
    words = [key for key in keys if WORD.fullmatch(key)]
    kinds = {
        kind: [key for key in keys if re.search(pattern, key)] for pattern, kind in FOREIGN.items()
    }
    if len(words) == len(keys):
        kinds["an embedding (textual inversion)"] = words

    for kind, found in kinds.items():
        if found:
            raise LoraError(
                f"{path} is {kind} ({len(found)} of its {len(keys)} tensors, such as {min(found)}), "
                f"which is not read: {PLAIN}."
            )
    if words:
        raise LoraError(
            f"{path} also brings {len(words)} embeddings of words of its own (such as {min(words)}): "
            "bring it in with import_lora, which leaves them out."
        )


def refuse_halves(path: Path, names: Iterable[str], keys: Iterable[str]) -> None:
    """Raise LoraError where a module lacks ``lora_down`` or ``lora_up``."""
    keys = set(keys)
    if lacking := sorted(
        f"{name}.{part}" for name in names for part in PARTS[:2] if f"{name}.{part}" not in keys
    ):
        raise LoraError(
            f"{path} lacks {len(lacking)} tensors (such as {lacking[0]}): it is not whole, get it again."
        )


def trains_text(path: Path) -> bool:
    """Whether a kohya-form file changes a text encoder. Errors as ``modules``."""
    return any(component_of(name) != "unet" for name in modules(path))


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, empty where there is none."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
