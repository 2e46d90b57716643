"""LoRAs that others made -> kohya's form, whole or not at all."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from storyboard import artifacts
from storyboard.errors import LoraError
from storyboard.lora import attaching
from storyboard.lora import file as lora
from storyboard.models import weights
from storyboard.models.run import check
from storyboard.settings import Settings

# DiffSynth-Studio 1.1.9 numbered the blocks of its own SDXL UNet (diffsynth/models/sdxl_unet.py); those with attention:
LEGACY_BLOCKS = {
    7: "down_blocks.1.attentions.0",
    10: "down_blocks.1.attentions.1",
    15: "down_blocks.2.attentions.0",
    18: "down_blocks.2.attentions.1",
    21: "mid_block.attentions.0",
    25: "up_blocks.0.attentions.0",
    28: "up_blocks.0.attentions.1",
    31: "up_blocks.0.attentions.2",
    35: "up_blocks.1.attentions.0",
    38: "up_blocks.1.attentions.1",
    41: "up_blocks.1.attentions.2",
}
LEGACY_NAMES = ((".to_out", ".to_out.0"), (".act_fn.proj", ".ff.net.0.proj"), (".ff", ".ff.net.2"))
ORIGINAL = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)_(?:(\d+)_)?(.+)")
OUTSIDE = {  # of SDXL's own UNet, what lies outside its blocks
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
RESNET = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
CONFIGURATION = "lora_adapter_metadata"  # diffusers/loaders/lora_base.py
LAYERS = 3  # original blocks to one of diffusers' in Kolors, SDXL and SD 1.5
LEGACY_ALPHA = 4.0  # the 2024 course's script trained with it and wrote it nowhere

# peft's a.b.lora_A.weight, diffusers' of 2023 (a.b.lora.down.weight, a.b.lora_linear_layer.down.weight) and of 2022
# (attn1.processor.to_q_lora.down.weight)
DOTTED = re.compile(
    r"(?P<module>.+?)[._]lora(?:_linear_layer)?[._](?P<side>A|B|down|up)(?:\.\w+)?\.weight"
)
SIDES = {
    "A": "lora_down.weight",
    "B": "lora_up.weight",
    "down": "lora_down.weight",
    "up": "lora_up.weight",
}
OLD_ATTENTION = {
    "to_q": "q_proj",
    "to_k": "k_proj",
    "to_v": "v_proj",
    "to_out": "out_proj",
}  # of text encoders

# cloneofsimo/lora numbered modules in the order of named_modules() in diffusers 0.11 and transformers 4.25
# (lora_diffusion/lora.py, _find_modules)
FIRST = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
FIRST_TARGETS = {
    "unet": ({"CrossAttention", "Attention"}, {"GEGLU"}),
    "text_encoder": ({"CLIPAttention"},),
}
FIRST_BLOCKS = [
    *(f"down_blocks.{block}.attentions.{layer}" for block in (0, 1, 2) for layer in (0, 1)),
    *(f"up_blocks.{block}.attentions.{layer}" for block in (1, 2, 3) for layer in (0, 1, 2)),
    "mid_block.attentions.0",
]
FIRST_LAYERS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ff.net.0.proj",
    "attn2.to_q",
    "attn2.to_k",
    "attn2.to_v",
    "attn2.to_out.0",
)
FIRST_UNET = [
    f"{block}.transformer_blocks.0.{layer}" for block in FIRST_BLOCKS for layer in FIRST_LAYERS
]
FIRST_TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")
STEM = (
    200  # bytes of a file's name, which with suffix and digest stays below the 255 of file systems
)


def import_lora(path: Path | str, settings: Settings, alpha: float | None = None) -> Path:
    """Bring a LoRA of ``settings.base`` into kohya's form, at ``<output>/imported/<name>.safetensors``.

    Reads the 2024 course's ``.ckpt``, kohya's form, diffusers' of all years, DiffSynth-Studio's raw form and that of
    cloneofsimo/lora, each with its text encoders' part. Embeddings of words of its own are left out, which is printed.

    Args:
        alpha: Its scale is ``alpha / rank``. None takes what the file says; where it says nothing, 4 for the course's
            ``.ckpt`` and the rank for the others.

    Raises:
        LoraError: No such file, a form or kind that is not known, another base's, or modules without a place in the
            base; says how many.
    """
    path = Path(path).expanduser()
    tensors, facts = _read(path)
    base = weights.fetch(check(settings))
    attaching.check_trained_on(base, path, facts)
    words = sorted(key for key in tensors if lora.WORD.fullmatch(key))
    if 0 < len(words) < len(tensors):
        print(
            f"lora: {path} also brings {len(words)} embeddings of words of its own ({', '.join(words)[:60]}), "
            "which are left out: in a prompt those words mean nothing"
        )
        tensors = {key: tensor for key, tensor in tensors.items() if key not in words}

    layers = base.config("unet").get("layers_per_block", LAYERS - 1)
    converted = _convert(
        path, tensors, facts, alpha, layers + 1, base.pipeline == "StableDiffusionXLPipeline"
    )
    converted = {key: tensor.float() for key, tensor in converted.items()}
    if broken := sorted(
        key for key, tensor in converted.items() if not torch.isfinite(tensor).all()
    ):
        raise LoraError(
            f"{path} holds values that are not finite (such as {broken[0]}): get it again, "
            "or give an earlier checkpoint of it."
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in converted.items()}
    attaching.check_fit(base, path, shapes, attaching.skeletons(base, converted))

    metadata = {
        "ss_network_module": "networks.lora",
        "ss_base_model_version": base.kohya_name,
        "modelspec.architecture": f"{base.architecture}/lora",
    }
    target = _write(settings.folder / "imported", path.stem, lora.serialised(converted, metadata))
    print(f"lora: {len(converted) // len(lora.PARTS)} modules of {path} in {target}")
    return target


def _write(folder: Path, stem: str, content: bytes) -> Path:
    """Write ``<folder>/<stem>.safetensors``; where another LoRA has that name, its own digest is added."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = stem.encode()[:STEM].decode(errors="ignore")
    target = folder / f"{stem}.safetensors"
    if target.is_file() and target.read_bytes() != content:
        target = folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    artifacts.write_atomically(target, content)
    return target


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a LoRA in any form that ``import_lora`` knows, in kohya's form, and its metadata.

    They keep their own precision, and are not compared with any base.

    Raises:
        LoraError: No such file, or a form or kind that is not known.
    """
    tensors, facts = _read(path)
    return _convert(path, tensors, facts), facts


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file, by its content, whatever it is called."""
    if not path.is_file():
        raise LoraError(
            f"There is no LoRA at {path}: give the path of a .safetensors or .ckpt file."
        )
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise LoraError(
            f"{path} is a Git LFS pointer, not the file itself: get it with git lfs pull, "
            "or download it from the page of the repository."
        )
    if start.lstrip().startswith(b"<"):
        raise LoraError(
            f"{path} is a web page, not a LoRA: download it again, signed in where the site asks for it."
        )
    safe = path.suffix.lower() == ".safetensors" or start[8:9] == b"{"
    try:
        tensors = (
            load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise LoraError(
            f"{path} is not a whole LoRA file ({type(error).__name__}): get it again."
        ) from error
    except Exception as error:  # pickle's own error; what is no tensor is never unpickled
        if type(error).__name__ != "UnpicklingError":
            raise
        raise LoraError(
            f"{path} holds more than tensors, which is not read for safety: "
            "convert it to safetensors where it was made."
        ) from error
    if isinstance(tensors, dict):
        keys = [str(key) for key in tensors]
        lora.refuse_foreign(path, [key for key in keys if not lora.WORD.fullmatch(key)])
        tensors = tensors.get("state_dict", tensors)
    whole = isinstance(tensors, dict) and all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    )
    if not whole or not tensors:
        raise LoraError(f"{path} holds no LoRA: give the file that training wrote.")
    return tensors, lora.metadata(path) if safe else {}


def _convert(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, str],
    alpha: float | None = None,
    step: int = LAYERS,
    sdxl: bool | None = None,
) -> dict[str, torch.Tensor]:
    """Any known form -> kohya's, every module with its alpha.

    Args:
        step: Original blocks to one of diffusers': residual blocks and, on the way down, a downsampler.
        sdxl: Whether the first text encoder is SDXL's; None where no base is at hand, and names and metadata tell.
    """
    lora.refuse_foreign(path, tensors)
    legacy = next(iter(tensors)).startswith("blocks.")
    tensors = _first_trainer(path, tensors, facts)
    places = {key: _place(key, step) for key in tensors}
    if strange := sorted(key for key, place in places.items() if place is None):
        raise LoraError(
            f"{len(strange)} of the {len(tensors)} tensors in {path} are not those of a LoRA for a UNet and its text "
            f"encoders (such as {strange[0]}): {lora.PLAIN}."
        )
    if sdxl is None:
        sdxl = _is_sdxl(tensors, facts)

    state: dict[str, dict[str, torch.Tensor]] = {}
    dotted: dict[str, str] = {}
    for key, (component, module, part) in places.items():
        name = lora.kohya_name(component, module, sdxl)
        if part in state.setdefault(name, {}):
            raise LoraError(
                f"{path} has {name}.{part} twice, under two names (such as {key}): get it again."
            )
        state[name][part] = tensors[key].contiguous()
        dotted[name] = f"{component}.{module}"
    lora.refuse_halves(
        path, state, {f"{name}.{part}" for name, parts in state.items() for part in parts}
    )

    said = _alphas(path, facts, dotted)
    for name, parts in state.items():
        down = parts["lora_down.weight"]
        if alpha is not None or "alpha" not in parts:
            value = (
                alpha
                if alpha is not None
                else said.get(name, LEGACY_ALPHA if legacy else float(len(down)))
            )
            parts["alpha"] = _number(value, down.dtype)
    return {
        f"{name}.{part}": tensor for name, parts in state.items() for part, tensor in parts.items()
    }


def _number(value: float, dtype: torch.dtype) -> torch.Tensor:
    """``value`` in the precision of its module, as kohya's trainer writes it, or in fp32 where that would change it."""
    number = torch.tensor(float(value), dtype=torch.float32)
    return number.to(dtype) if number.to(dtype).float() == number else number


def _is_sdxl(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str]) -> bool:
    """Whether a LoRA is one of SDXL's: by its second encoder, transformers deeper than one block, or metadata."""
    told = facts.get("ss_base_model_version", "") + facts.get("modelspec.architecture", "")
    return "xl" in told or any(
        re.search(r"lora_te[12]_|text_encoder_2\.|transformer_blocks[._][1-9]", key)
        for key in tensors
    )


def _place(key: str, step: int) -> tuple[str, str, str] | None:
    """Component, module (dotted, or with kohya's underscores) and part of a tensor in any known form; else None."""
    if component := lora.component_of(key):
        module, _, part = key.partition(".")
        module = module.removeprefix(
            next(prefix for prefix in lora.COMPONENTS if module.startswith(prefix))
        )
        module = _diffusers_name(module, step) if component == "unet" else module
        return (component, module, part) if part in lora.PARTS else None

    name = key.removeprefix("base_model.model.")
    component = next(
        (
            each
            for each in ("text_encoder_2", "text_encoder", "unet")
            if name.startswith(f"{each}.")
        ),
        None,
    )
    name = name.removeprefix(f"{component}.")
    found = DOTTED.fullmatch(name)
    if not found and not name.endswith(".alpha"):
        return None
    module, part = (
        (found["module"], SIDES[found["side"]]) if found else (name.removesuffix(".alpha"), "alpha")
    )
    if (component or "unet") == "unet":
        module = _unet_name(module)
    else:
        head, _, last = module.rpartition(".")
        module = f"{head}.{OLD_ATTENTION.get(last, last)}" if head else last
    return module and (component or "unet", module, part)


def _unet_name(module: str) -> str | None:
    """A module of diffusers' old forms, or of the course's -> as diffusers calls it now; None for an unknown block."""
    parts = module.replace(".processor.", ".").split(".")
    legacy = parts[0] == "blocks"
    if legacy:
        if len(parts) < 3 or not parts[1].isdigit() or int(parts[1]) not in LEGACY_BLOCKS:
            return None
        parts = [LEGACY_BLOCKS[int(parts[1])], *parts[2:]]
    module = ".".join(parts)
    for old, new in LEGACY_NAMES if legacy else LEGACY_NAMES[:1]:
        if module.endswith(old):
            return module.removesuffix(old) + new
    return module


def _diffusers_name(module: str, step: int) -> str:
    """kohya's own names for SDXL's blocks (``input_blocks_4_1``) -> diffusers' (``down_blocks_1_attentions_0``)."""
    if module in OUTSIDE:
        return OUTSIDE[module]
    found = ORIGINAL.fullmatch(module)
    if not found:
        return module
    side, number, part, rest = found[1], int(found[2]), found[3], found[4]
    if side == "middle_block":
        place = "mid_block_attentions_0" if number == 1 else f"mid_block_resnets_{number // 2}"
        rest = f"{part}_{rest}" if part else rest
    else:
        block, layer = divmod(number - 1 if side == "input_blocks" else number, step)
        way = "down" if side == "input_blocks" else "up"
        if rest in ("op", "conv"):
            place, rest = f"{way}_blocks_{block}_{way}samplers_0", "conv"
        else:
            place = f"{way}_blocks_{block}_{'attentions' if part == '1' else 'resnets'}_{layer}"
    if "resnets" in place:
        rest = RESNET.get(rest, rest)
    return f"{place}_{rest}"


def _first_trainer(
    path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str]
) -> Mapping[str, torch.Tensor]:
    """The form of cloneofsimo/lora (``unet:9:down``) -> peft's names; any other as it is.

    Its scale lies in ``up`` (``extract_lora_as_tensor``), so that alpha is the rank.

    Raises:
        LoraError: It changes other layers than attention and GEGLU, or not all of them.
    """
    found = {key: FIRST.fullmatch(key) for key in tensors}
    if not any(found.values()):
        return tensors

    names = {"unet": FIRST_UNET}
    for component, kinds in FIRST_TARGETS.items():
        numbers = {int(match[2]) for match in found.values() if match and match[1] == component}
        if component == "text_encoder":
            layers = range(-(-len(numbers) // len(FIRST_TEXT)))
            names[component] = [
                f"encoder.layers.{layer}.self_attn.{part}"
                for layer in layers
                for part in FIRST_TEXT
            ]
        targets = set(re.findall(r"\w+", facts.get(component, "")))  # a list of classes in JSON
        right = (
            all(targets & kind for kind in kinds)
            and targets <= set().union(*kinds)
            and all(found.values())
        )
        if numbers and (not right or numbers != set(range(len(names[component])))):
            classes = ", ".join(sorted(targets)) or "unnamed classes"
            raise LoraError(
                f"{path} was made by cloneofsimo/lora for {len(numbers)} layers of {classes} in {component}, "
                "whose order is not known: only its default, all of attention and GEGLU, is read."
            )

    sides = {"down": "A", "up": "B"}
    return {
        f"{match[1]}.{names[match[1]][int(match[2])]}.lora_{sides[match[3]]}.weight": tensors[key]
        for key, match in found.items()
    }


def _alphas(path: Path, facts: Mapping[str, str], dotted: Mapping[str, str]) -> dict[str, float]:
    """Each module's alpha where the file's metadata have it: diffusers writes peft's configuration there.

    Args:
        dotted: kohya's name of each module -> component and dotted name.
    """
    if CONFIGURATION not in facts:
        return {}
    try:
        configuration = json.loads(facts[CONFIGURATION])
        alphas = {}
        for name, module in dotted.items():
            component, _, rest = module.partition(".")
            patterns = configuration.get(f"{component}.alpha_pattern", {})
            plain = rest.removeprefix("text_model.")
            # as peft matches (peft/utils/other.py, get_pattern_key), whether the pattern has text_model. or not
            matches = (
                value
                for pattern, value in patterns.items()
                if any(
                    re.match(rf"(.*\.)?({pattern})$", each)
                    for each in (plain, f"text_model.{plain}")
                )
            )
            alphas[name] = float(next(matches, configuration[f"{component}.lora_alpha"]))
        return alphas
    except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise LoraError(
            f"{path} has damaged metadata ({CONFIGURATION}: {error}): get it again."
        ) from error
