"""LoRAs that others made -> kohya's form, whole or not at all."""

import hashlib
from pathlib import Path

from storyboard import artifacts
from storyboard.lora import attaching, forms, reading
from storyboard.lora.file import serialised
from storyboard.lora.forms import kohya
from storyboard.lora.forms.registry import Tensors
from storyboard.lora.recognition import EMBEDDED_WORD
from storyboard.models import weights
from storyboard.models.run import check
from storyboard.settings import Settings

STEM_BYTES = 200  # of a file's name: with suffix and digest below the 255 of file systems


def import_lora(path: Path | str, settings: Settings, alpha: float | None = None) -> Path:
    """Bring a LoRA of ``settings.base`` into kohya's form, at ``<output>/imported/<name>``.

    Reads every form in ``lora/forms``, each with its text encoders' part: kohya's, diffusers' of
    all years, DiffSynth-Studio's raw form, the 2024 course's ``.ckpt`` and that of
    cloneofsimo/lora. Embeddings of words of its own are left out, which is printed.

    Args:
        alpha: Its scale is ``alpha / rank``. None takes what the file says; where it says nothing,
            4 for the course's ``.ckpt`` and the rank for the others.

    Raises:
        LoraError: No such file, a form or kind that is not known, another base's, or modules
            without a place in the base; says how many.
    """
    path = Path(path).expanduser()
    tensors, metadata = reading.content(path)
    base = weights.fetch(check(settings))
    attaching.check_trained_on(base, path, metadata)
    tensors = _without_words(path, tensors)

    layers = base.config("unet").get("layers_per_block", 2)
    state = forms.read(path, tensors, metadata, base.family, layers)
    if alpha is not None:
        state = state.with_alpha(alpha)
    state = state.floats()
    state.refuse_broken()
    attaching.check_fit(base, state, attaching.skeletons(base, state.components))

    converted, _ = kohya.write(state)
    facts = {
        "ss_network_module": "networks.lora",
        "ss_base_model_version": base.kohya_name,
        "modelspec.architecture": f"{base.architecture}/lora",
    }
    target = _write(settings.folder / "imported", path.stem, serialised(converted, facts))
    print(f"lora: {len(state.modules)} modules of {path} in {target}")
    return target


def _without_words(path: Path, tensors: Tensors) -> Tensors:
    """``tensors`` without the embeddings that a LoRA brings along; a file of nothing else whole."""
    words = sorted(key for key in tensors if EMBEDDED_WORD.fullmatch(key))
    if not 0 < len(words) < len(tensors):
        return tensors
    print(
        f"lora: {path} also brings {len(words)} embeddings of words of its own "
        f"({', '.join(words)[:60]}), which are left out: in a prompt those words mean nothing"
    )
    return {key: tensor for key, tensor in tensors.items() if key not in words}


def _write(folder: Path, stem: str, content: bytes) -> Path:
    """Write ``<folder>/<stem>.safetensors``, with its digest where another LoRA is called so."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = stem.encode()[:STEM_BYTES].decode(errors="ignore")
    target = folder / f"{stem}.safetensors"
    if target.is_file() and target.read_bytes() != content:
        target = folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    artifacts.write_atomically(target, content)
    return target
