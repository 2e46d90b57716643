"""Draw a bundle's pictures again, in the batches in which they were drawn, and say for each whether it is the same."""

import io
import json
import re
import shutil
import stat
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .. import artifacts, bases, memory, weights
from ..errors import BundleError, ResourceError, StoryboardError
from ..rendering import PACKAGES
from ..settings import Settings
from ..story import MAX_PANELS, Panel
from .bundle import FORMAT
from .comfy import GUIDED

LIMITS = {"story.json": 8 * 2**20, "lora.safetensors": 4 * 2**30}  # bytes that are read at most
PICTURE_LIMIT = 128 * 2**20
FILES_LIMIT = 256
SAME = ("base", "base_fingerprint", "lora", "width", "height", "steps", "guidance_scale", "guidance_end", "sampler", "schedule_type", "precision", "versions")
TOLERANCE = {"fp32": 1, "bf16": 2, "fp16": 2}  # of 255: what another grouping of the same arithmetic changes
MOST_TOKENS = 77 * 64


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
        counts = ", ".join(f"{self.verdicts.count(kind)} {kind}" for kind in ("identical", "within tolerance", "different") if kind in self.verdicts)
        panels = [f"  panel {place}: {verdict}" + (f", by up to {most} of 255" if most else "") for place, (verdict, most) in enumerate(zip(self.verdicts, self.differences), 1)]
        unexplained = ["  base, LoRA and versions are the same: another machine, or pictures that were changed afterwards"] if not self.changed and "different" in self.verdicts else []
        return "\n".join([f"reproduce: of {len(self.verdicts)} panels {counts} (tolerance {self.tolerance} of 255), in {self.folder}", *panels, *(f"  changed: {line}" for line in self.changed), *unexplained])

    def _repr_html_(self) -> str:
        from .. import show

        rows = [[place, verdict, most] for place, (verdict, most) in enumerate(zip(self.verdicts, self.differences), 1)]
        return show.table(str(self).splitlines()[0], ["panel", "verdict", "largest difference of 255"], rows + [["changed", line, ""] for line in self.changed])


def reproduce(bundle: Path | str, output: Path | str | None = None, base: str | None = None) -> Reproduction:
    """Draw the panels of a story bundle again and compare them with those that it holds.

    Args:
        bundle: A ``story.zip``; nothing of it is trusted, and nothing of it is written but its LoRA.
        output: Folder for the pictures, made anew; None takes ``<name of the zip>-reproduced`` beside it.
        base: Where the base lies, for one that was a path; None takes the base that the bundle names.

    Raises:
        BundleError: It is no whole bundle, or holds names or sizes that a bundle never has.
        BaseError, LoraError, ResourceError: As ``render``.
    """
    path = Path(bundle)
    target = Path(output) if output else path.with_name(f"{path.stem}-reproduced")
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and artifacts.read_manifest(target) is None:
        raise BundleError(f"{target} holds other files: set output to a new folder.")
    story, lora, originals = read(path)
    panels, first = story["panels"], story["panels"][0]
    if base is None and first["base"] not in bases.names():
        raise BundleError(f"{path} was drawn with {first['base']!r}, a base of its own: give reproduce(..., base=\"its path\").")
    if guided := [place for place, panel in enumerate(panels, 1) if panel.keys() & GUIDED]:
        raise BundleError(f"Panel {guided[0]} of {path} follows a reference picture or a heroine, which a bundle does not hold: draw it again in the notebook.")
    settings = _settings(path, story, base or first["base"], target)
    found = weights.fetch(bases.get(settings.base))
    plan = memory.plan(found, settings)
    with artifacts.building(target) as folder:
        place = folder / "lora.safetensors"
        place.write_bytes(lora)
        changed = _changed(first, found.fingerprint(), artifacts.digest_of_file(place))
        changed += _draw(found, plan, place, panels, settings.but(output=str(folder)), folder)
        shutil.rmtree(folder / "cache")
        differences = [_difference(original, folder / panel["file"]) for original, panel in zip(originals, panels)]
        tolerance = TOLERANCE[first["precision"]]
        verdicts = ["identical" if most == 0 else "within tolerance" if most <= tolerance else "different" for most in differences]
        artifacts.write_manifest(folder, "reproduce", "", verdicts=verdicts, differences=differences, changed=changed, tolerance=tolerance)
    result = Reproduction(target, verdicts, differences, changed, tolerance)
    print(result)
    return result


def read(path: Path) -> tuple[dict, bytes, list[bytes]]:
    """Of a bundle its ``story.json``, checked, its LoRA and its panels as files' contents.

    Raises:
        BundleError: As ``reproduce``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = entries(path, archive)
            story = _story(path, json.loads(_content(path, archive, found, "story.json", LIMITS["story.json"])))
            panels = [_content(path, archive, found, panel["file"], PICTURE_LIMIT) for panel in story["panels"]]
            return story, _content(path, archive, found, "lora.safetensors", LIMITS["lora.safetensors"]), panels
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is no whole story bundle ({type(error).__name__}: {error}): get it again.") from error


def entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """What a zip holds, by name; BundleError where a name points outside its folder."""
    found = archive.infolist()
    for entry in found:
        name = PurePosixPath(entry.orig_filename)
        if name.is_absolute() or ".." in name.parts or re.search(r"[\\:\0]", entry.orig_filename) or stat.S_ISLNK(entry.external_attr >> 16):
            raise BundleError(f"{path} holds {entry.orig_filename!r}, which points outside its folder: do not open it, it was not made by bundle().")
    if len(found) > FILES_LIMIT or len({entry.filename for entry in found}) != len(found) or any(entry.flag_bits & 1 for entry in found):
        raise BundleError(f"{path} holds more than {FILES_LIMIT} files, one of them twice, or encrypted ones: it was not made by bundle().")
    return {entry.filename: entry for entry in found}


def _content(path: Path, archive: zipfile.ZipFile, found: dict[str, zipfile.ZipInfo], name: str, limit: int) -> bytes:
    if name not in found:
        raise BundleError(f"{path} lacks {name}: it is no whole story bundle, get it again.")
    if found[name].file_size > limit:  # zipfile reads no more than what the entry announces
        raise BundleError(f"{path} holds a {name} of {found[name].file_size / 1e6:,.0f} MB, more than the {limit / 1e6:,.0f} MB that are read: it was not made by bundle().")
    return archive.read(found[name])


def _story(path: Path, story: object) -> dict:
    """``story`` with every field that is used of the type it must have."""
    try:
        if story["format"] != FORMAT:
            raise ValueError(f"format {story['format']!r:.20}, this Storyboard reads {FORMAT}")
        panels = story["panels"]
        if not 1 <= len(panels) <= MAX_PANELS:
            raise ValueError(f"{len(panels)} panels")
        for place, panel in enumerate(panels, 1):
            Panel(panel["prompt"], panel["negative_prompt"], panel["seed"])
            same = [panel[key] == panels[0][key] for key in SAME]
            numbers = all(type(panel[key]) is int for key in ("width", "height", "batch", "row", "text_length", "seed"))
            if not all(same) or not numbers or panel["file"] != f"panel-{place}.png" or not 0 <= panel["row"] < panel["batch"] <= MAX_PANELS or panel["width"] != panel["height"] or not 0 < panel["text_length"] <= MOST_TOKENS:
                raise ValueError(f"panel {place}")
            kinds = {"vae_tiling": bool, "base": str}
            hashes = [re.fullmatch(r"[0-9a-f]{64}", panel[key]) for key in ("base_fingerprint", "lora")] + [re.fullmatch(r"[\w.+-]{1,40}", each) for each in panel["versions"].values()]
            known = (panel["sampler"], panel["schedule_type"]) == ("DPM++ 2M", "Karras") and panel["precision"] in TOLERANCE
            if not all(isinstance(panel[key], kind) for key, kind in kinds.items()) or not all(hashes) or not known:
                raise ValueError(f"panel {place}")
        if not isinstance(story["settings"], dict):
            raise ValueError("settings")
    except (KeyError, TypeError, ValueError, AttributeError, StoryboardError) as error:
        raise BundleError(f"story.json of {path} is not as bundle() writes it ({type(error).__name__}: {error}): make the bundle again.") from error
    return story


def _settings(path: Path, story: dict, base: str, target: Path) -> Settings:
    first, further = story["panels"][0], story["settings"]
    return Settings(
        base=base, output=str(target), resolution=first["width"], num_inference_steps=first["steps"], guidance_scale=first["guidance_scale"],
        guidance_end=first["guidance_end"], precision=first["precision"], text_encoder_bits=further.get("text_encoder_bits"), text_encoder_on_cpu=further.get("text_encoder_on_cpu"),
    )


def _changed(panel: dict, base_fingerprint: str, digest: str) -> list[str]:
    """What differs from when ``panel`` was drawn."""
    changed = []
    if panel["base_fingerprint"] != base_fingerprint:
        changed.append(f"the base {panel['base']!r} has other weights or configs (fingerprint {panel['base_fingerprint'][:12]}, now {base_fingerprint[:12]})")
    if panel["lora"] != digest:
        changed.append(f"the LoRA is another (SHA-256 {panel['lora'][:12]}, now {digest[:12]})")
    now = artifacts.versions(*PACKAGES)
    return changed + [f"{name} {panel['versions'].get(name, 'not named')}, now {now[name]}" for name in PACKAGES if panel["versions"].get(name) != now[name]]


def batches(panels: list[dict]) -> list[list[int]]:
    """Places of ``panels`` in batches as large as those they were drawn in, each in its row.

    What a picture's arithmetic depends on is the size of its batch, its row and how far the prompts were lengthened, not its
    neighbours: a panel that was redrawn later left a gap in the old batch, which is filled with the first panel of that batch.
    """
    made: list[tuple[tuple, dict[int, int]]] = []
    for place, panel in enumerate(panels):
        kind = (panel["batch"], panel["text_length"], panel["vae_tiling"])
        rows = next((rows for other, rows in made if other == kind and panel["row"] not in rows), None)
        if rows is None:
            made.append((kind, rows := {}))
        rows[panel["row"]] = place
    return [[rows.get(row, next(iter(rows.values()))) for row in range(size)] for (size, *_), rows in made]


def _draw(base: bases.Base, plan: memory.Plan, lora: Path, panels: list[dict], settings: Settings, folder: Path) -> list[str]:
    """Draw ``panels`` into ``folder``; returns what could not be done as at first."""
    import torch

    from .. import conditioning, show
    from ..rendering import drawing

    said = conditioning.encode(base, [panel[key] for panel in panels for key in ("prompt", "negative_prompt")], settings, plan)
    pipe = drawing.load_pipeline(base, plan, lora)

    def draw(chosen: list[dict], rows: list[int]) -> None:
        pipe.vae.enable_tiling() if chosen[0]["vae_tiling"] else pipe.vae.disable_tiling()
        positive, negative = ([said[panel[key]] for panel in chosen] for key in ("prompt", "negative_prompt"))
        images = drawing.draw(
            pipe, positive, negative, [panel["seed"] for panel in chosen], settings.resolution, settings.num_inference_steps, settings.guidance_scale, settings.guidance_end,
            text_length=chosen[0]["text_length"],
        )
        for row, panel, image in zip(rows, chosen, images):
            if row == panel["row"]:
                image.save(folder / panel["file"])

    todo, remarks = batches(panels), []
    with show.Live("reproduce", len(todo)) as live:
        for number, batch in enumerate(todo, 1):
            chosen = [panels[place] for place in batch]
            try:
                draw(chosen, list(range(len(chosen))))
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise ResourceError("The memory of the card is too small for one picture of this bundle: reproduce it on a larger one.") from error
                remarks = [f"memory is too small for {len(batch)} panels at once: drawn one at a time"]
                for panel in {panel["file"]: panel for panel in chosen}.values():
                    draw([panel], [panel["row"]])
            live.step(number)
    return remarks


def _difference(original: bytes, made: Path) -> int:
    """The largest difference of two pictures in any pixel and channel, 0 to 255."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(original), formats=["PNG"]) as first, Image.open(made) as second:
            if first.size != second.size:
                return 255
            return int(np.abs(np.asarray(first.convert("RGB"), int) - np.asarray(second.convert("RGB"), int)).max())
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BundleError(f"The bundle's {made.name} is no whole PNG ({type(error).__name__}): get the bundle again.") from error
