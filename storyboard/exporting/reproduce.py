"""Draw a bundle's pictures again, and say for each whether it is the same.

They are drawn in the batches in which they were drawn.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from storyboard import artifacts
from storyboard.errors import BundleError
from storyboard.exporting import opened
from storyboard.exporting.archive import expanded
from storyboard.exporting.comparison import TOLERANCE, Reproduction, largest_difference, verdict
from storyboard.exporting.opened import OpenedBundle
from storyboard.models import bases
from storyboard.models.run import Run, resolve
from storyboard.records import PanelRecord
from storyboard.reference import OWN, Reference
from storyboard.rendering.panels import PACKAGES
from storyboard.settings import Settings

if TYPE_CHECKING:
    from storyboard.rendering.character import Character
    from storyboard.rendering.references import PreparedReference

ENCODED_OTHERWISE = (
    "prompts of several chunks, and shorter ones in their batches, "
    "were encoded otherwise by an earlier Storyboard"
)
SMALLER_BATCHES = "memory is too small for as many panels at once: drawn in smaller batches"


def reproduce(
    bundle: Path | str,
    output: Path | str | None = None,
    base: str | None = None,
    controlnets: Mapping[str, str] | None = None,
) -> Reproduction:
    """Draw the panels of a story bundle again and compare them with those that it holds.

    Args:
        bundle: A ``story.zip``; nothing of it is trusted, and nothing of it is written but its LoRA
            and what panels followed.
        output: Folder for the pictures, made anew; None takes ``<name of the zip>-reproduced``
            beside it.
        base: Where the base lies, for one that was a path; None takes the one that is named.
        controlnets: Where ControlNets lie that were folders, by what they follow (``edges``,
            ``depth``, ...).

    Raises:
        BundleError: It is no whole bundle, or holds names or sizes that a bundle never has.
        BaseError, LoraError, ResourceError: As ``render``.
    """
    # 1. what the bundle holds
    path = expanded(bundle)
    target = expanded(output) if output else path.with_name(f"{path.stem}-reproduced")
    _check_target(target)
    content = opened.read(path)
    panels, first = content.panels, content.panels[0]
    if base is None and first.base.name not in bases.names():
        raise BundleError(
            f"{path} was drawn with {first.base.name!r}, a base of its own: "
            'give reproduce(..., base="its path").'
        )

    with artifacts.building(target) as folder:
        # 2. what it is drawn with
        _write_followed(content, folder)
        references = [_reference(path, panel, folder, controlnets or {}) for panel in panels]
        run = resolve(_settings(panels, base or first.base.name, folder))
        lora = folder / "lora.safetensors"
        lora.write_bytes(content.lora)
        changed = _changed(panels, run, artifacts.digest_of_file(lora))

        # 3. draw and compare
        changed += _draw(run, lora, panels, references)
        shutil.rmtree(folder / "cache")
        differences = _differences(content, folder)
        tolerance = TOLERANCE[first.precision or "fp32"]
        verdicts = [verdict(difference, tolerance) for difference in differences]
        artifacts.write_manifest(
            folder,
            "reproduce",
            "",
            verdicts=verdicts,
            differences=differences,
            changed=changed,
            tolerance=tolerance,
        )
    result = Reproduction(target, verdicts, differences, changed, tolerance)
    print(result)
    return result


def _differences(content: OpenedBundle, folder: Path) -> list[int]:
    """How far each panel in ``folder`` is from the bundle's, at most, of 255."""
    names = [panel.as_drawn.file_name for panel in content.panels]
    return [largest_difference(content.pictures[name], folder / name) for name in names]


def _check_target(target: Path) -> None:
    """Raise BundleError where other files would be replaced."""
    try:
        is_used = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise BundleError(
            f"{target} cannot be a folder ({error.strerror}): set output to another."
        ) from error
    manifest = artifacts.read_manifest(target) if is_used else None
    if is_used and (manifest is None or manifest.get("stage") != "reproduce"):
        raise BundleError(f"{target} holds other files: set output to a new folder.")


def _write_followed(content: OpenedBundle, folder: Path) -> None:
    """Write what panels followed, references and the character's picture, into ``folder``."""
    drawn = {panel.as_drawn.file_name for panel in content.panels}
    for name in content.pictures.keys() - drawn:
        (folder / name).write_bytes(content.pictures[name])


def _settings(panels: Sequence[PanelRecord], base: str, folder: Path) -> Settings:
    """The settings that all panels are drawn with."""
    first, character = panels[0], panels[-1].character
    return Settings(
        base=base,
        output=str(folder),
        resolution=first.width,
        num_inference_steps=first.steps,
        guidance_scale=first.guidance_scale,
        guidance_end=first.guidance_end,
        lora_strength=first.lora.strength if first.lora else 1.0,
        clip_skip=first.clip_skip,
        precision=first.precision,
        text_encoder_bits=first.text_encoder_bits,
        # False is left to the plan: this card may be smaller
        text_encoder_on_cpu=first.text_encoder_on_cpu or None,
        character=character.method if character else None,
        character_strength=character.strength if character else None,
        character_picture=str(folder / character.file) if character and character.file else None,
    )


def _reference(
    path: Path, panel: PanelRecord, folder: Path, controlnets: Mapping[str, str]
) -> Reference | None:
    """The reference of ``panel`` as the bundle holds it: what the ControlNet saw, ready-made."""
    reference = panel.reference
    if reference is None:
        return None
    picture = folder / reference.file
    if reference.control == "image":
        return Reference(picture, "image", reference.strength)

    weights = reference.model
    if weights == OWN:
        if reference.control not in controlnets:
            raise BundleError(
                f"{path} was drawn with a ControlNet of its own: "
                f'give reproduce(..., controlnets={{"{reference.control}": "its path"}}).'
            )
        weights = controlnets[reference.control]
    return Reference(
        picture,
        reference.control,
        reference.strength,
        reference.end,
        prepared=True,
        weights=weights,
    )


def _changed(panels: Sequence[PanelRecord], run: Run, lora_digest: str) -> list[str]:
    """What differs from when ``panels`` were drawn."""
    panel, base_fingerprint = panels[0], run.base_fingerprint
    changed = []
    base_before = panel.base.fingerprint or "not named"
    lora_before = (panel.lora and panel.lora.digest) or "not named"
    if base_before != base_fingerprint:
        changed.append(
            f"the base {panel.base.name!r} has other weights or configs "
            f"(fingerprint {base_before[:12]}, now {base_fingerprint[:12]})"
        )
    if lora_before != lora_digest:
        changed.append(f"the LoRA is another (SHA-256 {lora_before[:12]}, now {lora_digest[:12]})")
    for name, version in artifacts.versions(*PACKAGES).items():
        before = panel.versions.get(name, "not named")
        if before != version:
            changed.append(f"{name} {before}, now {version}")
    if _encoded_otherwise(panels, run.base.text_length):
        changed.append(ENCODED_OTHERWISE)
    return changed


def _encoded_otherwise(panels: Sequence[PanelRecord], text_length: int) -> bool:
    """Whether an earlier version, which did not record chunks, drew prompts of several."""
    return any(
        panel.as_drawn.text_length > text_length and panel.as_drawn.chunks is None
        for panel in panels
    )


def _draw(
    run: Run,
    lora: Path,
    panels: Sequence[PanelRecord],
    references: Sequence[Reference | None],
) -> list[str]:
    """Draw ``panels`` into the run's folder; returns what is not as it was, a sentence each."""
    from storyboard import show
    from storyboard.rendering import character
    from storyboard.rendering import references as rendering_references
    from storyboard.rendering.renderer import Renderer

    steps_of_each = panels[0].steps
    prepared = [
        rendering_references.prepare(run.base, reference, number, steps_of_each)
        if reference
        else None
        for number, reference in enumerate(references, 1)
    ]
    first_picture = run.folder / panels[0].as_drawn.file_name
    kept = character.prepare(run, first_picture, prepared) if run.character else None
    changed = _other_models(panels, prepared, kept)

    renderer = Renderer(run, lora, references=prepared, character=kept)
    steps = sum(panel.steps for panel in panels)
    smaller = False
    with show.Live("reproduce", steps) as live:
        for drawing in renderer.draw(panels, as_drawn=True, on_step=live.step):
            before = panels[drawing.index].as_drawn
            drawing.image.save(run.folder / before.file_name)
            smaller |= drawing.record.as_drawn.batch < before.batch
    return [*changed, SMALLER_BATCHES] if smaller else changed


def _other_models(
    panels: Sequence[PanelRecord],
    prepared: "Sequence[PreparedReference | None]",
    character: "Character | None",
) -> list[str]:
    """ControlNets and IP-Adapter that are not those of before, a sentence each."""
    controls = {
        panel.reference.control
        for panel, each in zip(panels, prepared, strict=True)
        if each and panel.reference and each.record.controlnet != panel.reference.controlnet
    }
    changed = [
        f"the ControlNet for {control!r} has other weights or configs"
        for control in sorted(controls)
    ]
    before = panels[-1].character
    if character and before and character.weights != before.weights:
        changed.append("the IP-Adapter has other weights")
    return changed
