"""Draw a bundle's pictures again, in the batches in which they were drawn, and say for each whether it is the same."""

import io
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from storyboard import artifacts
from storyboard.errors import BundleError, ResourceError
from storyboard.exporting import opened
from storyboard.models import bases
from storyboard.models.run import Run, resolve
from storyboard.reference import OWN, Reference
from storyboard.rendering.panels import PACKAGES
from storyboard.settings import Settings

TOLERANCE = {
    "fp32": 1,
    "bf16": 2,
    "fp16": 2,
}  # of 255: what another grouping of the same arithmetic changes
ENCODED = "prompts of several chunks, and shorter ones beside them, were encoded otherwise by an earlier Storyboard"
ALONE = "memory is too small for as many panels at once: drawn one at a time"


@dataclass(frozen=True)
class Reproduction:
    """The pictures made again.

    Attributes:
        folder: Holds them as ``panel-1.png`` and so on.
        verdicts: ``"identical"``, ``"within tolerance"`` or ``"different"`` a panel.
        differences: The largest difference a panel, of 255.
        tolerance: The largest that is within tolerance, of 255: 1 in fp32, 2 in bf16 and fp16.
        changed: What is not as it was when the pictures were drawn, a sentence each.
    """

    folder: Path
    verdicts: list[str]
    differences: list[int] = field(repr=False)
    changed: list[str]
    tolerance: int = 1

    def __str__(self) -> str:
        counts = ", ".join(
            f"{self.verdicts.count(kind)} {kind}"
            for kind in ("identical", "within tolerance", "different")
            if kind in self.verdicts
        )
        panels = [
            f"  panel {place}: {verdict}" + (f", by up to {most} of 255" if most else "")
            for place, (verdict, most) in enumerate(zip(self.verdicts, self.differences), 1)
        ]
        unexplained = (
            [
                "  base, LoRA and versions are the same: another machine, or pictures that were changed afterwards"
            ]
            if not self.changed and "different" in self.verdicts
            else []
        )
        return "\n".join(
            [
                f"reproduce: of {len(self.verdicts)} panels {counts} (tolerance {self.tolerance} of 255), in {self.folder}",
                *panels,
                *(f"  changed: {line}" for line in self.changed),
                *unexplained,
            ]
        )

    def _repr_html_(self) -> str:
        from storyboard import show

        rows = [
            [place, verdict, most]
            for place, (verdict, most) in enumerate(zip(self.verdicts, self.differences), 1)
        ]
        return show.table(
            str(self).splitlines()[0],
            ["panel", "verdict", "largest difference of 255"],
            rows + [["changed", line, ""] for line in self.changed],
        )


def reproduce(
    bundle: Path | str,
    output: Path | str | None = None,
    base: str | None = None,
    controlnets: dict[str, str] | None = None,
) -> Reproduction:
    """Draw the panels of a story bundle again and compare them with those that it holds.

    Args:
        bundle: A ``story.zip``; nothing of it is trusted, and nothing of it is written but its LoRA and what panels followed.
        output: Folder for the pictures, made anew; None takes ``<name of the zip>-reproduced`` beside it.
        base: Where the base lies, for one that was a path; None takes the base that the bundle names.
        controlnets: Where ControlNets lie that were folders, by what they follow (``edges``, ``depth``, ...).

    Raises:
        BundleError: It is no whole bundle, or holds names or sizes that a bundle never has.
        BaseError, LoraError, ResourceError: As ``render``.
    """
    path = Path(bundle)
    target = Path(output) if output else path.with_name(f"{path.stem}-reproduced")
    if (
        target.exists()
        and (not target.is_dir() or any(target.iterdir()))
        and artifacts.read_manifest(target) is None
    ):
        raise BundleError(f"{target} holds other files: set output to a new folder.")
    story, lora, originals = opened.read(path)
    panels, first = story["panels"], story["panels"][0]
    if base is None and first["base"] not in bases.names():
        raise BundleError(
            f'{path} was drawn with {first["base"]!r}, a base of its own: give reproduce(..., base="its path").'
        )
    with artifacts.building(target) as folder:
        for name in originals.keys() - {panel["file"] for panel in panels}:
            (folder / name).write_bytes(originals[name])
        settings = _settings(story, base or first["base"], folder)
        references = [_reference(path, panel, folder, controlnets or {}) for panel in panels]
        run = resolve(settings)
        found = run.base
        place = folder / "lora.safetensors"
        place.write_bytes(lora)
        changed = _changed(first, run.base_fingerprint, artifacts.digest_of_file(place))
        if any(
            panel["text_length"] > found.text_length and "chunks" not in panel for panel in panels
        ):
            changed.append(ENCODED)
        changed += _draw(run, place, panels, references)
        shutil.rmtree(folder / "cache")
        differences = [
            _difference(originals[panel["file"]], folder / panel["file"]) for panel in panels
        ]
        tolerance = TOLERANCE[first["precision"]]
        verdicts = [
            "identical" if most == 0 else "within tolerance" if most <= tolerance else "different"
            for most in differences
        ]
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


def _settings(story: dict, base: str, folder: Path) -> Settings:
    first, last, further = story["panels"][0], story["panels"][-1], story["settings"]
    heroine = last.get("heroine", {})
    return Settings(
        base=base,
        output=str(folder),
        resolution=first["width"],
        num_inference_steps=first["steps"],
        guidance_scale=first["guidance_scale"],
        guidance_end=first["guidance_end"],
        clip_skip=first.get("clip_skip"),
        precision=first["precision"],
        text_encoder_bits=further.get("text_encoder_bits"),
        text_encoder_on_cpu=further.get("text_encoder_on_cpu"),
        character=heroine.get("by"),
        character_strength=heroine.get("strength"),
        character_picture=str(folder / heroine["file"]) if "file" in heroine else None,
    )


def _reference(
    path: Path, panel: dict, folder: Path, controlnets: dict[str, str]
) -> Reference | None:
    """The reference of ``panel`` as the bundle holds it: what the ControlNet saw, ready-made."""
    said = panel.get("reference")
    if not said or said["control"] == "image":
        return said and Reference(folder / said["file"], "image", said["strength"])
    own = said["model"] == OWN
    if own and said["control"] not in controlnets:
        raise BundleError(
            f'{path} was drawn with a ControlNet of its own: give reproduce(..., controlnets={{"{said["control"]}": "its path"}}).'
        )
    return Reference(
        folder / said["file"],
        said["control"],
        said["strength"],
        said["end"],
        prepared=True,
        weights=controlnets[said["control"]] if own else said["model"],
    )


def _changed(panel: dict, base_fingerprint: str, digest: str) -> list[str]:
    """What differs from when ``panel`` was drawn."""
    changed = []
    if panel["base_fingerprint"] != base_fingerprint:
        changed.append(
            f"the base {panel['base']!r} has other weights or configs (fingerprint {panel['base_fingerprint'][:12]}, now {base_fingerprint[:12]})"
        )
    if panel["lora"] != digest:
        changed.append(f"the LoRA is another (SHA-256 {panel['lora'][:12]}, now {digest[:12]})")
    now = artifacts.versions(*PACKAGES)
    return changed + [
        f"{name} {panel['versions'].get(name, 'not named')}, now {now[name]}"
        for name in PACKAGES
        if panel["versions"].get(name) != now[name]
    ]


def batches(panels: list[dict]) -> list[tuple[int, list[int]]]:
    """First row and places of ``panels`` in batches as large as those they were drawn in, each in its row.

    What a picture's arithmetic depends on is the size of its batch, its row, how far the prompts were repeated and what
    guides the batch, not its neighbours: a panel that was redrawn later left a gap in the old batch, which is filled with
    the first panel of that batch. Row 0 of a batch with shared attention is panel 1's.
    """
    made: list[tuple[tuple, dict[int, int]]] = []
    for place, panel in enumerate(panels):
        said, first = (
            panel.get("reference", {}),
            int(panel.get("heroine", {}).get("by") == "shared"),
        )
        guided = (
            panel["guidance_end"],
            "heroine" in panel,
            said.get("controlnet"),
            said["strength"] if said.get("control") == "image" else None,
        )
        kind = (panel["batch"], first, panel["text_length"], panel["vae_tiling"], *guided)
        rows = next(
            (rows for other, rows in made if other == kind and panel["row"] not in rows), None
        )
        if rows is None:
            made.append((kind, rows := {}))
        rows[panel["row"]] = place
    return [
        (first, [rows.get(row, next(iter(rows.values()))) for row in range(first, size)])
        for (size, first, *_), rows in made
    ]


def _draw(
    run: Run,
    lora: Path,
    panels: list[dict],
    references: list[Reference | None],
) -> list[str]:
    """Draw ``panels`` into the settings' folder; returns what is not as at first."""
    import torch

    from storyboard import show
    from storyboard.lora import attaching
    from storyboard.models import conditioning
    from storyboard.rendering import character, controlnet, sampling
    from storyboard.rendering.renderer import Guides

    attaching.check(run.base, lora)
    folder, steps = run.folder, run.num_inference_steps
    prepared = [
        reference and controlnet.prepare(run.base, reference, place, steps)
        for place, reference in enumerate(references, 1)
    ]
    keeper = character.prepare(run, folder / panels[0]["file"], prepared) if run.character else None
    remarks = _other_guides(panels, prepared, keeper)
    said = conditioning.encode(
        run,
        [panel[key] for panel in panels for key in ("prompt", "negative_prompt")],
        adapter=attaching.text_adapter(run.base, lora),
    )
    guides = Guides(run, sampling.load_pipeline(run.base, run.plan, lora), prepared, keeper)

    def draw(batch: list[int], first: int) -> None:
        vae, like = guides.pipe.vae, panels[batch[0]]
        sampling.decode_in_tiles(vae) if like["vae_tiling"] else vae.disable_tiling()
        for row, (place, image) in enumerate(
            zip(batch, guides.draw(batch, panels, said, text_length=like["text_length"])), first
        ):
            if row == panels[place]["row"]:
                image.save(folder / panels[place]["file"])

    todo = batches(panels)
    with show.Live("reproduce", len(todo)) as live:
        for number, (first, batch) in enumerate(todo, 1):
            try:
                draw(batch, first)
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise ResourceError(
                        "The memory of the card is too small for one picture of this bundle: reproduce it on a larger one."
                    ) from error
                remarks += [] if ALONE in remarks else [ALONE]
                for place in dict.fromkeys(batch):
                    draw([place], panels[place]["row"])
            live.step(number)
    return remarks


def _other_guides(panels: list[dict], prepared: list, keeper) -> list[str]:
    """ControlNets and IP-Adapter that are not those of before, a sentence each."""
    others = {
        panel["reference"]["control"]
        for panel, each in zip(panels, prepared)
        if each and each.facts.get("controlnet") != panel["reference"].get("controlnet")
    }
    remarks = [
        f"the ControlNet for {control!r} has other weights or configs" for control in sorted(others)
    ]
    if keeper and keeper.weights != panels[-1]["heroine"].get("weights"):
        remarks.append("the IP-Adapter has other weights")
    return remarks


def _difference(original: bytes, made: Path) -> int:
    """The largest difference of two pictures in any pixel and channel, 0 to 255."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(original), formats=["PNG"]) as first, Image.open(made) as second:
            if first.size != second.size:
                return 255
            return int(
                np.abs(
                    np.asarray(first.convert("RGB"), int) - np.asarray(second.convert("RGB"), int)
                ).max()
            )
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BundleError(
            f"The bundle's {made.name} is no whole PNG ({type(error).__name__}): get the bundle again."
        ) from error
