"""LoRAs that others made -> kohya's form, whole or not at all."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from . import artifacts, bases, lora, models, weights
from .errors import LoraError
from .settings import Settings

# DiffSynth-Studio 1.1.9 numbered the blocks of its own SDXL UNet (diffsynth/models/sdxl_unet.py); those with attention:
LEGACY_BLOCKS = {
    7: "down_blocks.1.attentions.0", 10: "down_blocks.1.attentions.1", 15: "down_blocks.2.attentions.0", 18: "down_blocks.2.attentions.1",
    21: "mid_block.attentions.0", 25: "up_blocks.0.attentions.0", 28: "up_blocks.0.attentions.1", 31: "up_blocks.0.attentions.2",
    35: "up_blocks.1.attentions.0", 38: "up_blocks.1.attentions.1", 41: "up_blocks.1.attentions.2",
}
ORIGINAL = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_(\d+)_(?:(\d+)_)?(.+)")
RESNET = {"in_layers_0": "norm1", "in_layers_2": "conv1", "emb_layers_1": "time_emb_proj", "out_layers_0": "norm2", "out_layers_3": "conv2", "skip_connection": "conv_shortcut"}
CONFIGURATION = "lora_adapter_metadata"  # diffusers/loaders/lora_base.py
LAYERS = 3  # original blocks to one of diffusers' in Kolors, SDXL and SD 1.5
LEGACY_ALPHA = 4.0  # the 2024 course's script trained with it and wrote it nowhere


def import_lora(path: Path | str, settings: Settings, alpha: float | None = None) -> Path:
    """Bring a LoRA of ``settings.base`` into kohya's form, at ``<output>/imported/<name>.safetensors``.

    Reads the 2024 course's ``.ckpt``, kohya's form, diffusers' (``unet.….lora_A.weight``) and DiffSynth-Studio's raw form.

    Args:
        alpha: Its scale is ``alpha / rank``. None takes what the file says; where it says nothing, 4 for the course's
            ``.ckpt`` and the rank for the others.

    Raises:
        LoraError: No such file, a form that is not known, or modules without a place in the base; says how many.
    """
    path = Path(path)
    tensors = _read(path)
    base = weights.fetch(bases.get(settings.base))
    skeleton = models.skeleton(base, "unet")
    converted = _convert(path, tensors, alpha, skeleton.config.layers_per_block + 1)
    places = {lora.PREFIX + name.replace(".", "_") for name, _ in skeleton.named_modules()}
    found = {key.split(".")[0] for key in converted}
    if strangers := found - places:
        raise LoraError(f"{len(strangers)} of the {len(found)} modules in {path} have no place in the base {base.name!r} (such as {min(strangers)}): set base to the one it was trained on.")
    target = settings.folder / "imported" / f"{path.stem}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"ss_network_module": "networks.lora", "ss_base_model_version": base.kohya_name, "modelspec.architecture": f"{base.architecture}/lora"}
    artifacts.write_atomically(target, lora.serialised(converted, metadata))
    print(f"lora: {len(found)} modules of {path} in {target}")
    return target


def read(path: Path, alpha: float | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA in any form that ``import_lora`` knows, in kohya's form, not compared with any base.

    Raises:
        LoraError: No such file, or a form that is not known.
    """
    return _convert(path, _read(path), alpha, LAYERS)


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise LoraError(f"There is no LoRA at {path}: give the path of a .safetensors or .ckpt file.")
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise LoraError(f"{path} is not a whole LoRA file ({type(error).__name__}): get it again.") from error
    except Exception as error:  # pickle's own error; what is no tensor is never unpickled
        if type(error).__name__ != "UnpicklingError":
            raise
        raise LoraError(f"{path} holds more than tensors, which is not read for safety: convert it to safetensors where it was made.") from error
    tensors = tensors.get("state_dict", tensors)
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise LoraError(f"{path} holds no LoRA: give the file that training wrote.")
    return tensors


def _diffusers_names(tensors: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
    """kohya's own names for SDXL's blocks (``input_blocks_4_1``) -> diffusers' (``down_blocks_1_attentions_0``).

    Args:
        step: Original blocks to one of diffusers': residual blocks and, on the way down, a downsampler.
    """
    def rename(key: str) -> str:
        found = ORIGINAL.match(key)
        if not found:
            return key
        side, number, part, rest = found[1], int(found[2]), found[3], found[4]
        if side == "middle_block":
            place = "mid_block_attentions_0" if number == 1 else f"mid_block_resnets_{number // 2}"
            rest = f"{part}_{rest}" if part else rest
        else:
            block, layer = divmod(number - 1 if side == "input_blocks" else number, step)
            way = "down" if side == "input_blocks" else "up"
            if rest.startswith(("op.", "conv.")):
                place, rest = f"{way}_blocks_{block}_{way}samplers_0", "conv." + rest.partition(".")[2]
            else:
                place = f"{way}_blocks_{block}_{'attentions' if part == '1' else 'resnets'}_{layer}"
        for old, new in RESNET.items():
            if "resnets" in place and rest.startswith(old):
                rest = new + rest.removeprefix(old)
        return f"{lora.PREFIX}{place}_{rest}"

    return {rename(key): tensor for key, tensor in tensors.items()}


def _convert(path: Path, tensors: dict[str, torch.Tensor], alpha: float | None, step: int) -> dict[str, torch.Tensor]:
    """Any known form -> kohya's, in fp32."""
    if any(".lora_down.weight" in key for key in tensors):
        tensors = _diffusers_names(tensors, step)
        strange = [key for key in tensors if not key.startswith(lora.PREFIX)]
        _whole(path, tensors, strange)
        found = {key: tensor.float().contiguous() for key, tensor in tensors.items() if not (alpha and key.endswith(".alpha"))}
        ranks = {key.split(".")[0]: len(tensor) for key, tensor in tensors.items() if key.endswith(".lora_down.weight")}
        return {f"{name}.alpha": torch.tensor(float(alpha or rank)) for name, rank in ranks.items()} | found
    peft = {key: _peft_name(key) for key in tensors}
    _whole(path, tensors, [key for key, name in peft.items() if name is None])
    state = {name: tensors[key] for key, name in peft.items() if not name.endswith(".alpha")}
    ranks = {name.removesuffix(".lora_A.weight"): tensor.shape[0] for name, tensor in state.items() if name.endswith(".lora_A.weight")}
    said = {name.removesuffix(".alpha"): float(tensors[key]) for key, name in peft.items() if name.endswith(".alpha")} | _alphas(path, ranks)
    if alpha is None and said.keys() >= ranks.keys():
        return lora.to_kohya(state, said)
    if alpha is None:
        if len(set(ranks.values())) > 1:
            raise LoraError(f"{path} has modules of the ranks {sorted(set(ranks.values()))} and names no alpha: give alpha=.")
        alpha = LEGACY_ALPHA if next(iter(tensors)).startswith("blocks.") else float(max(ranks.values(), default=1))
    return lora.to_kohya(state, alpha)


def _alphas(path: Path, modules: Iterable[str]) -> dict[str, float]:
    """Each module's alpha where the file's metadata have it: diffusers writes peft's configuration there."""
    if path.suffix != ".safetensors" or CONFIGURATION not in (facts := lora.metadata(path)):
        return {}
    try:
        found = {key.removeprefix("unet."): value for key, value in json.loads(facts[CONFIGURATION]).items()}
        patterns = {key.removeprefix("^"): float(value) for key, value in found.get("alpha_pattern", {}).items()}
        return {module: patterns.get(module, float(found["lora_alpha"])) for module in modules}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoraError(f"{path} has damaged metadata ({CONFIGURATION}: {error}): get it again.") from error


def _whole(path: Path, tensors: dict, strange: list[str]) -> None:
    if strange:
        raise LoraError(f"{len(strange)} of the {len(tensors)} tensors in {path} are not those of a UNet LoRA (such as {min(strange)}): only LoRAs of the UNet alone are read.")


def _peft_name(key: str) -> str | None:
    """A key of diffusers', DiffSynth's or the course's form -> ``module.lora_A.weight`` or ``module.alpha``; None if it is none of them."""
    name = key.replace(".default.", ".").removeprefix("base_model.model.").removeprefix("unet.")
    if name.endswith(".alpha"):
        return name
    module, mark, side = name.rpartition(".lora_")
    if not mark or side not in ("A.weight", "B.weight"):
        return None
    parts = module.split(".")
    if parts[0] == "blocks":
        if len(parts) < 3 or not parts[1].isdigit() or int(parts[1]) not in LEGACY_BLOCKS:
            return None
        module = ".".join([LEGACY_BLOCKS[int(parts[1])], *parts[2:]])
        for old, new in ((".to_out", ".to_out.0"), (".act_fn.proj", ".ff.net.0.proj"), (".ff", ".ff.net.2")):
            if module.endswith(old):
                module = module.removesuffix(old) + new
                break
    return f"{module}.lora_{side}"
