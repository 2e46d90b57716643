"""A story's pictures on disk: how files are called, and how they are written and read back."""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from storyboard import artifacts, images, png
from storyboard.records import PanelRecord, RecordError, is_version_1

# further text chunks of a panel's PNG, by name
TextChunks = Callable[[PanelRecord], Mapping[str, str]]
OLD_FILES = ("heroine.png",)  # that an earlier version wrote beside the panels


@dataclass(frozen=True)
class Pictures:
    """The story's pictures on disk.

    Attributes:
        folder: Holds ``panel-1.png`` and so on, ``story.png`` (the grid) and ``story.json``; for a
            panel with a reference what it followed, ``panel-1-reference.png``, and
            ``character.png`` where ``character_picture`` was given.
        panels: What each was made from.
    """

    folder: Path
    panels: list[PanelRecord] = field(repr=False)

    @property
    def paths(self) -> list[Path]:
        """The panels in order."""
        return [self.folder / panel_file(index) for index in range(len(self.panels))]

    @property
    def reference_paths(self) -> list[Path]:
        """What panels followed beside their prompts: references and the character's picture."""
        names = {name for panel in self.panels for name in reference_files(panel)}
        return [self.folder / name for name in sorted(names)]

    @property
    def grid(self) -> Path:
        """All panels in one picture."""
        return self.folder / "story.png"

    def __str__(self) -> str:
        return f"{len(self.panels)} pictures in {self.folder}, the grid in {self.grid}"

    def _repr_html_(self) -> str:
        from storyboard import show

        prompts = [panel.prompt for panel in self.panels]
        return show.story(list(zip(self.paths, prompts, strict=True)))


def panel_file(index: int) -> str:
    """The name of the PNG of panel ``index``, from 0."""
    return f"panel-{index + 1}.png"


def reference_files(panel: PanelRecord) -> list[str]:
    """Names of the files beside the panel that hold what it followed."""
    followed = (panel.reference, panel.character)
    return [each.file for each in followed if each and each.file]


def drawn_by_earlier_version(folder: Path) -> bool:
    """Whether the manifest of ``folder`` has panels of an earlier form of records."""
    return any(map(is_version_1, _entries(folder)))


def kept_panels(folder: Path, records: Sequence[PanelRecord]) -> dict[int, PanelRecord]:
    """Those of ``records`` that are drawn in ``folder``, with how they were drawn, by index.

    A panel whose record in the manifest cannot be read counts as not drawn.
    """
    drawn = {}
    for entry in _entries(folder):
        with contextlib.suppress(RecordError):
            record = PanelRecord.from_json(entry)
            if record.drawn:
                drawn[record.drawn.file] = record.drawn

    kept = {}
    for index, record in enumerate(records):
        how = drawn.get(panel_file(index))
        if how is None or how.fingerprint != record.fingerprint():
            continue
        names = [panel_file(index), *reference_files(record)]
        is_whole = all((folder / name).is_file() for name in names)
        if is_whole and (folder / names[0]).stat().st_size == how.bytes:
            kept[index] = record.model_copy(update={"drawn": how})
    return kept


def _entries(folder: Path) -> list[object]:
    """The panels in the manifest of ``folder``."""
    return (artifacts.read_manifest(folder) or {}).get("panels", [])


def save_panel(
    folder: Path,
    index: int,
    image: Image.Image,
    record: PanelRecord,
    text_chunks: TextChunks | None = None,
) -> PanelRecord:
    """Write the PNG of panel ``index``; returns ``record`` with its file and bytes."""
    further = text_chunks(record) if text_chunks else None
    size = write_image(folder / panel_file(index), image, png.info(record, further))
    drawn = record.drawn and record.drawn.model_copy(
        update={"file": panel_file(index), "bytes": size}
    )
    return record.model_copy(update={"drawn": drawn})


def write_image(path: Path, image: Image.Image, info: PngInfo | None = None) -> int:
    """Write a whole PNG or none; returns its bytes."""
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=info)
    artifacts.write_atomically(path, content.getvalue())
    return len(content.getvalue())


def write_manifest(folder: Path, fingerprint: str, panels: list[PanelRecord]) -> None:
    """Write ``manifest.json`` with the panels that are drawn."""
    entries = [panel.to_json() for panel in panels]
    artifacts.write_manifest(folder, "render", fingerprint, panels=entries)


def finish(folder: Path, fingerprint: str, panels: list[PanelRecord]) -> Pictures:
    """Write grid, ``story.json`` and manifest; remove pictures of an earlier story."""
    from storyboard import show

    pictures = Pictures(folder, panels)
    kept = {path.name for path in (*pictures.paths, *pictures.reference_paths)}
    for pattern in ("panel-*.png", "character.png", *OLD_FILES):
        for path in folder.glob(pattern):
            if path.name not in kept:
                path.unlink()

    panels_drawn = [images.read(path).image for path in pictures.paths]
    write_image(pictures.grid, show.grid(panels_drawn))
    artifacts.write_json(folder / "story.json", {"panels": [panel.to_json() for panel in panels]})
    write_manifest(folder, fingerprint, panels)
    return pictures
