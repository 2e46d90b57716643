"""A LoRA file in another form, each into each without loss."""

import base64
import io
from pathlib import Path

from storyboard import artifacts, images
from storyboard.errors import LoraError
from storyboard.lora import forms, reading
from storyboard.lora.file import Lora, serialised
from storyboard.lora.forms.diffusers import CONFIGURATION

OF_ONE_FORM = (CONFIGURATION, "format")  # metadata that each form writes anew
THUMBNAIL = 256  # pixels, the longer side


def convert(
    lora: Lora | Path | str,
    form: str,
    target: Path | str | None = None,
    thumbnail: Path | str | None = None,
) -> Path:
    """Write ``lora`` in another form, by default beside it as ``lora.<form>.safetensors``.

    All values stay bit for bit, and so does alpha: kohya's form holds it in a tensor for each
    module, diffusers' in peft's configuration among the metadata, DiffSynth's in a tensor for each
    module, or nowhere where every module's alpha is its rank. Other metadata (``ss_*``,
    ``modelspec.*``) go along.

    Args:
        lora: In any form that ``import_lora`` reads.
        form: ``"diffusers"``, ``"diffsynth"`` or ``"kohya"``, or another of ``forms.writers()``.
        thumbnail: A picture that shows what it does, for ``modelspec.thumbnail``.

    Returns:
        The path of the new file.

    Raises:
        LoraError: Another form, no such file, tensors or modules that are not known, or a LoRA
            that the form has no names for.
    """
    writers = forms.writers()
    if form not in writers:
        raise LoraError(f"form={form!r} must be one of {', '.join(map(repr, writers))}.")

    path = lora.path if isinstance(lora, Lora) else Path(lora).expanduser()
    tensors, metadata = reading.content(path)
    state = forms.read(path, tensors, metadata)
    converted, of_form = writers[form](state)

    metadata = {key: value for key, value in metadata.items() if key not in OF_ONE_FORM} | of_form
    if thumbnail is not None:
        metadata["modelspec.thumbnail"] = _thumbnail(Path(thumbnail))

    target = Path(target) if target else path.with_name(f"{_stem(path)}.{form}.safetensors")
    artifacts.write_atomically(target, serialised(converted, metadata))
    return target


def _stem(path: Path) -> str:
    """The name of a file without suffix and form."""
    form = path.stem.rpartition(".")[2]
    return path.stem.removesuffix(f".{form}") if form in forms.writers() else path.stem


def _thumbnail(path: Path) -> str:
    """A small JPEG of the pixels, as a data URI (https://github.com/Stability-AI/ModelSpec)."""
    small = images.read(path).image
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
