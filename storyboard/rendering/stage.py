"""Stage 4, render: base and LoRA file in, one picture a panel and the grid out; a panel already drawn is kept."""

import io
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from storyboard import artifacts, png
from storyboard.errors import LoraError, ResourceError
from storyboard.lora.file import Lora, data_digest, trains_text
from storyboard.models import bases
from storyboard.models.run import Run, resolve
from storyboard.settings import Settings
from storyboard.story import Story

TEXTS = ("prompt", "negative_prompt")
PACKAGES = ("torch", "diffusers", "peft", "transformers", "compel", "pillow")


@dataclass(frozen=True)
class Pictures:
    """The story's pictures on disk.

    Attributes:
        folder: Holds ``panel-1.png`` and so on, ``story.png`` (the grid) and ``story.json``; for a panel with a reference what
            it followed, ``panel-1-reference.png``, and ``character.png`` where ``character_picture`` was given.
        panels: What each was made from: prompt, negative_prompt, seed and the rest of ``story.json``'s entries.
    """

    folder: Path
    panels: list[dict] = field(repr=False)

    @property
    def paths(self) -> list[Path]:
        """The panels in order."""
        return [self.folder / f"panel-{place}.png" for place in range(1, len(self.panels) + 1)]

    @property
    def guides(self) -> list[Path]:
        """What panels followed beside their prompts: references and the character's picture."""
        return [
            self.folder / name
            for name in sorted({name for panel in self.panels for name in _followed(panel)})
        ]

    @property
    def grid(self) -> Path:
        """All panels in one picture."""
        return self.folder / "story.png"

    def __str__(self) -> str:
        return f"{len(self.panels)} pictures in {self.folder}, the grid in {self.grid}"

    def _repr_html_(self) -> str:
        from storyboard import show

        prompts = [panel["prompt"] for panel in self.panels]
        return show.story(list(zip(self.paths, prompts, strict=True)))


def render(
    story: Story,
    settings: Settings,
    lora: Lora | Path | str | None,
    folder: Path | None = None,
    chunks: Callable[[dict], Mapping[str, str]] | None = None,
) -> Pictures:
    """Draw ``story`` into ``<output>/story`` or, with ``lora=None``, by the base alone into ``<output>/base``; or into ``folder``.

    Only panels whose prompt, negative prompt, seed, reference (by content), base, LoRA or settings changed are drawn.

    Args:
        chunks: What a panel's PNG holds besides, by name.

    Raises:
        SettingsError: A reference picture cannot be read, or the base has no ControlNet of that kind.
        BaseError: A ControlNet or an IP-Adapter is missing, cut off or made for another base.
        LoraError: The LoRA file is missing, belongs to another base or does not attach whole.
        RenderingError: A picture is blank or not finite; those already drawn stay.
        ResourceError: The disk is full, or the card too small for one picture.
    """
    run = resolve(settings)
    base = run.base
    lora_path = lora.path if isinstance(lora, Lora) else Path(lora).expanduser() if lora else None
    if lora_path and not lora_path.is_file():
        raise LoraError(
            f"There is no LoRA at {lora_path}: run the training cell again, or give the path of a lora.safetensors."
        )
    folder = folder or run.folder / ("story" if lora_path else "base")
    if missing := artifacts.free_space_needed(folder, len(story) * run.resolution**2 * 8):
        raise ResourceError(
            f"The disk of {folder} lacks {missing / 1e6:,.0f} MB for {len(story)} pictures: free some space or set output to another disk."
        )
    common = {
        "base": base.name,
        "pipeline": base.pipeline,
        "base_fingerprint": run.base_fingerprint,
        "lora": artifacts.digest_of_file(lora_path) if lora_path else None,
        "width": run.resolution,
        "height": run.resolution,
        "steps": run.num_inference_steps,
        "guidance_scale": run.guidance_scale,
        "guidance_end": run.guidance_end,
        "sampler": "DPM++ 2M",
        "schedule_type": base.schedule_type,
        "precision": run.plan.precision,
        "versions": artifacts.versions(*PACKAGES),
    }
    if base.prediction_type != "epsilon":
        common |= {
            "prediction_type": base.prediction_type,
            "zero_terminal_snr": base.zero_terminal_snr,
        }
    if run.clip_skip:
        common["clip_skip"] = run.clip_skip
    if lora_path and trains_text(lora_path):
        common["lora_text_encoder"] = True
    if base.checkpoint is None and base.name not in bases.names():
        common["layout"] = (
            "diffusers"  # a folder of one's own, which ComfyUI loads by another node than a file
        )
    panels = [panel | common for panel in story.resolved(run.seed)]
    references, keeper = _guides(run, story, folder)
    for place, panel in enumerate(panels):
        panel |= {"reference": references[place].facts} if references[place] else {}
        panel |= keeper.facts(place, panels[0]) if keeper else {}
        panel["fingerprint"] = artifacts.fingerprint(stage="panel", **panel)
    before = {
        entry["file"]: entry for entry in (artifacts.read_manifest(folder) or {}).get("panels", [])
    }
    todo = [place for place, panel in enumerate(panels) if not _drawn(folder, place, panel, before)]
    mark = artifacts.fingerprint(stage="render", panels=[panel["fingerprint"] for panel in panels])
    if not todo and artifacts.finished(folder, mark):
        pictures = Pictures(
            folder, [before[f"panel-{place}.png"] for place in range(1, len(panels) + 1)]
        )
        print(f"render: nothing to do, {pictures}")
        return pictures
    folder.mkdir(parents=True, exist_ok=True)
    entries = _draw(run, lora_path, panels, todo, before, folder, references, keeper, chunks)
    _finish(folder, mark, entries)
    pictures = Pictures(folder, entries)
    print(f"render: drew {len(todo)} of {len(panels)} panels, {pictures}")
    return pictures


def _guides(run: Run, story: Story, folder: Path) -> tuple[list, object]:
    """Each panel's reference, checked, or None; and what keeps the character, or None."""
    references = [None] * len(story)
    if any(panel.reference for panel in story):
        from storyboard.rendering import controlnet

        references = [
            panel.reference
            and controlnet.prepare(run.base, panel.reference, place, run.num_inference_steps)
            for place, panel in enumerate(story, 1)
        ]
    if run.character is None:
        return references, None
    from storyboard.rendering import character

    return references, character.prepare(run, folder / "panel-1.png", references)


def _followed(panel: dict) -> list[str]:
    """Files beside the panel's that hold what it followed."""
    return [
        panel[kind]["file"] for kind in ("reference", "heroine") if "file" in panel.get(kind, {})
    ]


def _drawn(folder: Path, place: int, panel: dict, before: dict) -> bool:
    name = f"panel-{place + 1}.png"
    entry, path = before.get(name), folder / name
    whole = path.is_file() and all((folder / guide).is_file() for guide in _followed(panel))
    return (
        bool(entry)
        and whole
        and entry["fingerprint"] == panel["fingerprint"]
        and path.stat().st_size == entry["bytes"]
    )


def _draw(
    run: Run,
    lora: Path | None,
    panels: list[dict],
    todo: list[int],
    before: dict,
    folder: Path,
    references: list,
    keeper,
    chunks: Callable[[dict], Mapping[str, str]] | None,
) -> list[dict]:
    """Draw the panels of ``todo`` in batches; the manifest follows every batch, so that a break loses one at most."""
    from storyboard import show
    from storyboard.lora import attaching
    from storyboard.models import conditioning
    from storyboard.rendering import sampling
    from storyboard.rendering.renderer import Guides

    entries = {
        place: before[f"panel-{place + 1}.png"] for place in range(len(panels)) if place not in todo
    }
    if keeper and keeper.source:
        _write(folder / keeper.FILE, keeper.picture())
    if todo:
        words = [
            panels[place][key]
            for place in {*todo, *([0] if keeper else [])}
            for key in ("prompt", "negative_prompt")
        ]
        if lora:
            attaching.check(run.base, lora)  # before the text encoders are loaded
        said = conditioning.encode(run, words, adapter=attaching.text_adapter(run.base, lora))
        tensors = {"lora_tensors": data_digest(lora)} if lora else {}
        for place in todo:
            panels[place] |= tensors | _chunks(panels[place], said, run.base.text_length)
        guides = Guides(run, sampling.load_pipeline(run.base, run.plan, lora), references, keeper)
        steps = run.num_inference_steps

        def draw(batch: list[int]) -> None:
            start = len(entries) - len(panels) + len(todo)
            for place in batch:
                if "reference" in panels[place]:
                    _write(folder / panels[place]["reference"]["file"], guides.reference(place))
            images = guides.draw(
                batch,
                panels,
                said,
                on_step=lambda step: live.step(start * steps + step * len(batch)),
            )
            saved = {
                place: writer.submit(_save, folder, place, image, panels[place], chunks)
                for place, image in zip(batch, images, strict=True)
            }  # while the next is decoded
            beside = guides.beside(batch)
            # the arithmetic depends on the batch's size, tokens and tiles alone: these make a picture again bit for bit
            length = conditioning.common_length(
                _lengths([panels[place] for place in [*range(beside), *batch]], said)
            )
            repeated = (
                {"chunks": {}} if length > run.base.text_length else {}
            )  # empty where its own prompts are short
            for row, place in enumerate(batch, beside):
                drawn = {
                    "batch": len(batch) + beside,
                    "row": row,
                    "text_length": length,
                    "vae_tiling": run.plan.vae_tiling,
                }
                entries[place] = repeated | saved[place].result() | drawn
            live.picture(
                f"panel {', '.join(str(place + 1) for place in batch)}",
                [folder / f"panel-{place + 1}.png" for place in batch],
            )
            artifacts.write_manifest(
                folder, "render", "unfinished", panels=[entries[place] for place in sorted(entries)]
            )

        with show.Live("render", steps * len(todo)) as live, ThreadPoolExecutor(1) as writer:
            for part in guides.parts(todo):
                for alike in _of_alike_lengths(part, panels, said, run.base.text_length):
                    _in_batches(alike, guides.at_once(alike), draw)
        if told := guides.cost():
            print(told, flush=True)
    return [entries[place] for place in range(len(panels))]


def _lengths(panels: list[dict], said: dict) -> list[int]:
    """Tokens of each prompt and negative prompt of ``panels``."""
    return [len(said[panel[key]].tokens) for panel in panels for key in TEXTS]


def _chunks(panel: dict, said: dict, text_length: int) -> dict:
    """``{"chunks": ...}``, the parts of each prompt of ``panel`` that is longer than CLIP reads at once; else {}."""
    found = {
        key: list(said[panel[key]].chunks)
        for key in TEXTS
        if len(said[panel[key]].tokens) > text_length
    }
    return {"chunks": found} if found else {}


def _of_alike_lengths(
    part: list[int], panels: list[dict], said: dict, text_length: int
) -> list[list[int]]:
    """``part`` whole, or, where the prompts' common length would grow too large, in parts of one length each."""
    from storyboard.models.conditioning import MOST_CHUNKS

    if math.lcm(*_lengths([panels[place] for place in part], said)) <= MOST_CHUNKS * text_length:
        return [part]
    alike: dict[int, list[int]] = {}
    for place in part:
        alike.setdefault(math.lcm(*_lengths([panels[place]], said)), []).append(place)
    return list(alike.values())


def _in_batches(todo: list[int], size: int, draw: Callable[[list[int]], None]) -> None:
    """``draw`` all of ``todo``, ``size`` at once; where memory runs out, half as many.

    Raises:
        ResourceError: Not even one picture fits.
    """
    import torch

    start = 0
    while start < len(todo):
        batch = todo[start : start + size]
        try:
            draw(batch)
            start += len(batch)
            continue
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise ResourceError(
                    "The memory of the card is too small for one picture: lower resolution, or set offload=True and vae_tiling=True, and run this cell again; panels that are drawn stay."
                ) from error
            size = (len(batch) + 1) // 2
            print(f"render: out of memory, going on with {size} panels at once", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _save(folder: Path, place: int, image, panel: dict, chunks) -> dict:
    name = f"panel-{place + 1}.png"
    return panel | {
        "file": name,
        "bytes": _write(folder / name, image, png.info(panel, chunks(panel) if chunks else None)),
    }


def _write(path: Path, image, info=None) -> int:
    """Save as PNG; returns its bytes."""
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=info)
    artifacts.write_atomically(path, content.getvalue())
    return len(content.getvalue())


def _finish(folder: Path, mark: str, entries: list[dict]) -> None:
    """Grid, ``story.json`` and manifest; pictures of an earlier story that this one lacks go."""
    from PIL import Image

    from storyboard import show

    pictures = Pictures(folder, entries)
    for path in [*folder.glob("panel-*.png"), *folder.glob("heroine.png")]:
        if path not in pictures.paths + pictures.guides:
            path.unlink()
    _write(folder / "story.png", show.grid([Image.open(path) for path in pictures.paths]))
    artifacts.write_json(folder / "story.json", {"panels": entries})
    artifacts.write_manifest(folder, "render", mark, panels=entries)
