"""LoRAs that others made -> kohya's form, whole or not at all."""

import hashlib
import os
from pathlib import Path

from storyboard import artifacts
from storyboard.errors import LoraError, brief, one_line
from storyboard.lora import fitting, forms, origin, reading, values
from storyboard.lora.file import path_of, serialised
from storyboard.lora.forms import kohya
from storyboard.lora.forms.registry import Metadata, Tensors
from storyboard.lora.names import shown
from storyboard.lora.recognition import EMBEDDED_WORD
from storyboard.lora.state import LoraState
from storyboard.models import weights
from storyboard.models.base import Base
from storyboard.models.run import check
from storyboard.settings import Settings

LARGEST_ALPHA = 1e9
STEM_BYTES = 200  # of a file's name: with suffix and digest below the 255 of file systems


def import_lora(path: Path | str, settings: Settings, alpha: float | None = None) -> Path:
    """Bring a LoRA of ``settings.base`` into kohya's form, at ``<output>/imported/<name>``.

    Reads every form in ``lora/forms``, each with its text encoders' part: kohya's, diffusers' of
    all years, OneTrainer's, DiffSynth-Studio's raw form, the 2024 course's ``.ckpt`` and that of
    cloneofsimo/lora; peft's folders with their configuration. A LoHa, a LoKr and a LoCon with a
    Tucker core become the plain LoRA of the same change. Embeddings of words of its own are left
    out, which is printed.

    Args:
        path: Of a file, or of a folder of peft's or diffusers'.
        alpha: Its scale is ``alpha / rank``. None takes what the file says; where it says nothing,
            4 for the course's ``.ckpt`` and the rank for the others.

    Raises:
        LoraError: No such file, a form or kind that is not known, another base's, or modules
            without a place in the base; says how many.
    """
    path = path_of(path)
    _check_alpha(alpha)
    tensors, metadata = reading.content(path)
    base = check(settings)
    fitting.check_trained_on(base, path, metadata)
    base = weights.fetch(base)
    tensors = _without_words(path, tensors)

    layers = base.config("unet").get("layers_per_block", 2)
    made_for = origin.of_tensors(tensors)
    state = forms.read(path, tensors, metadata, base.family, layers)
    if alpha is not None:
        state = state.with_alpha(alpha)
    state = state.floats()
    values.check(state)
    state = fitting.fitted(base, state, fitting.skeletons(base, state.components), made_for)

    converted, _ = kohya.write(state)
    facts = {
        "ss_network_module": "networks.lora",
        "ss_base_model_version": base.kohya_name,
        "modelspec.architecture": f"{base.architecture}/lora",
    }
    target = _write(settings.folder / "imported", path.stem, serialised(converted, facts))
    _tell(path, base, state, metadata)
    print(f"lora: {len(state.modules)} modules of {one_line(path)} in {one_line(target)}")
    return target


def _check_alpha(alpha: float | None) -> None:
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if alpha is not None and not (number and 0 < abs(alpha) < LARGEST_ALPHA):
        raise LoraError(f"alpha={brief(alpha)} must be a number, not zero, or None.")


def _tell(path: Path, base: Base, state: LoraState, metadata: Metadata) -> None:
    """Print what became of it that is not plain from its name."""
    name = one_line(path)
    if state.kinds:
        largest = max(module.rank for module in state.modules.values())
        print(
            f"lora: {name} is {' and '.join(state.kinds)}: it is kept as the plain LoRA of the "
            f"same change, of ranks up to {largest}"
        )
    others = fitting.same_unet(base)
    if others and state.components == {"unet"} and origin.of_metadata(metadata) is None:
        print(
            f"lora: {name} does not say what it was trained on: it fits {base.name!r} and as well "
            f"{' and '.join(map(repr, others))}, whose UNet has the same names and shapes"
        )


def _without_words(path: Path, tensors: Tensors) -> Tensors:
    """``tensors`` without the embeddings that a LoRA brings along; a file of nothing else whole."""
    words = {key for key in tensors if EMBEDDED_WORD.fullmatch(key)}
    if not 0 < len(words) < len(tensors):
        return tensors
    print(
        f"lora: {one_line(path)} also brings {len(words)} embeddings of words of its own "
        f"({shown(', '.join(sorted(words)))[:60]}), which are left out: "
        "in a prompt those words mean nothing"
    )
    return {key: tensor for key, tensor in tensors.items() if key not in words}


def _write(folder: Path, stem: str, content: bytes) -> Path:
    """Write ``<folder>/<stem>.safetensors``, with its digest where another LoRA is called so."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = os.fsencode(stem)[:STEM_BYTES].decode(errors="ignore") or "lora"
    target = folder / f"{stem}.safetensors"
    if target.is_file() and target.read_bytes() != content:
        target = folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    artifacts.write_atomically(target, content)
    return target
