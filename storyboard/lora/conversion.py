"""A LoRA file in another form, each into each without loss."""

import base64
import io
import os
from pathlib import Path

from storyboard import artifacts, images
from storyboard.errors import LoraError, brief
from storyboard.lora import configuration, folders, forms, reading, values
from storyboard.lora.file import Lora, path_of, serialised

OF_ONE_FORM = (configuration.METADATA, "format")  # metadata that each form writes anew
THUMBNAIL = 256  # pixels, the longer side


def convert(
    lora: Lora | Path | str,
    form: str,
    target: Path | str | None = None,
    thumbnail: Path | str | None = None,
) -> Path:
    """Write ``lora`` in another form, by default beside it as ``lora.<form>.safetensors``.

    All values of a plain LoRA stay bit for bit, and so does alpha: kohya's form holds it in a
    tensor for each module, diffusers' in peft's configuration among the metadata, DiffSynth's in a
    tensor for each module, or nowhere where every module's alpha is its rank. A LoHa, a LoKr and a
    LoCon with a Tucker core become the plain LoRA of the same change. Other metadata (``ss_*``,
    ``modelspec.*``) go along.

    Args:
        lora: In any form that ``import_lora`` reads.
        form: ``"diffusers"``, ``"diffsynth"`` or ``"kohya"``, or another of ``forms.writers()``.
        thumbnail: A picture that shows what it does, for ``modelspec.thumbnail``.

    Returns:
        The path of the new file.

    Raises:
        LoraError: Another form, no such file, tensors or modules that are not known, or a LoRA
            that the form has no names for; or the target is the LoRA itself.
    """
    writers = forms.writers()
    if not isinstance(form, str) or form not in writers:
        raise LoraError(f"form={brief(form)} must be one of {', '.join(map(repr, writers))}.")

    path = path_of(lora)
    tensors, metadata = reading.content(path)
    state = forms.read(path, tensors, metadata)
    values.check(state)
    target = _target(path, form, target)
    converted, of_form = writers[form](state)

    metadata = {key: value for key, value in metadata.items() if key not in OF_ONE_FORM} | of_form
    if thumbnail is not None:
        metadata["modelspec.thumbnail"] = _thumbnail(Path(thumbnail))
    artifacts.write_atomically(target, serialised(converted, metadata))
    return target


def _target(path: Path, form: str, target: Path | str | None) -> Path:
    """Where the converted file goes; LoraError where that is the LoRA itself, or a folder."""
    if not target:
        return path.with_name(f"{_stem(path)}.{form}.safetensors")
    target = Path(target).expanduser()
    is_folder = folders.is_folder(target)
    if is_folder or os.path.realpath(target) == os.path.realpath(path):
        kind = "a folder" if is_folder else "the LoRA itself"
        raise LoraError(f"target={str(target)!r} is {kind}: name a new .safetensors file.")
    target.parent.mkdir(parents=True, exist_ok=True)
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
